"""Maps of where a network looks: what they show is what it uses, each over its place."""

import shutil

import numpy as np
import pytest
import torch
from conftest import assert_prints, assert_three_lines, shaken
from figures import drawn
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

import zoo
from data.views import View
from experiments.classifier import save_classifier
from experiments.proof.checks import outputs_of
from experiments.saliency import (
    RANDOM,
    attention_in,
    grad_cam,
    likeness,
    most_alike,
    patches_of,
    rollout,
    skips_of,
    verdict,
    with_random_weights,
)
from zoo.plainvit import BLOCKS
from zoo.vit import EncoderBlock

AS_IT_IS = View(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=32)
PLANTED = {"red": (1, 6), "green": (5, 2), "blue": (7, 3)}  # the patch's row and column of 8 x 8


@pytest.fixture
def image(tmp_path):
    """Black, with a red, a green and a blue patch, 4 x 4 pixels each."""
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    for channel, (row, column) in enumerate(PLANTED.values()):
        pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, channel] = 255
    Image.fromarray(pixels).save(tmp_path / "patches.png")
    return tmp_path / "patches.png"


def looks_at_colours() -> zoo.networks.Network:
    """Head 0 looks at red patches, head 1 at green ones, head 2 at blue ones, head 3 at all."""
    model = zoo.build("vit2", 3).eval()
    for parameter in (*model.stem.parameters(), *model.blocks.parameters()):
        nn.init.zeros_(parameter)
    pair = torch.tensor([1.0, -1.0])  # a token's features 2c and 2c + 1: channel c, its negative
    with torch.no_grad():
        for channel in range(3):
            model.stem.conv.weight[2 * channel : 2 * channel + 2, channel] = pair[:, None, None]
        for block in model.blocks:
            nn.init.ones_(block.norm1.weight)
            qkv = block.attention.qkv
            for head in range(3):  # 16 features per head: all of q, then all of k
                qkv.bias[16 * head] = 5
                qkv.weight[64 + 16 * head, 2 * head : 2 * head + 2] = pair
    return model


@pytest.fixture
def saved(tmp_path):
    """A function that saves a network as a checkpoint."""

    def save(name, model):
        path = tmp_path / f"{name}.safetensors"
        save_classifier(path, name, model, ("a", "b", "c"), AS_IT_IS, {})
        return path

    return save


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("block", [None, *BLOCKS])
def test_the_weights_that_are_shown_reproduce_the_output(block):
    """The weights and the values of every block give its attention's output again."""
    model = shaken("plainvit4" if block else "vit4", block=block).double().eval()
    outputs, values = [], []
    for layer in model.blocks:
        layer.attention.register_forward_hook(lambda module, inputs, out: outputs.append(out))
        layer.attention.register_forward_pre_hook(
            lambda module, inputs: values.append((module.proj, module.split(*inputs)[2]))
        )
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with outputs_of(model) as of_modules:
        logits = model(images)
    weights = attention_in(model, of_modules)
    assert len(weights) == len(outputs) == 4
    for attended, (proj, v), out in zip(weights, values, outputs, strict=True):
        again = proj(torch.einsum("nhij,nhjk->nihk", attended, v).flatten(2))
        assert torch.allclose(again, out, rtol=1e-10, atol=1e-12)
    seen = dict(of_modules)
    assert torch.equal(model(images), logits)
    assert all(of_modules[name] is seen[name] for name in seen), "outputs are still collected"


@pytest.mark.parametrize("kind", [EncoderBlock, *BLOCKS.values()])
def test_a_block_has_a_skip_if_its_input_passes_a_silent_attention(kind):
    block = kind(64, 4, 256, 1e-6)
    nn.init.zeros_(block.attention.proj.weight)
    passes = not torch.allclose(block(torch.randn(1, 5, 64)), block(torch.randn(1, 5, 64)))
    model = zoo.build("vit1")
    model.blocks[0] = block
    assert skips_of(model) == [passes]


def test_a_rollout_by_hand():
    """Block 1: token 1 attends to 2, in both heads. Block 2: token 0 attends to 1, in one head."""
    first, second = torch.eye(3).expand(2, 3, 3).clone(), torch.eye(3).expand(2, 3, 3).clone()
    first[:, 1] = torch.tensor([0.0, 0.0, 1.0])
    second[0, 0] = torch.tensor([0.0, 1.0, 0.0])
    # With skips, block 2 gives token 0 half of itself by the skip, a quarter by the other head, and
    # a quarter of token 1: 3/4 and 1/4.
    for skips, wanted in (
        ([True, True], [[0.75, 0.125, 0.125], [0, 0.5, 0.5], [0, 0, 1]]),
        ([False, False], [[0.5, 0, 0.5], [0, 0, 1], [0, 0, 1]]),
        ([False, True], [[0.75, 0, 0.25], [0, 0, 1], [0, 0, 1]]),
    ):
        rolled = rollout([first[None], second[None]], skips)[0]
        assert torch.allclose(rolled, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("skips", [[True] * 5, [False] * 5, [True, False, True, False, False]])
def test_rollouts_rows_have_the_sum_one(skips):
    weights = [torch.randn(2, 3, 17, 17).mul(3).softmax(3) for _ in range(5)]
    rolled = rollout(weights, skips)
    assert (rolled >= 0).all()
    assert torch.allclose(rolled.sum(2), torch.ones(2, 17, dtype=torch.float64), atol=1e-6)


def test_a_rollout_of_pure_linear_attention_is_its_jacobian():
    """If the values are the inputs and nothing is added, roll-out is exact, not a heuristic."""
    weights = [torch.randn(1, 2, 5, 5, dtype=torch.float64).softmax(3) for _ in range(3)]

    def network(x):
        for attended in weights:
            x = attended[0].mean(0) @ x
        return x

    jacobian = torch.autograd.functional.jacobian(network, torch.randn(5, dtype=torch.float64))
    assert torch.allclose(rollout(weights, [False] * 3)[0], jacobian)


def test_patches_lie_row_by_row_after_the_class_token():
    weights = torch.zeros(1, 2, 10, 10)
    weights[0, 1, 0, 1 + 3 * 1 + 2] = 1  # row 1, column 2 of 3 x 3
    weights[0, 1, 4, 3] = 1  # from another token
    maps = patches_of(weights)
    assert maps.shape == (1, 2, 3, 3)
    assert maps.nonzero().tolist() == [[0, 1, 1, 2]]


def brightest(axes, pixels):
    """Row and column of the patch (of 8 x 8) at whose centre the panel is lightest."""
    box = axes.get_window_extent()
    middles = (np.arange(8) + 0.5) / 8
    rows = (len(pixels) - box.y1 + middles * box.height).astype(int)  # the box's y goes up
    columns = (box.x0 + middles * box.width).astype(int)
    place = pixels[np.ix_(rows, columns)].sum(2).argmax()
    return tuple(int(i) for i in np.unravel_index(place, (8, 8)))


def panels_of(figure):
    return {axes.get_title().split(":")[0]: axes for axes in figure.axes}


def test_planted_attention_is_drawn_over_its_patch(image, saved, invoke, tmp_path):
    output = tmp_path / "deep" / "heads.png"
    checkpoint, finished = saved("vit2", looks_at_colours()), []
    figure = drawn(
        lambda: finished.append(
            invoke("experiments.saliency", checkpoint, image, "--output", output)
        )
    )
    said = finished[0].stdout.splitlines()
    assert said[1] == f"{image}: a, 33.3 %", finished[0].stderr
    assert said[2].startswith("  Random weights give other maps")
    assert said[3:] == [f"saliency: {output}"]
    pixels, panels = pixels_of(output), panels_of(figure)
    for head, patch in enumerate(PLANTED.values()):
        assert brightest(panels[f"head {head}"], pixels) == patch
    assert brightest(panels["roll-out"], pixels) in PLANTED.values()
    shown = panels["what the network sees"].images[0].get_array()
    assert np.array_equal(shown, pixels_of(image))


def test_planted_attention_by_numbers(image):
    model = looks_at_colours()
    pixels = torch.tensor(pixels_of(image)).permute(2, 0, 1) / 255
    with outputs_of(model) as outputs:
        model(pixels[None])
    weights = attention_in(model, outputs)
    for of_block in weights:
        for head, (row, column) in enumerate(PLANTED.values()):
            assert patches_of(of_block)[0, head, row, column] > 0.999
        assert torch.allclose(of_block[0, 3], torch.full((65, 65), 1 / 65))
    rolled = patches_of(rollout(weights, skips_of(model)))[0]
    # Two blocks, the same for every token: (0.5 I + 0.5 W)^2 = 0.25 I + 0.75 W, as WW = W.
    assert [rolled[place].item() for place in PLANTED.values()] == pytest.approx(
        [0.75 * (1 / 4 + 1 / 4 / 65)] * 3, rel=1e-3
    )
    assert rolled[0, 0].item() == pytest.approx(0.75 / 4 / 65, rel=1e-3)


def test_another_block_can_be_asked_for(image, saved, invoke, tmp_path):
    model = looks_at_colours()
    with torch.no_grad():  # in the last block, heads 0 and 1 swap places
        keys = model.blocks[1].attention.qkv.weight[64:96]
        keys.copy_(keys.roll(16, 0))
    checkpoint, brightest_patches = saved("vit2", model), []
    for block in (0, 1):
        output = tmp_path / "out.png"
        figure = drawn(
            invoke, "experiments.saliency", checkpoint, image, "--block", block, "--output", output
        )
        brightest_patches.append(brightest(panels_of(figure)["head 1"], pixels_of(output)))
    assert brightest_patches == [PLANTED["green"], PLANTED["red"]]
    for block in (-1, 2):
        done = invoke("experiments.saliency", checkpoint, image, f"--block={block}")
        assert_three_lines(done, 2, f"--block {block}", "give 0 to 1")


@pytest.mark.parametrize("block", BLOCKS)
def test_plain_networks_are_drawn_too(block, image, saved, invoke, tmp_path):
    checkpoint = saved("plainvit2", zoo.build("plainvit2", 3, block=block))
    output = tmp_path / "plain.png"
    assert_prints(invoke("experiments.saliency", checkpoint, image, "--output", output))
    assert pixels_of(output).shape[2] == 3


def test_what_cannot_be_drawn_is_refused_in_three_lines(image, saved, invoke, tmp_path):
    resnet = saved("resnet8", zoo.build("resnet8", 3))
    done = invoke("experiments.saliency", resnet, image, "--block", 0)
    assert_three_lines(
        done, 2, "the attention of a ViT", "resnet8.safetensors", "leave --block out"
    )
    checkpoint = saved("vit1", zoo.build("vit1", 3))
    done = invoke("experiments.saliency", checkpoint, tmp_path / "none.png")
    assert_three_lines(done, 3, "none.png")
    done = invoke("experiments.saliency", checkpoint)
    assert_three_lines(done, 2, "no images are named")
    done = invoke("experiments.saliency", checkpoint, image, "--output", "/proc/none/a.png")
    assert_three_lines(done, 2, "cannot use this", "/proc/none", "check this path")
    (tmp_path / "more").mkdir()
    other = shutil.copy(image, tmp_path / "more")
    several = ("experiments.saliency", checkpoint, image, other, "--output", tmp_path / "o")
    for _ in range(2):  # the folder of figures is there the second time
        assert_prints(invoke(*several))
    done = invoke(*several[:3], "--output", tmp_path / "o")
    assert_three_lines(done, 2, "a folder or device, not a file")


# --- Grad-CAM ---


@pytest.mark.parametrize("name", ["resnet8", "plain20", "resnet18", "plain50"])
def test_grad_cam_is_that_of_hooks_and_of_the_heads_weights(name):
    """Selvaraju et al., section 3: behind a global average, it is CAM up to a factor."""
    model = shaken(name).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    labels = [1, 0]
    maps = []
    model.stages.register_forward_hook(lambda module, inputs, x: maps.append(x))
    logits = model(images)
    (x,) = maps
    gradients = [torch.autograd.grad(logits[i, labels[i]], x, retain_graph=True)[0][i]
                 for i in (0, 1)]  # fmt: skip
    by_hooks = [(g.mean((1, 2))[:, None, None] * m).sum(0).relu()
                for g, m in zip(gradients, x, strict=True)]  # fmt: skip
    found = grad_cam(model, images, labels)
    assert torch.allclose(found, torch.stack(by_hooks).detach(), rtol=1e-10, atol=1e-14)
    places = x.shape[2] * x.shape[3]
    cam = torch.einsum("nc,nchw->nhw", model.head.weight[labels], x).relu() / places
    assert torch.allclose(found, cam.detach(), rtol=1e-9, atol=1e-14)
    assert (found > 0).any()
    assert not any(parameter.grad is not None for parameter in model.parameters())


def sees_light() -> zoo.networks.Network:
    """Channel 0 is the brightness; class 1 is proportional to it, all else is nearly 0."""
    model = zoo.build("resnet8", 3).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1e-5)  # weights of nothing but zeros would be refused
    with torch.no_grad():
        model.stem.conv.weight[0, :, 1, 1] = 1
        model.stem.norm.weight[0] = 1
        model.head.weight[1] = 1
    return model


def test_planted_light_is_drawn_over_its_place(image, saved, invoke, tmp_path):
    with Image.open(image) as opened:
        pixels = np.array(opened)
    row, column = PLANTED["green"]
    pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255  # the only white patch
    Image.fromarray(pixels).save(image)
    output, checkpoint = tmp_path / "cam.png", saved("resnet8", sees_light())
    figure = drawn(invoke, "experiments.saliency", checkpoint, image, "--output", output)
    assert brightest(panels_of(figure)["Grad-CAM"], pixels_of(output)) == (row, column)
    assert "Grad-CAM, random weights" in panels_of(figure)


# --- the check with random weights ---


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet8", {}), ("plain18", {}), ("vit2", {}), ("resnet20", {"variant": "rezero"}),
     ("resnet20", {"variant": "fixup"}), ("resnet20", {"variant": "exclusive-gate"})],
)  # fmt: skip
def test_random_weights_are_random_in_every_layer(name, settings):
    model = shaken(name, **settings).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (with_random_weights(model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), expected), "training's random state moved"
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), "the network itself was changed"
        assert not torch.equal(value, first.state_dict()[key]) or "num_batches" in key, key
        assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    weights = [key for key, value in before.items() if value.dim() > 1]
    assert all(not torch.equal(first.state_dict()[k], other.state_dict()[k]) for k in weights)
    assert not any(module.training for module in first.modules())


def test_a_map_that_random_weights_give_too_proves_nothing():
    """Also if it is the opposite; and of another one, no more than that is said."""
    torch.manual_seed(0)
    ours = torch.rand(1, 9, 9)
    like, unlike = ours + 0.2 * torch.rand(1, 9, 9), torch.rand(1, 9, 9)
    assert "this one proves nothing" in verdict(ours, [like] * RANDOM)
    assert "this one proves nothing" in verdict(ours, [-like] * RANDOM)
    assert "this one proves nothing" in verdict(ours, [like, -like])
    assert "depends on the weights" in verdict(ours, [unlike] * RANDOM)
    flat = torch.ones(1, 9, 9)
    assert "nothing can be said" in verdict(ours, [flat] * RANDOM)
    assert "nothing can be said" in verdict(flat, [ours])
    assert "n = 1 networks; 1 more without any pattern" in verdict(ours, [flat, like])
    empty = torch.zeros_like(ours)
    empty[..., 0, 0] = 1
    assert "nearly empty: comparing says little" in verdict(ours, [empty] * 3 + [unlike] * 2)
    assert "depends on the weights" in verdict(ours, [empty] * 2 + [unlike] * 3)
    assert likeness(ours, like) == pytest.approx(spearmanr(ours.flatten(), like.flatten())[0])


def test_the_random_map_that_is_drawn_is_the_most_similar_one():
    ours = torch.rand(1, 9, 9)
    like, unlike, flat = ours + 0.2 * torch.rand(1, 9, 9), torch.rand(1, 9, 9), torch.ones(1, 9, 9)
    opposite = -like
    assert most_alike(ours, [flat, unlike, like]) is like
    assert most_alike(ours, [opposite, flat, unlike]) is opposite
    assert most_alike(ours, [flat]) is flat


def test_a_network_with_random_weights_is_caught(saved, image, invoke, tmp_path, monkeypatch):
    """Planted: the "trained" network is one of the random ones, and the only one compared."""
    model = with_random_weights(zoo.build("resnet8", 3), 0)
    monkeypatch.setattr("experiments.saliency.RANDOM", 1)
    done = invoke("experiments.saliency", saved("resnet8", model), image, "--output",
                  tmp_path / "a.png")  # fmt: skip
    assert_prints(done, "this one proves nothing (rank correlations +1.00")


def test_the_old_name_still_works(command):
    done = command("experiments.attention", "--help")
    assert_prints(done, "Grad-CAM of a ResNet")
    assert "python -m experiments.saliency" in done.stderr
