"""Ways of using a pretrained network, and training from scratch, compared on your images.

    python -m experiments.transfer DIR                          all of them, resnet18, 3 seeds
    python -m experiments.transfer DIR --strategy finetune      one
    torchrun --nproc-per-node 2 -m experiments.transfer DIR     with two processes

DIR: train/CLASS/*.jpg with val/ or test/ or both, or one folder of classes, or `cifar10`.
Then: python -m experiments.predict CHECKPOINT IMAGES
"""

from experiments.plumbing import cli
from experiments.plumbing.cli import doing
from experiments.transfer.options import Options


def main(options: Options) -> None:
    with doing("loading the libraries"):
        from experiments.transfer import comparison
    comparison.carry_out(options)


if __name__ == "__main__":
    cli.run(main, Options, "transfer", resumes=True)
