"""The networks' rows of `make bench`: training, augmentation, against torchvision, loading."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import transforms

import zoo
from data.augment import crop_flip
from data.batches import Batches, channel_normalize
from data.synthetic import synthetic
from experiments.bench.timing import (
    CPU,
    Comparison,
    forward_and_backward,
    same,
    scratch_folder,
    training_step,
)
from experiments.plumbing.precision import choose_precision, name, to_layout
from experiments.proof.checks import shake
from experiments.train import Settings, forward

BF16 = Settings(precision="bf16", channels_last=True)


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


def networks(model_name: str) -> tuple[nn.Module, nn.Module]:
    """torchvision's and ours with the same weights; shaken: a fresh ViT's head is zero."""
    theirs = torchvision.models.get_model(model_name)
    shake(theirs)
    return theirs, zoo.load(zoo.build(model_name), theirs.state_dict())


def compare_network(model_name: str, batch_size: int, tolerance: float = 0) -> Comparison:
    """Forward and backward at 224x224: torchvision's network / ours."""
    images, labels = torch.randn(batch_size, 3, 224, 224), torch.arange(batch_size)
    usual, ours = (forward_and_backward(m, images, labels) for m in networks(model_name))
    losses = usual(), ours()
    same(*losses, tolerance)
    return Comparison(
        f"{model_name} forward and backward, batch {batch_size} at 224: torchvision / ours",
        usual, ours, f"losses {losses[0]:.6f}, {losses[1]:.6f}",
    )  # fmt: skip


def compare_inference(batch_size: int) -> Comparison:
    """vit_b_16 without gradients: fp32 eager / bf16."""
    _, model = networks("vit_b_16")
    images = torch.randn(batch_size, 3, 224, 224)
    half = zoo.load(zoo.build("vit_b_16"), model.state_dict()).bfloat16()

    def logits(network: nn.Module, dtype: torch.dtype) -> Callable[[], Tensor]:
        shown = images.to(dtype)

        def run() -> Tensor:
            with torch.no_grad():
                return network.eval()(shown).float()

        return run

    usual, ours = logits(model, torch.float32), logits(half, torch.bfloat16)
    wanted = usual()
    difference = float((wanted - ours()).abs().max() / wanted.abs().max())
    same(difference, 0, 0.05)
    return Comparison(
        f"vit_b_16 inference, batch {batch_size} at 224: ours in fp32 / ours in bf16",
        usual, ours, f"logits within {difference:.1%} of the largest",
    )  # fmt: skip


def compare_loading(hashed: bool) -> Comparison:
    """A resnet50 from a file on the disk; with a hash in the file's name, ours compares it."""
    folder = scratch_folder()
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


def images_per_second(device: torch.device, batch: int = 128, seconds: float = 5.0) -> list[str]:
    """For a GPU: both networks in one run, in turns, training steps and inference under bf16."""
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.arange(batch, device=device)
    names = ("torchvision", "ours")
    pair = {side: model.to(device) for side, model in zip(names, networks("vit_b_16"), strict=True)}
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def train(model: nn.Module) -> None:
        cross_entropy(forward(model.train(), images, BF16), labels).backward()

    def infer(model: nn.Module) -> None:
        with torch.no_grad():
            forward(model.eval(), images, BF16)

    lines = []
    for word, action in (("training", train), ("inference", infer)):
        counts = dict.fromkeys(pair, 0)
        spent = dict.fromkeys(pair, 0.0)
        for model in pair.values():
            action(model)  # warm up
        while min(spent.values()) < seconds:
            for side, model in pair.items():
                finish()
                begin = time.perf_counter()
                action(model)
                finish()
                spent[side] += time.perf_counter() - begin
                counts[side] += batch
        rates = {side: counts[side] / spent[side] for side in pair}
        said = ", ".join(f"{side} {rate:,.0f}" for side, rate in rates.items())
        lines.append(f"vit_b_16 {word}, bf16, batch {batch}, images/s: {said}")
    return lines


COMPARISONS: tuple[Callable[[], Comparison], ...] = (
    compare_training,
    compare_augmentation,
    lambda: compare_network("resnet18", 8),
    lambda: compare_network("resnet50", 4),
    lambda: compare_network("vit_b_16", 8, tolerance=1e-6),
    lambda: compare_inference(8),
    lambda: compare_loading(hashed=False),
    lambda: compare_loading(hashed=True),
)
