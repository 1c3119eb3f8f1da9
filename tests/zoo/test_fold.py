"""Folded batch norms: the same logits, on random and on real weights; and what is not folded."""

import copy

import pytest
import torch
from conftest import shaken
from torch import nn

import zoo
from experiments.plumbing.device import has_bf16
from experiments.train.loop import Settings, infer
from zoo import fold
from zoo.fold import folded, for_inference
from zoo.variants import NORM_FREE, VARIANTS

EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}  # of the largest logit


def trained(model: nn.Module, side: int) -> tuple[nn.Module, torch.Tensor]:
    """The network with statistics from three passes in training mode, and images."""
    images = torch.randn(4, 3, side, side)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):  # new ones have weight 1 and bias 0
                part.weight.uniform_(0.8, 1.2)
                part.bias.normal_(0, 0.1)
        for _ in range(3):
            model.train()(images)
    return model.eval(), images


def difference(model: nn.Module, images: torch.Tensor, dtype: torch.dtype) -> float:
    """Largest difference to the folded network, over the largest logit."""
    model = copy.deepcopy(model).to(dtype)
    fast, left = fold.fold(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules()), left
    assert left == []
    with torch.no_grad():
        expected, found = model(images.to(dtype)), fast(images.to(dtype))
    return float((expected - found).abs().max() / expected.abs().max())


RESNETS = ["resnet18", "resnet34", "resnet50", "plain18", "plain50", "resnet20", "resnet56",
           "plain56", "resnet110"]  # fmt: skip
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "resnet152")]


@pytest.mark.parametrize("name", [*RESNETS, *LARGE])
def test_logits_stay_the_same(name):
    side = 64 if name[-2:] in ("18", "34", "50", "01", "52") else 32
    model, images = trained(zoo.build(name), side)
    for dtype, limit in EXACT.items():
        assert difference(model, images, dtype) <= limit


def test_equation_2_by_hand():
    """One channel: y = 3 (2 (x + 1) - 5) / sqrt(4 + 0) + 7 = 3 x - 3 / 2 + 7 at x's bias 1."""
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)
    with torch.no_grad():
        conv.weight.fill_(2)
        conv.bias.fill_(2)
        norm.weight.fill_(3)
        norm.bias.fill_(7)
        norm.running_mean.fill_(5)
        norm.running_var.fill_(4)
    merged = folded(conv, norm)
    assert (merged.weight.item(), merged.bias.item()) == (3.0, 2.5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_fold_what_follows_a_convolution_and_say_the_rest(variant):
    """Norms before a convolution, or after the addition, stay: folding them would be wrong."""
    model, images = trained(shaken("resnet8", variant=variant), 16)
    fast = for_inference(model)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(fast(images), expected, rtol=1e-4, atol=1e-5)
    kept = {"norm-after": {"norm2"}, "preactivation": {"norm1", "0"}}  # 0: after the last sum
    assert {name.rpartition(".")[2] for name in fast.not_folded} == kept.get(variant, set())
    assert all(isinstance(fast.network.get_submodule(n), nn.BatchNorm2d) for n in fast.not_folded)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in fast.network.modules())
    assert norms == len(fast.not_folded)
    assert (variant in NORM_FREE) <= (norms == 0)


class Odd(nn.Module):
    """Four norms after convolutions, of which only `alone` can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.twice, self.read, self.last = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.one, self.two, self.alone = (nn.BatchNorm2d(4) for _ in range(3))
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        x = self.one(self.shared(self.shared(x)))  # the convolution is used twice
        x = self.two(self.twice(x)) + self.two(x)  # the norm is used twice
        y = self.read(x)  # read twice
        return self.batch(y) + y + self.alone(self.last(x))


def test_shared_layers_are_not_folded():
    model = Odd()
    for _ in range(2):
        model.train()(torch.randn(4, 4, 8, 8))
    fast, left = fold.fold(model)
    assert sorted(left) == ["batch", "one", "two"]
    images = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(fast(images), model.eval()(images), rtol=1e-5, atol=1e-6)


class Branching(nn.Module):
    """A forward that torch.fx cannot trace; and a norm that is named in its call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(input=self.conv(x)) if x.sum() > 0 else x


def same_or_kept(model: nn.Module, kept: list[str]) -> None:
    """The copy computes the same, and `kept` norms are not folded."""
    images = torch.rand(2, 3, 8, 8)
    model.train()(images)
    fast = for_inference(model)
    assert fast.not_folded == kept
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model.eval()(images), rtol=1e-5, atol=1e-6)


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_what_could_not_be_folded_right_stays():
    same_or_kept(pair(), [])
    same_or_kept(Branching(), ["norm"])
    for place in (0, 1):
        hooked = pair()
        hooked[place].register_forward_hook(lambda module, given, output: 2 * output)
        same_or_kept(hooked, ["1"])
    normed = pair()
    torch.nn.utils.parametrizations.weight_norm(normed[0])
    same_or_kept(normed, ["1"])

    class Reads(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * self[0].weight.abs().mean()

    same_or_kept(Reads(*pair()), ["1"])


def test_it_stays_in_eval_mode():
    fast = for_inference(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)))
    assert not fast.training
    assert not fast.train().training
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(fast(images), fast(images))


@pytest.mark.parametrize("wrong", [("resnet18",), (nn.Conv2d(3, 4, 3), "bf16")])
def test_other_arguments_are_refused(wrong):
    with pytest.raises(TypeError, match=r"\.model|torch.bfloat16"):
        for_inference(*wrong)


def test_other_outputs_than_a_tensor_are_refused():
    class Named(nn.Conv2d):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(TypeError, match="one tensor, not a dict"):
        for_inference(Named(3, 4, 3))(torch.rand(2, 3, 8, 8))


def test_the_network_itself_does_not_change():
    model = shaken("resnet8").train()
    before = copy.deepcopy(model.state_dict())
    fast = for_inference(model, torch.bfloat16)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {p.dtype for p in fast.network.parameters()} == {torch.bfloat16}
    logits = fast(torch.randn(2, 3, 16, 16))
    assert (logits.dtype, logits.requires_grad) == (torch.float32, False)


def test_a_vit_has_nothing_to_fold():
    model = shaken("vit1", image_size=16)
    fast, images = for_inference(model), torch.randn(2, 3, 16, 16)
    assert fast.not_folded == []
    torch.testing.assert_close(fast(images), model.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not fold.has_compiler(), reason="there is no C++ compiler")
def test_compiled_logits_are_the_same():
    model, images = trained(shaken("resnet8"), 16)
    fast = for_inference(model, compiled=True)
    assert fast.compiled
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(fast(images), expected, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(fold.shutil, "which", lambda name: None)
    fast = for_inference(shaken("resnet8"), compiled=True)
    assert not fast.compiled
    assert fast.compute is fast.network


@pytest.mark.slow
def test_real_networks_give_the_same_classes(real_data, real_cifar10):
    """On 3,000 test images of CIFAR-10: at least 99.9 % in fp32, 99.5 % in bf16."""
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    model = zoo.load(zoo.build("resnet20"), real_data / "weights" / "resnet20-12fca82f.th").eval()
    pixels = (real_cifar10.test_images[:3000].float() / 255 - mean) / std
    labels_of_all = real_cifar10.test_labels[:3000]
    batches = list(zip(pixels.split(500), labels_of_all.split(500), strict=True))
    expected, labels = infer(model, batches, Settings())
    assert (expected.argmax(1) == labels).float().mean() > 0.91
    dtypes = {torch.float32: 0.999} | ({torch.bfloat16: 0.995} if has_bf16(pixels.device) else {})
    for dtype, share in dtypes.items():
        found, _ = infer(for_inference(model, dtype), batches, Settings())
        assert (found.argmax(1) == expected.argmax(1)).float().mean() >= share
