"""Every variant of the block computes its equation; at its limits it is the block itself."""

import inspect
import math
import sys
import textwrap
from functools import partial

import pytest
import torch
import torchvision
from conftest import refusal
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo import WeightsError
from zoo.blocks import BasicBlock
from zoo.normfree import Fixup, ReZero, Shift, SkipInit, ZeroGamma
from zoo.shortcut_variants import DroppedOut, ExclusivelyGated, Gated, Scaled, Stochastic
from zoo.variants import NORM_FREE, VARIANTS

NAMES = tuple(VARIANTS)
SIGNED = torch.randn(4, 8, 7, 7, generator=torch.Generator().manual_seed(1)).double()
X = SIGNED.relu().float()  # what a block gets from the one before it


def shaken(module: nn.Module) -> nn.Module:
    """The module in evaluation, with every parameter and statistic changed at random, in fp64."""
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.6 * torch.rand(tensor.shape, generator=generator) - 0.3)
    return module.double().eval()


# --- a second, independent implementation, from the state dict, as the papers write it ---


def norm(s: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    scale = s[f"{name}.weight"] / (var + 1e-5).sqrt()
    shift = s[f"{name}.bias"] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]


def conv(s: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution as a matrix product of patches."""
    weight, bias = s[f"{name}.weight"], s.get(f"{name}.bias")
    k = weight.shape[-1]
    patches = F.unfold(x, k, padding=k // 2, stride=stride)  # (N, C k k, places)
    side = [(size - 1) // stride + 1 for size in x.shape[2:]]
    y = (weight.flatten(1) @ patches).unflatten(2, side)
    return y if bias is None else y + bias[:, None, None]


def expected(name: str, s: dict[str, Tensor], x: Tensor, stride: int, p: float) -> Tensor:
    """The equation of each variant, on a block of the middle of a network."""
    relu = F.relu
    h = x[:, :, ::stride, ::stride]
    zeros = s["conv1.weight"].shape[0] - h.shape[1]
    h = torch.cat([h.new_zeros(len(h), zeros // 2, *h.shape[2:]), h,
                   h.new_zeros(len(h), zeros - zeros // 2, *h.shape[2:])], 1)  # fmt: skip
    one, two = (partial(conv, s, "conv1", stride=stride), partial(conv, s, "conv2"))
    if name == "norm-after":
        return relu(norm(s, "norm2", two(relu(norm(s, "norm1", one(x)))) + h))
    if name == "preactivation":
        return two(relu(norm(s, "norm2", one(relu(norm(s, "norm1", x)))))) + h
    if name == "relu-only":
        return norm(s, "norm2", two(relu(norm(s, "norm1", one(relu(x)))))) + h
    if name == "fixup":
        b = s["biases"]
        return relu(s["factor"] * two(relu(one(x + b[0]) + b[1]) + b[2]) + b[3] + h)
    if name in NORM_FREE:
        f = two(relu(one(x) + s["norm1.bias"])) + s["norm2.bias"]
        return relu(s["factor"] * f + h) if name == "skipinit" else s["factor"] * relu(f) + h
    f = norm(s, "norm2", two(relu(norm(s, "norm1", one(x)))))
    if name == "relu-before":
        return relu(f) + h
    if name == "conv-shortcut":
        return relu(f + norm(s, "shortcut.norm", conv(s, "shortcut.conv", x, stride)))
    if "gate" in name:
        g = 1 / (1 + torch.exp(-conv(s, "gate", x, stride)))
        return relu((g if name == "exclusive-gate" else 1) * f + (1 - g) * h)
    a, b = {"half-shortcut": (1, 0.5), "half-both": (0.5, 0.5), "stochastic-depth": (p, 1)}.get(
        name, (1, 1)
    )
    return relu(a * f + b * h)


def deviation(name: str, make, channels: int, stride: int) -> float:
    """How far a block is from the equation, relative to its largest output."""
    kind = Shift if name in NORM_FREE else nn.BatchNorm2d
    block = shaken(make(8, channels, stride, shortcut="pad", norm=kind))
    if name == "stochastic-depth":
        block.set_up(5, 9)
    right = expected(name, block.state_dict(), SIGNED, stride, 1 - 5 / 9 / 2)
    return ((block(SIGNED) - right).abs().max() / right.abs().max()).item()


@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (16, 2), (13, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_a_variant_computes_its_equation(name, channels, stride):
    assert deviation(name, VARIANTS[name], channels, stride) <= 1e-12


BUGS = (
    (
        "half-shortcut",
        "self.a * residual_of(self, x) + self.b *",
        "self.b * residual_of(self, x) + self.a *",
    ),
    ("half-both", "self.b * self.shortcut", "self.shortcut"),
    ("exclusive-gate", "(1 - gate)", "gate"),
    ("exclusive-gate", "gate * residual_of", "residual_of"),
    ("shortcut-gate", "(1 - gate)", "gate"),
    ("shortcut-gate", "self.gate(x).sigmoid()", "self.gate(x).tanh()"),
    ("conv-shortcut", "stride, norm)", "stride, lambda c: norm(c, eps=0.1))"),
    (
        "dropout-shortcut",
        "self.dropout(self.shortcut(x))",
        "nn.functional.dropout(self.shortcut(x))",
    ),
    ("norm-after", "self.norm2(residual + self.shortcut(x))", "self.norm2(residual) + x"),
    (
        "relu-before",
        "relu(residual_of(self, x)) + self.shortcut(x)",
        "relu(residual_of(self, x) + x)",
    ),
    ("relu-only", "relu(x)) +", "x) +"),
    ("relu-only", "self.after(", "relu("),
    ("preactivation", "self.before(self.norm1(x))", "self.norm1(x)"),
    ("preactivation", "relu(self.norm2(residual))", "self.norm2(relu(residual))"),
    ("preactivation", "self.after(", "relu("),
    ("stochastic-depth", "self.keep_probability * residual_of", "residual_of"),
    ("stochastic-depth", "1 - index / blocks * 0.5", "index / blocks * 0.5"),
    ("fixup", "self.conv1(x + b1)", "self.conv1(x)"),
    ("fixup", "+ b4", ""),
    (
        "skipinit",
        "relu(self.factor * residual_of(self, x) + ",
        "self.factor * relu(residual_of(self, x) + ",
    ),
    ("rezero", "self.factor * relu(residual_of(self, x))", "relu(residual_of(self, x))"),
)


@pytest.mark.parametrize(("name", "right", "wrong"), BUGS, ids=lambda text: text.replace(" ", ""))
def test_a_planted_bug_is_noticed(name, right, wrong):
    """One part of the source of a class is replaced, and executed in the class's module."""
    made = VARIANTS[name]
    kind, settings = getattr(made, "func", made), getattr(made, "keywords", {})
    source = textwrap.dedent(inspect.getsource(kind))
    assert source.count(right) >= 1
    space = dict(vars(sys.modules[kind.__module__]))
    exec(source.replace(right, wrong), space)
    buggy = partial(space[kind.__name__], **settings)
    assert deviation(name, buggy, 8, 1) > 1e-3


# --- limits, which hold to the last bit ---


def block_and(kind, **settings) -> tuple[BasicBlock, BasicBlock]:
    """A BasicBlock, and a variant with its layers, both training."""
    torch.manual_seed(0)
    ours, theirs = BasicBlock(8, 8), kind(8, 8, **settings)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    return ours, theirs


@pytest.mark.parametrize(
    "kind",
    [partial(Scaled, a=1.0, b=1.0), partial(DroppedOut, drop=0.0), partial(Gated, bias=-math.inf),
     Stochastic],
    ids=["scale 1", "dropout 0", "gate -inf", "survival 1"],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_at_its_limit_a_variant_is_the_block(kind, training):
    ours, theirs = (block.train(training) for block in block_and(kind))
    x = X.clone().requires_grad_()
    same = X.clone().requires_grad_()
    ours(x).sum().backward()
    theirs(same).sum().backward()
    assert torch.equal(ours(X), theirs(X))
    assert torch.equal(x.grad, same.grad)


def test_an_exclusive_gate_that_never_opens_gives_x():
    _, gated = block_and(ExclusivelyGated, bias=-math.inf)
    assert torch.equal(gated(X - 0.5), (X - 0.5).relu())


@pytest.mark.parametrize("kind", [ZeroGamma, SkipInit, Fixup, ReZero])
def test_it_starts_as_the_identity(kind):
    torch.manual_seed(0)
    block = kind(8, 8, norm=nn.BatchNorm2d if kind is ZeroGamma else Shift)
    if hasattr(block, "set_up"):
        block.set_up(1, 9)
    assert torch.equal(block(X), X)
    block(X).square().sum().backward()  # and can leave it
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_stochastic_depth_keeps_each_block_as_often_as_it_says():
    model = zoo.build("resnet56", variant="stochastic-depth", width=1)
    blocks = [block for stage in model.stages for block in stage]
    assert [b.keep_probability for b in blocks] == pytest.approx(
        [1 - k / 27 / 2 for k in range(1, 28)]
    )
    last, x = blocks[-1], torch.rand(2, 4, 3, 3)
    torch.manual_seed(0)
    kept = sum(not torch.equal(last(x), x) for _ in range(400))
    assert 160 < kept < 240  # p = 0.5; 4 standard deviations


def test_dropout_zeroes_half_of_the_shortcut_in_training_only():
    _, block = block_and(DroppedOut)
    nn.init.zeros_(block.norm2.weight)  # F = 0
    y = block(X + 1)
    assert 0.4 < (y == 0).double().mean() < 0.6
    assert torch.equal(y[y > 0], (2 * (X + 1))[y > 0])
    assert torch.equal(block.eval()(X + 1), X + 1)


# --- networks ---


def test_parameter_counts_of_resnet20():
    """Derived from the equations: C channels, n = 3 blocks per stage."""
    base, widths = 269_722, [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2 + [(32, 64)]
    widths += [(64, 64)] * 2
    gates = sum(c * k + k for c, k in widths)
    projections = sum(c * k + 2 * k for c, k in widths)
    norms = 2 * (16 + 2 * sum(k for _, k in widths))  # stem and blocks
    shifts = norms // 2
    same = base - norms
    expected = dict.fromkeys(NAMES, base) | {
        "exclusive-gate": base + gates, "shortcut-gate": base + gates,
        "shortcut-gate-open": base + gates, "conv-shortcut": base + projections,
        "skipinit": same + shifts + 9, "rezero": same + shifts + 9, "fixup": same + 16 + 9 * 5,
    }  # fmt: skip
    with torch.device("meta"):
        for name, count in expected.items():
            model = zoo.build("resnet20", variant=name)
            assert sum(p.numel() for p in model.parameters()) == count, name


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_a_variant_learns(name):
    model = zoo.build("resnet20", 5, variant=name, width=4).double()  # first updates are tiny
    if name == "stochastic-depth":
        for block in (b for stage in model.stages for b in stage):
            block.keep_probability = 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for seed in range(4):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 3, 8, 8).double()), torch.arange(8) % 5).backward()
        optimizer.step()
    still = [key for key, p in model.named_parameters() if torch.equal(p, before[key])]
    assert not still


def test_the_first_and_the_last_unit_are_the_papers():
    """He et al. 2016, section 4.1: one activation after the stem, one after the last addition."""
    model = zoo.build("resnet20", variant="preactivation").double().eval()
    x = torch.randn(2, 3, 8, 8).double()
    stem = model.stem(x)
    blocks = [block for stage in model.stages for block in stage]
    first = blocks[0]
    assert torch.equal(first(stem), first.conv2(first.norm2(first.conv1(stem)).relu()) + stem)
    assert model.stages(stem).min() == 0
    assert blocks[-2](torch.randn(2, 64, 2, 2).double()).min() < 0
    model = zoo.build("resnet20", variant="relu-only").double().eval()
    assert model.stages(stem).min() == 0
    assert model.stages[-1][:-1](model.stages[:-1](stem)).min() < 0


def test_why_timms_resnetv2_50_is_not_loaded():
    """Its blocks do not fit the paper's order at either end (docs/blocks.md)."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnetv2_50")
    assert not [layer for layer in theirs.stem.modules() if isinstance(layer, nn.BatchNorm2d)]
    first = theirs.stages[0].blocks[0]
    assert isinstance(first.norm1, nn.BatchNorm2d)
    assert [type(layer) for layer in first.downsample.children()] == [nn.Conv2d, nn.Identity]
    seen = []
    first.downsample.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    first.norm1.register_forward_hook(lambda _, __, output: seen.append(output))
    theirs.eval()(torch.randn(1, 3, 32, 32))
    assert torch.equal(seen[0], seen[1])  # the projection's input is normalised
    ours = zoo.build("resnet20", variant="preactivation")
    assert isinstance(ours.stem.norm, nn.BatchNorm2d)
    assert isinstance(ours.stages[0][0].norm1, nn.Identity)


def test_only_networks_with_basic_blocks_have_variants():
    with refusal(zoo.ModelError):
        zoo.build("resnet50", variant="fixup")
    with refusal(zoo.ModelError):
        zoo.build("plain20", variant="fixup")
    with refusal(zoo.ModelError):
        zoo.build("resnet20", variant="fix")
    with refusal(zoo.ModelError, "leave out norm='none'"):
        zoo.build("resnet20", variant="zero-gamma", norm="none")
    with refusal(zoo.ModelError, "leave out norm='batch'"):
        zoo.build("resnet20", variant="fixup", norm="batch")


@pytest.mark.parametrize("name", NAMES)
def test_other_libraries_have_no_variants(name):
    """Their weights do not fit it silently, nor its weights their networks; zero-gamma computes
    the same.
    """
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    ours = zoo.build("resnet18", 10, variant=name)
    if name == "zero-gamma":
        zoo.load(ours, theirs)
        exported = zoo.export(ours, "torchvision")
        assert torch.equal(exported["fc.weight"], theirs["fc.weight"])
        return
    with refusal(WeightsError):
        zoo.load(ours, theirs)
    with refusal(WeightsError, f"variant=none or zero-gamma, but the model has {name}"):
        zoo.export(ours, "torchvision")
    cifar = zoo.export(zoo.build("resnet20"), "cifar")
    with refusal(WeightsError):
        zoo.load(zoo.build("resnet20", variant=name), cifar)


@pytest.mark.parametrize("name", NAMES)
def test_a_variants_weights_are_for_that_variant(name, tmp_path):
    from experiments.classifier import load_model, save_classifier
    from experiments.plumbing.preprocess import default_view

    torch.manual_seed(3)
    model = zoo.build("resnet8", variant=name).eval()
    with torch.no_grad():  # some layers start at 0, and a file of zeros is refused
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    save_classifier(tmp_path / "w.safetensors", "resnet8", model, tuple("0123456789"),
                    default_view(model), {})  # fmt: skip
    again = load_model(tmp_path / "w.safetensors").model
    x = torch.randn(2, 3, 32, 32)
    assert type(again.stages[0][0]) is type(model.stages[0][0])
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), rtol=1e-4)  # another memory layout
    with refusal(zoo.WeightsError):
        zoo.load(zoo.build("resnet8"), tmp_path / "w.safetensors")
