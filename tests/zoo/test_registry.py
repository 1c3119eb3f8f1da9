"""What the zoo has: names, parameters, settings, and errors for everything else."""

import pytest
import torch
from conftest import refusal
from torch import nn

import zoo

# Table 6 of He et al. 2015 gives millions, torchvision's documentation the exact counts for
# ImageNet's networks. Those of the ViTs are in test_vit.py.
PARAMETERS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "resnet101": 44_549_160, "resnet152": 60_192_808,
    "plain18": 11_515_688, "plain34": 21_623_848, "plain50": 22_780_456,
    "resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018,
    "resnet110": 1_727_962,
    "plain20": 269_722, "plain32": 464_154, "plain44": 658_586, "plain56": 853_018,
    "plain110": 1_727_962,
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameter_counts(name, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in zoo.build(name).parameters()) == expected


def test_every_network_has_a_plain_twin_and_the_list_is_whole():
    names = zoo.list_models()
    depths = {8, 18, 20, 32, 34, 44, 50, 56, 101, 110, 152}
    resnets = {f"{family}{depth}" for family in ("plain", "resnet") for depth in depths}
    sizes = {"_b_16", "_b_32", "_l_16", "1", "2", "4", "6", "8", "12"}
    assert set(names) == resnets | {f"{twin}vit{size}" for twin in ("", "plain") for size in sizes}
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if "vit_" not in name])
def test_every_network_computes_and_every_parameter_gets_a_gradient(name):
    """Except ImageNet's ViTs, which differ from the others only in their sizes."""
    vit = "vit" in name
    size = 32 if any(name.endswith(layers) for layers in ("18", "34", "50", "101", "152")) else 8
    model = zoo.build(name, 5, **({"image_size": size} if vit else {"width": 4}))
    if vit:
        nn.init.normal_(model.head.weight)  # it starts at zero, which would stop all gradients
    logits = model(torch.randn(4, 3, size, size))
    assert logits.shape == (4, 5)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [("resnet19", {}, ("no model 'resnet19'", "resnet18")),
     ("zzz", {}, ("no model 'zzz'", "choose one of these names")),
     ("plain20", {"shortcut": "pad"}, ("plain20 has no setting 'shortcut'", "norm")),
     ("resnet18", {"stride_in": "conv1"}, ("resnet18 has no setting 'stride_in'",)),
     ("vit2", {"image_size": 33}, ("give a multiple of 4",)),
     ("vit2", {"eps": 0.0}, ("between 0 and 1",)), ("vit2", {"eps": 1}, ("between 0 and 1",)),
     ("vit2", {"resizing": "nearest"}, ("antialias",)),
     ("vit2", {"width": 8}, ("no setting 'width'",)),
     ("vit2", {"block": "plain"}, ("no setting 'block'",)),
     ("vit2", {"shortcut": "pad"}, ("no setting 'shortcut'",)),
     ("vit2", {"image_size": 0}, ("whole number",)),
     ("plainvit2", {"block": "residual"}, ("one of plain, attention-skip",)),
     ("resnet18", {"shortcut": "loop"}, ("no shortcut='loop'",)),
     ("resnet18", {"norm": "layer"}, ("no norm='layer'",)),
     ("resnet50", {"stride_in": "conv3"}, ("no stride_in='conv3'",)),
     *(("resnet18", {"num_classes": number}, ("whole number",))
       for number in (0, -1, True, "10", 10.0))],
)  # fmt: skip
def test_what_the_zoo_does_not_have_is_refused_in_three_lines(name, settings, words):
    with refusal(zoo.ModelError, *words):
        zoo.build(name, **settings)
