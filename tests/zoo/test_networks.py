"""What the networks are: names, parameters, shapes, receptive fields, twins, errors."""

import pytest
import torch
from torch import nn

import zoo
from experiments.shapes import parts, receptive_fields
from zoo.blocks import BasicBlock, Bottleneck
from zoo.plain import PlainBasicBlock, PlainBottleneck
from zoo.shortcuts import Identity, Projection, ZeroPad, make_shortcut
from zoo.vit import TABLE

# He et al. 2015, table 6 gives millions; torchvision's documentation gives the ImageNet ones.
PARAMETERS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "resnet101": 44_549_160, "resnet152": 60_192_808,
    "plain18": 11_515_688, "plain34": 21_623_848, "plain50": 22_780_456,
    "resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018,
    "resnet110": 1_727_962,
    "plain20": 269_722, "plain32": 464_154, "plain44": 658_586, "plain56": 853_018,
    "plain110": 1_727_962,
    "vit_b_16": 86_567_656, "vit_b_32": 88_224_232, "vit_l_16": 304_326_632,
    "plainvit_b_16": 86_567_656, "plainvit_l_16": 304_326_632,
}  # fmt: skip


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameter_counts(name, expected):
    with torch.device("meta"):
        assert count(zoo.build(name)) == expected


def test_every_network_has_a_plain_twin_and_the_list_is_whole():
    names = zoo.list_models()
    depths = {8, 18, 20, 32, 34, 44, 50, 56, 101, 110, 152}
    resnets = {f"{family}{depth}" for family in ("plain", "resnet") for depth in depths}
    sizes = {"_b_16", "_b_32", "_l_16", "1", "2", "4", "6", "8", "12"}
    assert set(names) == resnets | {f"{twin}vit{size}" for twin in ("", "plain") for size in sizes}
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if "_l_" not in name])
def test_every_network_computes_and_every_parameter_gets_a_gradient(name):
    """But for the largest ViTs, which differ in numbers alone."""
    depth = name.removeprefix("plain").removeprefix("resnet")
    size = 32 if depth in ("18", "34", "50", "101", "152") or "vit_" in name else 8
    vit = "vit" in name
    model = zoo.build(name, 5, **({"image_size": size} if vit else {"width": 4}))
    if vit:
        nn.init.normal_(model.head.weight)  # it starts at zero, and nothing would flow
    logits = model(torch.randn(4, 3, size, size))
    assert logits.shape == (4, 5)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if name.startswith("resnet")])
def test_a_plain_networks_keys_are_its_twins_without_the_shortcuts(name):
    with torch.device("meta"):
        residual, plain = zoo.build(name), zoo.build(name.replace("resnet", "plain"))
    expected = {k: v.shape for k, v in residual.state_dict().items() if ".shortcut." not in k}
    assert {k: v.shape for k, v in plain.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("name", "stride_in", "expected"),
    [("resnet18", None, 435), ("resnet34", None, 899), ("resnet50", None, 427),
     ("resnet101", None, 971), ("resnet152", None, 1451), ("resnet50", "conv1", 483),
     ("resnet101", "conv1", 1027), ("resnet152", "conv1", 1507), ("plain50", None, 427)],
)  # fmt: skip
def test_receptive_fields_of_the_whole_network(name, stride_in, expected):
    with torch.device("meta"):
        model = zoo.build(name, stride_in=stride_in)
    assert receptive_fields(model)["stages.3"] == expected


@pytest.mark.parametrize(
    ("name", "stride_in"),
    [("resnet18", None), ("resnet50", None), ("resnet50", "conv1"), ("resnet8", None)],
)
def test_receptive_fields_are_what_gradients_reach(name, stride_in):
    """One pixel of the last map depends on exactly so many pixels a side, measured."""
    model = zoo.build(name, 2, width=1, stride_in=stride_in, norm="none").double()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)  # positive: no ReLU closes, nothing cancels
    field = receptive_fields(model)[f"stages.{len(model.stages) - 1}"]
    size = (field // 32 + 3) * 32
    # Random, so that in one row or another the max-pool takes the pixel at the edge.
    image = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    last = model.stages(model.stem(image))
    middle = last.shape[-1] // 2
    last[0, 0, middle, middle].backward()
    reached = (image.grad[0, 0] != 0).any(0).nonzero().squeeze(1)
    assert int(reached.max() - reached.min()) + 1 == field


# The trail of shape comments in zoo/resnet.py.
TRAILS = {
    "resnet18": [(64, 56), (64, 56), (128, 28), (256, 14), (512, 7)],
    "resnet50": [(64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    "plain50": [(64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    "resnet20": [(16, 32), (16, 32), (32, 16), (64, 8)],
    "plain110": [(16, 32), (16, 32), (32, 16), (64, 8)],
}
GMACS = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
}


@pytest.mark.parametrize(("name", "trail"), TRAILS.items())
def test_stage_shapes(name, trail):
    size = 32 if name in ("resnet20", "plain110") else 224
    found = [part.shape for part in parts(zoo.build(name), size)]
    assert found[:-1] == [(1, channels, side, side) for channels, side in trail]


@pytest.mark.parametrize(("name", "gmacs"), GMACS.items())
def test_flops_are_twice_torchvisions_gmacs(name, gmacs):
    flops = sum(part.flops for part in parts(zoo.build(name), 224))
    assert flops / 2e9 == pytest.approx(gmacs, abs=0.0006)


@pytest.mark.parametrize("n", [1, 3, 5, 7, 9, 18])
def test_cifar_networks_have_6n_plus_2_weighted_layers(n):
    model = zoo.build(f"plain{6 * n + 2}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 6 * n + 2


def test_zero_padding_puts_the_zeros_where_it_says():
    x = torch.randn(2, 4, 6, 6)
    split, append = ZeroPad(4, 10, 2)(x), ZeroPad(4, 10, 2, "pad-append")(x)
    assert split.shape == append.shape == (2, 10, 3, 3)
    assert torch.equal(split[:, 3:7], x[:, :, ::2, ::2])
    assert not split[:, :3].any()
    assert not split[:, 7:].any()
    assert torch.equal(append[:, :4], x[:, :, ::2, ::2])
    assert not append[:, 4:].any()


def test_the_block_builds_its_own_shortcut():
    assert isinstance(BasicBlock(8, 8).shortcut, Identity)
    assert isinstance(BasicBlock(8, 16).shortcut, Projection)
    assert isinstance(BasicBlock(8, 8, 2, shortcut="pad").shortcut, ZeroPad)
    assert isinstance(Bottleneck(8, 8).shortcut, Projection)
    assert isinstance(Bottleneck(32, 8).shortcut, Identity)
    for kind, zeros in (("pad", (3, 3)), ("pad-append", (0, 6))):
        shortcut = make_shortcut(kind, 4, 10, 2)
        assert (shortcut.before, shortcut.after) == zeros


@pytest.mark.parametrize(
    ("plain", "residual"), [(PlainBasicBlock, BasicBlock), (PlainBottleneck, Bottleneck)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_plain_block_is_its_twin_without_the_last_term(plain, residual, stride):
    twin = residual(8, 4, stride)
    x = torch.randn(2, 8, 6, 6)
    mine = plain(twin)
    assert mine.out_channels == twin.out_channels
    assert not any("shortcut" in key for key in mine.state_dict())
    without = plain(twin)(x)
    twin.shortcut = nn.Identity()
    twin.shortcut.forward = lambda x: torch.zeros(())
    assert torch.equal(without, twin(x))


PAIRS = [(name, {}) for name in zoo.list_models() if not name.startswith("plain")]
PAIRS += [("resnet20", {"norm": "none"}), ("resnet18", {"num_classes": 7, "width": 8}),
          ("resnet50", {"stride_in": "conv1", "width": 8})]  # fmt: skip
NARROW = {"resnet101": {"width": 8}, "resnet152": {"width": 8}}  # as deep, and quick to draw


@pytest.mark.parametrize(("name", "settings"), PAIRS)
def test_twins_of_one_seed_start_from_the_same_weights(name, settings, monkeypatch):
    """Every entry that both have, to the last bit; and what is drawn afterwards is the same too."""
    settings = settings | NARROW.get(name, {})
    if name in TABLE:
        monkeypatch.setitem(TABLE, name, TABLE[name]._replace(heads=4, width=64, hidden=128))
    states, later = [], []
    for twin in (name, plain_name(name)):
        torch.manual_seed(5)
        states.append(zoo.build(twin, **settings).state_dict())
        later.append(torch.rand(3))
    residual, plain = states
    assert plain.keys() == {key for key in residual if ".shortcut." not in key}
    assert all(torch.equal(plain[key], residual[key]) for key in plain)
    assert torch.equal(*later)
    torch.manual_seed(6)
    other = zoo.build(plain_name(name), **settings).state_dict()
    assert any(not torch.equal(other[key], plain[key]) for key in plain)


def plain_name(name: str) -> str:
    return f"plain{name}" if "vit" in name else name.replace("resnet", "plain")


def test_option_b_is_available_to_the_cifar_networks():
    a, b = zoo.build("resnet20"), zoo.build("resnet20", shortcut="projection")
    extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count(b) - count(a) == extra


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet50", "vit2", "plainvit2"])
def test_nothing_works_in_place(name):
    """What a hook saw during the forward pass is still there after it."""
    model = zoo.build(name, 3, **({} if "vit" in name else {"width": 4}))
    seen = []
    for module in model.modules():
        module.register_forward_hook(
            lambda module, inputs, output: seen.append((output, output.clone()))
        )
    image = torch.randn(2, 3, 32, 32)
    before = image.clone()
    model(image)
    assert torch.equal(image, before)
    assert all(torch.equal(output, copy) for output, copy in seen)


def test_without_norm_no_norm_is_left():
    model = zoo.build("resnet20", norm="none")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not list(model.buffers())


@pytest.mark.parametrize("name", ["resnet20", "plain34", "resnet50"])
def test_he_initialisation(name):
    """Standard deviation sqrt(2 / fan_out) of every convolution (He et al. 2015a, eq. 14)."""
    for module in zoo.build(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [(("resnet19",), {}, ("no model 'resnet19'", "resnet18")),
     (("zzz",), {}, ("no model 'zzz'", "choose one of these names")),
     (("plain20",), {"shortcut": "pad"}, ("plain20 has no setting 'shortcut'", "norm")),
     (("resnet18",), {"stride_in": "conv1"}, ("resnet18 has no setting 'stride_in'",))],
)  # fmt: skip
def test_what_the_zoo_does_not_have_is_refused_in_three_lines(arguments, settings, words):
    with pytest.raises(zoo.ModelError) as error:
        zoo.build(*arguments, **settings)
    assert len(str(error.value).splitlines()) == 3
    assert all(word in str(error.value) for word in words)
