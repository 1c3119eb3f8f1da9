"""Compare torchvision's published weights in torchvision's networks with the same weights in ours.

torchvision and the zoo each download the file on their own. Both networks classify one photo.
"""

from pathlib import Path

import torch

import zoo
from data.images import load_image
from data.progress import Progress
from experiments.plumbing.tables import Rows
from experiments.proof.checks import difference
from experiments.proof.oracles import IMAGENET_RESNETS, VIT_ORACLES

NETWORKS = (*IMAGENET_RESNETS, "vit_b_16")


def verify_published(photo: Path) -> tuple[bool, Rows]:
    """Compare every published set of weights of NETWORKS; returns whether all are equal.

    ViTs are compared in fp64 with a tolerance, since torchvision's sum in another order.
    """
    from torchvision.models import get_model, get_model_weights  # slow to import

    image = load_image(str(photo))
    entries = [(model, entry) for model in NETWORKS for entry in get_model_weights(model)]
    equal, lines = True, []
    for model, entry in Progress(entries, "downloading and comparing", unit="file"):
        rounding = VIT_ORACLES["torchvision"].rounding if model == "vit_b_16" else 0
        dtype = torch.float64 if rounding else torch.float32
        theirs = get_model(model, weights=entry).eval().to(dtype)
        ours = zoo.build(model, weights=entry).eval().to(dtype)
        images = entry.transforms()(image)[None].to(dtype)
        with torch.no_grad():
            expected, logits = theirs(images), ours(images)
        found = difference(logits, expected, rounding)
        equal = equal and found.equal
        probability, place = logits.softmax(1).max(1)
        words = f"{entry.meta['categories'][place.item()]} {100 * probability.item():.1f} %"
        lines.append([model, entry.name, str(found), found.verdict, words])
    return equal, Rows(("network", "weights", "difference", "", photo.name), lines)
