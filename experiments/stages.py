"""Fit a linear probe after every stage of networks: what each stage knows about your images.

    python -m experiments.stages DIR --model resnet18 plain18

Prints the accuracy of each probe, how far to unfreeze the network, and what more images would add.
experiments.transfer prints the same after its linear probe.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import doing


@dataclass(frozen=True)
class Options:
    """Fit a linear probe after every stage of networks: what each stage knows about your images."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """A folder, as for experiments.transfer; or a dataset by name: hymenoptera or cifar10."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("resnet18",)
    """Any model of the zoo, plain ones included. Give several to compare them."""
    weights: str = "DEFAULT"
    """A published name, a FILE, a URL, hf:OWNER/NAME, or none. A plain network loads its own
    published ones (plain56: CIFAR10_LI), or its twin's, with which it was never trained."""
    preprocess: cli.Preprocess = None
    """How images were prepared for --weights, if the file does not say: as in predict --help."""
    size: cli.Pixels = None
    """Side of the network's input images (default: what the weights expect)."""
    squash: bool = False
    """Use the whole image, squashed to a square, not its centre crop."""
    train_images: cli.Count = None
    """Use at most this many training images, with balanced classes."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded, instead of stopping."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""
    output_dir: cli.Folder = None
    """Folder of the results (default: runs/stages-DIR)."""


def main(options: Options) -> None:
    """Probe every network, then print and draw what is found."""
    with doing("loading the libraries"):
        from data.collection import Source, identity, open_dataset
        from experiments.classifier import CORES, FP32
        from experiments.plumbing.device import choose_device, make_deterministic
        from experiments.plumbing.distributed import ALONE
        from experiments.plumbing.results import lock
        from experiments.plumbing.tables import Results
        from experiments.transfer import comparison, stages
        from experiments.transfer.figures import draw_stages
        from experiments.transfer.options import Options as TransferOptions
        from experiments.transfer.plan import check_options, plan

    asked = TransferOptions(strategy=("linear-probe",), seeds=1, **vars(options))
    check_options(asked)
    device, why = choose_device(options.device)
    make_deterministic(device, threads=None)
    print(f"Device {why}")
    with doing(f"listing the images in {options.data}"):
        source = Source(options.data, options.train_images, None, options.skip_bad)
        dataset = open_dataset(source, CORES, CORES if device.type == "cuda" else 0)
    with doing("looking for near-duplicates in different splits"):
        dataset.check_near_duplicates(skip=False)
    comparison.say_what(dataset)
    comparison.say_weights(asked)
    folder = comparison.folder_of(options, "stages")
    with lock(folder):
        runs = plan(asked, dict.fromkeys(options.model, FP32), identity(dataset))
        found = comparison.probe_networks(runs, dataset, folder, device)
        comparison.say_notes(dataset, ALONE)  # decoding may have left out images
        figure = folder / "stages.png"
        draw_stages(figure, stages.read(folder))  # also what earlier calls probed
    Results([], stages.report_of_stages(found), [figure], folder).show()


if __name__ == "__main__":
    cli.run(main, Options, "stages", resumes=True)
