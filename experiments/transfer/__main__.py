"""Compare transfer-learning strategies, and training from scratch, on your images.

    python -m experiments.transfer DIR                          all strategies, resnet18, 3 seeds
    python -m experiments.transfer DIR --strategy finetune      one strategy
    torchrun --nproc-per-node 2 -m experiments.transfer DIR     two processes

DIR has train/CLASS/*.jpg and val/ or test/ or both; or one folder per class; or it is `cifar10`.
To classify images with the result: python -m experiments.predict CHECKPOINT IMAGES
"""

from experiments.plumbing import cli
from experiments.plumbing.cli import doing
from experiments.transfer.options import Options


def main(options: Options) -> None:
    """Import the libraries, then compare the strategies."""
    with doing("loading the libraries"):
        from experiments.plumbing.device import keep_freed_memory
        from experiments.transfer import comparison
    keep_freed_memory()
    if results := comparison.carry_out(options):
        results.show()


if __name__ == "__main__":
    cli.run(main, Options, "transfer", resumes=True)
