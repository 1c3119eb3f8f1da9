"""Speed as ratios: the usual way against ours, in one process, on one thread, in turns.

    python -m experiments.bench

Seconds differ from machine to machine and from minute to minute; the ratio of two things timed in
turns does so far less. Each comparison first checks what both sides must have in common: losses,
pixels, features or logits.
"""

import atexit
import hashlib
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision import transforms

import zoo
from data.augment import crop_flip
from data.batches import Batches, channel_normalize
from data.synthetic import synthetic
from experiments.bench.timing import Comparison, forward_and_backward, ratios, same, training_step
from experiments.bench.transfer import TRANSFER_COMPARISONS
from experiments.bench.vit import VIT_COMPARISONS, images_per_second
from experiments.plumbing import cli
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.precision import choose_precision, name, to_layout
from experiments.plumbing.progress import doing
from experiments.train import Settings

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Options:
    """Print speed ratios against PyTorch's and torchvision's usual ways."""

    rounds: int = 7
    """How often each side is timed, in turns (5 or more)."""


def compare_training() -> Comparison:
    """ResNet-20, batch 128, 32x32: eager fp32 in NCHW against what --precision auto chooses."""
    dataset = synthetic(train=128, test=10)
    normalize = channel_normalize(dataset.train_images)
    batches = Batches(dataset, normalize, 128, 0, CPU, input_size=32, padding=4)
    eager = Settings(precision="fp32", channels_last=False)
    torch.manual_seed(0)
    chosen, _ = choose_precision("auto", zoo.build("resnet20"), batches, eager, CPU)

    def steps(settings: Settings) -> Callable:
        torch.manual_seed(0)
        return training_step(
            to_layout(zoo.build("resnet20"), settings), *batches.batch(0), settings
        )

    losses = [steps(s)() for s in (eager, replace(chosen, precision="fp32"), chosen)]
    same(losses[0], losses[1], 1e-5)
    same(losses[0], losses[2], 1e-2)
    checked = f"losses {losses[0]:.5f}, fp32 {losses[1]:.5f}, {name(chosen)} {losses[2]:.5f}"
    return Comparison(
        f"ResNet-20 training step, batch 128: eager fp32 NCHW / {name(chosen)}",
        steps(eager), steps(chosen), checked,
    )  # fmt: skip


def compare_augmentation() -> Comparison:
    """Crop, flip, normalise 20 batches of 128: torchvision on PIL images / one gather a batch."""
    count = 20 * 128
    dataset = synthetic(train=count, test=10)
    normalize = channel_normalize(dataset.train_images)
    batches = Batches(dataset, normalize, 128, 0, CPU, input_size=32, padding=4)
    arrays = dataset.train_images.permute(0, 2, 3, 1).contiguous().numpy()
    mean, std = normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()
    finish = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    pipeline = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *finish]
    )
    # Equal once the offsets are: the middle crop, not flipped, is the picture itself.
    middle, no = torch.full((count,), 4), torch.zeros(count, dtype=torch.bool)
    ours = crop_flip(normalize(dataset.train_images), middle, middle, no, 4)
    theirs = torch.stack([transforms.Compose(finish)(Image.fromarray(a)) for a in arrays])
    difference = float((ours - theirs).abs().max())
    same(difference, 0, 1e-5)

    def usual() -> None:
        for first in range(0, count, 128):
            chosen = arrays[first : first + 128]
            torch.stack([pipeline(Image.fromarray(array)) for array in chosen])

    def gather() -> None:
        for step in range(len(batches)):
            batches.batch(step)

    return Comparison(
        "augmentation, 20 batches of 128: torchvision on PIL images / one gather a batch",
        usual, gather, f"same pixels within {difference:.0e}",
    )  # fmt: skip


def compare_network(model_name: str, batch_size: int) -> Comparison:
    """Forward and backward at 224x224, same seed: torchvision's network / ours."""
    images, labels = torch.randn(batch_size, 3, 224, 224), torch.arange(batch_size)

    def passes(build: Callable[[str], nn.Module]) -> Callable[[], float]:
        torch.manual_seed(0)
        return forward_and_backward(build(model_name), images, labels)

    usual, ours = passes(torchvision.models.get_model), passes(zoo.build)
    losses = usual(), ours()
    same(*losses, 0)
    return Comparison(
        f"{model_name} forward and backward, batch {batch_size} at 224: torchvision / ours",
        usual, ours, f"equal losses, {losses[0]:.5f}",
    )  # fmt: skip


def compare_loading(hashed: bool) -> Comparison:
    """A resnet50 from a file on the disk; with a hash in the file's name, ours compares it."""
    folder = Path(tempfile.mkdtemp(prefix="skipzoo-bench-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / "resnet50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    if hashed:
        digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        path = path.rename(folder / f"resnet50-{digits}.pth")

    def usual() -> nn.Module:
        model = torchvision.models.resnet50()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model

    def ours() -> nn.Module:
        return zoo.build("resnet50", weights=path)

    theirs, loaded = usual().state_dict(), zoo.export(zoo.build("resnet50", weights=path))
    equal = [torch.equal(value, loaded[key]) for key, value in theirs.items()]
    same(sum(equal), len(loaded), 0)
    return Comparison(
        "resnet50 from a file: torchvision / ours" + (" with its SHA-256 checked" * hashed),
        usual, ours, f"{len(theirs)} equal entries",
    )  # fmt: skip


COMPARISONS: tuple[Callable[[], Comparison], ...] = (
    compare_training,
    compare_augmentation,
    lambda: compare_network("resnet18", 8),
    lambda: compare_network("resnet50", 4),
    lambda: compare_loading(hashed=False),
    lambda: compare_loading(hashed=True),
    *TRANSFER_COMPARISONS,
    *VIT_COMPARISONS,
)


def main(options: Options) -> None:
    cli.check_numbers(options, {"rounds": (5, 1000)})
    make_deterministic(CPU)
    print(f"usual / ours, {options.rounds} rounds in turns, one thread; above 1 ours is faster")
    table = Table("comparison", "min", "median", "max", "ours, ms", "equal?", show_lines=True)
    for number, make in enumerate(COMPARISONS, 1):
        with doing(f"comparison {number} of {len(COMPARISONS)}"):
            comparison = make()
            quotients, seconds = ratios(comparison, options.rounds)
        table.add_row(
            comparison.title,
            *(f"{f(quotients):.2f}" for f in (min, statistics.median, max)),
            f"{1000 * statistics.median(seconds):.1f}",
            comparison.checked,
        )
    Console().print(table)
    if torch.cuda.is_available():
        print(f"on {torch.cuda.get_device_name()}:")
        print("\n".join(images_per_second(torch.device("cuda"))))


if __name__ == "__main__":
    cli.run(main, Options, "bench")
