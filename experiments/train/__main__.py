"""Train one network on synthetic images, and print one line per epoch; nothing is saved.

    python -m experiments.train resnet20

This is the shortest use of the training loop. Read loop.py first.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import NumericError, doing

SIZE = 12  # side in pixels, as in `make ablation`: training takes half a minute on a laptop


@dataclass(frozen=True)
class Options:
    """Train one network on synthetic images, print one line per epoch, and save nothing."""

    model: tyro.conf.Positional[str] = "resnet20"
    """A name of zoo.list_models()."""
    epochs: int = 5
    """Passes over the 4,000 training images."""
    lr: float = 0.03
    """The highest learning rate of the schedule."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def main(options: Options) -> None:
    """Train the network, and print losses and errors after every epoch."""
    cli.check_numbers(options, {"epochs": (1, 100_000), "lr": (1e-30, 1e30)})
    with doing("loading the libraries"):
        import torch

        import zoo
        from data.batches import TensorBatches, channel_normalize, whole_images
        from data.synthetic import synthetic
        from experiments.plumbing.device import (
            choose_device,
            keep_freed_memory,
            make_deterministic,
        )
        from experiments.train.loop import Diverged, Settings, evaluate, start, train
    zoo.check(options.model, {})
    is_vit = "image_size" in zoo.settings_allowed(options.model)
    settings_of_model: dict[str, Any] = {"image_size": SIZE} if is_vit else {}
    zoo.check(options.model, settings_of_model)  # a ViT's images have to divide into patches
    device, why = choose_device(options.device)
    print(f"{options.model}, 4,000 training and 1,000 test images, {SIZE}x{SIZE}; device {why}")
    keep_freed_memory()
    make_deterministic(device)  # with one thread, which is faster for so small a network
    with doing("drawing the images"):
        dataset = synthetic(4000, 1000).resized(SIZE)
    normalize = channel_normalize(dataset.train_images)
    batches = TensorBatches(dataset, normalize, 32, 0, device, input_size=SIZE, padding=1)
    settings = Settings(
        options.epochs * len(batches), 32, "triangle", options.lr,
        channels_last=device.type != "mps",  # batch norm's gradients: plumbing/precision.py
    )  # fmt: skip
    torch.manual_seed(0)
    model = zoo.build(options.model, len(dataset.classes), **settings_of_model)
    state = start(model.to(device), settings)
    test = partial(whole_images, dataset.test_images, dataset.test_labels, normalize, 500)
    try:
        for _ in train(batches, settings, state):
            if state.step % len(batches) == 0:
                test_loss, test_error = evaluate(state.model, test(device, SIZE), settings)
                print(
                    f"epoch {state.step // len(batches)} of {options.epochs}: "
                    f"training loss {float(state.loss_sum) / state.seen:.3f}, "
                    f"error {100 * int(state.wrong) / state.seen:.1f} %; "
                    f"test loss {test_loss:.3f}, error {100 * test_error:.1f} %"
                )
    except Diverged as error:
        raise NumericError(str(error), f"--lr {options.lr}", "give a lower --lr") from None


if __name__ == "__main__":
    cli.run(main, Options, "train")
