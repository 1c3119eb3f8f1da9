"""Compare torchvision's published weights in torchvision's networks with the same weights in ours.

torchvision and the zoo each download the file on their own. Both networks classify one photo.
"""

from pathlib import Path

import torch

import zoo
from data.images import load_image
from data.progress import Progress
from experiments.plumbing.tables import Rows
from experiments.proof.checks import Difference, difference
from experiments.proof.oracles import IMAGENET_RESNETS, VIT_ORACLES

NETWORKS = (*IMAGENET_RESNETS, "vit_b_16")


def verify_published(photo: Path) -> tuple[bool, Rows]:
    """Compare every published set of weights of NETWORKS; returns whether all are equal."""
    from torchvision.models import get_model_weights  # slow to import

    image = load_image(str(photo))
    entries = [(model, entry) for model in NETWORKS for entry in get_model_weights(model)]
    equal, lines = True, []
    for model, entry in Progress(entries, "downloading and comparing", unit="file"):
        found, label, probability = compare_logits(model, entry, image)
        equal = equal and found.equal
        words = f"{label} {100 * probability:.1f} %"
        lines.append([model, entry.name, str(found), found.verdict, words])
    return equal, Rows(("network", "weights", "difference", "", photo.name), lines)


def compare_logits(model: str, entry: object, image: torch.Tensor) -> tuple[Difference, str, float]:
    """The difference of the logits, and the most probable class with its probability.

    ViTs are compared in fp64 with a tolerance, since torchvision's sum in another order.
    """
    from torchvision.models import get_model

    rounding = VIT_ORACLES["torchvision"].rounding if model == "vit_b_16" else 0
    dtype = torch.float64 if rounding else torch.float32
    theirs = get_model(model, weights=entry).eval().to(dtype)
    ours = zoo.build(model, weights=entry).eval().to(dtype)
    images = entry.transforms()(image)[None].to(dtype)  # type: ignore[attr-defined]
    with torch.no_grad():
        expected, logits = theirs(images), ours(images)
    probability, place = logits.softmax(1).max(1)
    label = entry.meta["categories"][place.item()]  # type: ignore[attr-defined]
    return difference(logits, expected, rounding), label, probability.item()
