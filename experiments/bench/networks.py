"""Rows of `make bench`: inference, training, augmentation, deletions of blocks, loading."""

import hashlib
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

import zoo
from data.augment import crop_flip
from data.batches import TensorBatches, channel_normalize
from data.synthetic import synthetic
from experiments.anatomy.chain import ReadOut, blocks_of, prefixes, through, without
from experiments.bench import timing
from experiments.bench.timing import CPU, EAGER, Comparison, compare_steps, same, step_of
from experiments.plumbing.device import has_bf16
from experiments.proof.checks import shake
from zoo.networks import Network
from zoo.resnet import ResNet


def drawn_batches(count: int, device: torch.device = CPU) -> TensorBatches:
    """`count` batches of 128 synthetic 32x32 images per epoch."""
    dataset = synthetic(train=count * 128, test=10)
    normalize = channel_normalize(dataset.train_images)
    return TensorBatches(dataset, normalize, 128, 0, device, input_size=32, padding=4)


def compare_training() -> Comparison:
    """A training step of ResNet-20: eager fp32 / as --precision auto chooses."""
    model = zoo.build("resnet20")
    title = "ResNet-20 training step, batch 128 at 32: eager fp32 NCHW"
    return compare_steps(title, deepcopy(model), model, drawn_batches(1))


def compare_augmentation() -> Comparison:
    """Random crops and flips of 20 batches: torchvision on PIL images / crop_flip()."""
    batches = drawn_batches(20)
    images, normalize = batches.images, batches.normalize
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    mean, std = normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    pipeline = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), finish]
    )
    # Compared at one offset: the centre crop, not flipped, is the image itself.
    middle = torch.full((len(images),), 4)
    ours = crop_flip(normalize(images), middle, middle, torch.zeros_like(middle).bool(), 4)
    theirs = torch.stack([finish(Image.fromarray(array)) for array in arrays])
    difference = float((ours - theirs).abs().max())
    same(difference, 0, 1e-5)

    def usual() -> None:
        for first in range(0, len(arrays), 128):
            torch.stack([pipeline(Image.fromarray(a)) for a in arrays[first : first + 128]])

    def gather() -> None:
        for step in range(len(batches)):
            batches.batch(step)

    title = "augmentation, 20 batches of 128: torchvision on PIL images / one gather per batch"
    return Comparison(title, usual, gather, f"same pixels within {difference:.0e}")


def both_networks(name: str, classes: int = 1000) -> tuple[nn.Module, Network]:
    """torchvision's network and ours, with the same random weights (a new ViT's head is 0)."""
    theirs = torchvision.models.get_model(name, num_classes=classes)
    shake(theirs)
    return theirs, zoo.load(zoo.build(name, classes), theirs.state_dict())


def compare_network(name: str, batch_size: int, tolerance: float = 0) -> Comparison:
    """Forward and backward pass, both in eager fp32: torchvision / ours."""
    batch = torch.randn(batch_size, 3, 224, 224), torch.arange(batch_size)
    usual, ours = (step_of(model, batch, EAGER) for model in both_networks(name))
    losses = usual(), ours()
    same(*losses, tolerance)
    title = f"{name} forward and backward, batch {batch_size} at 224: torchvision / ours, both fp32"
    return Comparison(title, usual, ours, f"losses {losses[0]:.6f}, {losses[1]:.6f}")


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits float32 (N, K), in eval mode."""
    return model.eval()(images)


def compare_inference(name: str, batch_size: int = 8) -> Comparison:
    """Logits: torchvision, eager fp32 / for_inference, compiled; bf16 if the hardware has it."""
    theirs, model = both_networks(name)
    theirs.train()
    images = torch.randn(batch_size, 3, 224, 224)
    if isinstance(model, ResNet):  # statistics that belong to the weights, so logits are ordinary
        for _ in range(3):
            theirs(images).detach()
        zoo.load(model, theirs.state_dict())
    dtype = torch.bfloat16 if has_bf16(CPU) else torch.float32
    fast = zoo.for_inference(model, dtype, compiled=True)
    usual, ours = partial(logits_of, theirs, images), partial(logits_of, fast, images)
    expected = usual()
    difference = float((expected - ours()).abs().max() / expected.abs().max())
    same(difference, 0, 0.05 if dtype == torch.bfloat16 else 1e-5)
    how = f"for_inference, {dtype}".replace("torch.", "") + ", compiled" * fast.compiled
    title = f"{name} inference, batch {batch_size} at 224: torchvision, eager fp32 / {how}"
    return Comparison(title, usual, ours, f"logits within {difference:.1e} of the largest")


def compare_loading(hashed: bool) -> Comparison:
    """ResNet-50 from a file: torchvision / ours. If `hashed`, ours checks the hash in its name."""
    path = timing.scratch_folder() / "resnet50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    if hashed:
        digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        path = path.rename(path.with_stem(f"resnet50-{digits}"))

    def usual() -> nn.Module:
        model = torchvision.models.resnet50()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model

    def ours() -> nn.Module:
        return zoo.build("resnet50", weights=path)

    theirs, loaded = usual().state_dict(), zoo.export(zoo.build("resnet50", weights=path))
    equal = [torch.equal(value, loaded[key]) for key, value in theirs.items()]
    same(sum(equal), len(loaded), 0)
    title = "resnet50 from a file: torchvision / ours" + " with its SHA-256 checked" * hashed
    return Comparison(title, usual, ours, f"{len(theirs)} equal entries")


def compare_lesions() -> Comparison:
    """The logits without each block: the whole network each time / from each block's input."""
    model = zoo.build("resnet56")
    assert isinstance(model, ResNet)
    shake(model)
    stem, *blocks, read_out = model.eval().stem, *blocks_of(model).values(), ReadOut(model)
    images = drawn_batches(1).batch(0)[0][:8]

    def usual() -> list[Tensor]:
        lesions = ([*blocks[:k], without(b), *blocks[k + 1 :]] for k, b in enumerate(blocks))
        return [through([stem, *layers, read_out], images) for layers in lesions]

    def ours() -> list[Tensor]:
        return [
            through([without(blocks[k - 1]), *blocks[k:], read_out], x)
            for k, (x,) in prefixes([stem, *blocks], images)
        ]

    difference = max(float((a - b).abs().max()) for a, b in zip(usual(), ours(), strict=True))
    same(difference, 0, 0)
    title = f"the {len(blocks)} deletions of one block of ResNet-56: each from the images / cached"
    return Comparison(title, usual, ours, f"largest difference {difference:g}")


COMPARISONS: dict[str, Callable[[], Comparison]] = {
    "inference-resnet18": partial(compare_inference, "resnet18"),
    "inference-resnet50": partial(compare_inference, "resnet50", 4),
    "inference-vit_b_16": partial(compare_inference, "vit_b_16", 4),
    "training-resnet20": compare_training,
    "same-resnet18": partial(compare_network, "resnet18", 4),
    "same-resnet50": partial(compare_network, "resnet50", 2),
    "same-vit_b_16": partial(compare_network, "vit_b_16", 2, 1e-6),
    "augmentation": compare_augmentation,
    "deletions": compare_lesions,
    "loading": partial(compare_loading, hashed=False),
    "loading-hashed": partial(compare_loading, hashed=True),
}
