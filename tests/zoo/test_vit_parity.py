"""Our ViTs are timm's to the last bit, and torchvision's and transformers' but for rounding.

The two do the same sums in another order, so they are compared in fp64 too, where rounding is
1e-13 of a value at most and every bug of the gallery is far above it.
"""

import copy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from experiments.proof.checks import compare, seeded_init, shake
from experiments.proof.oracles import LIBRARIES, VIT_ORACLES, logits_of
from experiments.verify import prove

TORCHVISION = VIT_ORACLES["torchvision"]
DTYPES = (torch.float32, torch.float64)
ROUNDS = [library for library in LIBRARIES if VIT_ORACLES[library].rounding]


def pair(name: str, library: str) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs, with the same shaken weights."""
    pytest.importorskip(library)
    oracle = VIT_ORACLES[library]
    theirs = oracle.build(name, 1000)
    shake(theirs)
    return zoo.load(zoo.build(name, 1000, **oracle.settings), theirs.state_dict()), theirs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["vit1", "vit2", "vit12"])
def test_every_block_is_theirs(name, library, dtype):
    """Activations in eval and train mode, gradients, and the key map both ways."""
    pytest.importorskip(library)
    proof = prove(name, VIT_ORACLES[library], dtype=dtype)
    assert [block.ours for block in proof.blocks if not block.equal] == []
    assert len(proof.blocks) == int(name[3:]) + 3  # stem, norm and head
    assert proof.round_trip == (0.0, True)
    assert proof.equal
    if library == "timm":
        assert proof.largest == 0
    elif dtype == torch.float64:
        assert proof.largest < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_block_of_vit_b_16_is_theirs(library):
    pytest.importorskip(library)
    proof = prove("vit_b_16", VIT_ORACLES[library], dtype=torch.float32)
    assert [block.ours for block in proof.blocks if not block.equal] == []
    assert [block.shape for block in proof.blocks[:-1]] == [(2, 197, 768)] * 14
    assert proof.round_trip == (0.0, True)
    assert proof.largest == 0 or library != "timm"


@pytest.mark.torchvision_order
@pytest.mark.parametrize("name", ["vit1", "vit2", "vit12", "vit_b_16"])
def test_seeded_alike_training_starts_from_torchvisions_weights(name):
    ours, theirs = partial(zoo.build, name, 1000), partial(TORCHVISION.build, name, 1000)
    assert seeded_init(ours, theirs, TORCHVISION) == ""


def test_training_with_adamw_gives_timms_weights():
    ours, theirs = pair("vit2", "timm")
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 999, 0, 7])
    for model in (ours, theirs):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(model.train()(images), labels).backward()
            optimizer.step()
    after = zoo.export(ours, "timm")
    assert all(torch.equal(value, after[key]) for key, value in theirs.state_dict().items())


def test_torchvisions_fused_attention_differs_by_rounding_alone():
    """It takes it in eval mode without gradients, which the checks therefore do not."""
    ours, theirs = (model.double().eval() for model in pair("vit2", "torchvision"))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-11, atol=1e-13)


# --- would it notice? ---


def other_eps(model):
    model.norm.eps = 1e-6 if model.norm.eps == 1e-12 else 1e-12


def one_weight(model):
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[7, 5] += 1e-6


def one_position(model):
    with torch.no_grad():
        model.stem.position[0, 9, 3] += 1e-6


class Cut(nn.Module):
    """The same output, and no gradient."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).detach()


def no_gradient(model):
    model.blocks[1].attention = Cut(model.blocks[1].attention)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("spoil", "first"),
    [(other_eps, "norm"), (one_weight, "blocks.0"), (one_position, "stem"), (no_gradient, None)],
)
def test_differences_are_noticed_and_where_they_start(spoil, first, library):
    ours, theirs = pair("vit2", library)
    spoil(ours)
    blocks = compare(ours, theirs, VIT_ORACLES[library])
    different = [block.ours for block in blocks if not block.evaluation.equal]
    assert (different[0] if different else None) == first
    assert any(not block.gradients.equal for block in blocks)


@pytest.mark.parametrize("library", ROUNDS)
def test_in_fp64_alone_no_eps_hides_in_the_rounding(library):
    """Why the checks are in fp64: in fp32 no forward pass shows the last norm's."""
    for dtype in DTYPES:
        ours, theirs = pair("vit2", library)
        other_eps(ours)
        blocks = compare(ours, theirs, VIT_ORACLES[library], dtype)
        hides = all(block.evaluation.equal for block in blocks)
        assert hides == (dtype == torch.float32)


def test_another_libraries_eps_is_refused_in_both_directions():
    ours, _ = pair("vit1", "transformers")
    for dialect in ("torchvision", "timm"):
        with pytest.raises(zoo.WeightsError, match="eps"):
            zoo.export(ours, dialect)
    state = zoo.export(zoo.build("vit1"), "timm")
    with pytest.raises(zoo.WeightsError, match="build the model with eps=1e-06"):
        zoo.load(zoo.build("vit1", eps=1e-12), state)
    assert zoo.load(zoo.build("vit1", eps=1e-12), zoo.export(zoo.build("vit1", eps=1e-12), "zoo"))


# --- the command ---


def test_the_command_says_what_is_rounding(invoke):
    done = invoke("experiments.verify", "vit2")
    assert done.returncode == 0
    for word in ("encoder.dropout", "blocks.1", "2x65x64", "fp64", "5 blocks: rounding", "256"):
        assert word in done.stdout
    pytest.importorskip("timm")
    done = invoke("experiments.verify", "vit2", "--against", "timm")
    assert done.returncode == 0
    for word in ("pos_drop", "fp32", "5 blocks: equal"):
        assert word in done.stdout
    assert "rounding" not in done.stdout.lower()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_file_of_theirs_can_be_verified(library, invoke, tmp_path):
    """Of another number of classes and another size of image."""
    pytest.importorskip(library)
    theirs = VIT_ORACLES[library].build("vit1", 7, 40)
    shake(theirs)
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    done = invoke("experiments.verify", "vit1", "--weights", path, "--against", library)
    assert done.returncode == 0, done.stderr
    assert "2x101x64" in done.stdout
    assert "largest difference 0; 4 blocks" in done.stdout


def test_weights_of_another_eps_are_no_networks_of_theirs(invoke, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(zoo.export(zoo.build("vit1", eps=1e-12), "transformers"), path)
    done = invoke("experiments.verify", "vit1", "--weights", path)
    assert done.returncode == 4
    assert "eps=1e-06" in done.stderr


# --- their own files ---


def test_transformers_opens_what_we_write_and_we_what_it_writes(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours, theirs = pair("vit2", "transformers")
    theirs.save_pretrained(tmp_path)
    back = zoo.load(zoo.build("vit2", 1000, eps=1e-12), tmp_path / "model.safetensors")
    exported = zoo.export(ours, "transformers")
    assert same(back.state_dict(), ours.state_dict())
    assert same(load_file(tmp_path / "model.safetensors"), exported)
    opened = transformers.ViTForImageClassification.from_pretrained(
        None, config=copy.deepcopy(theirs.config), state_dict=exported
    )
    assert same(opened.state_dict(), theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = logits_of(opened.eval()(images))
        torch.testing.assert_close(ours.eval()(images), logits, rtol=1e-5, atol=1e-6)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_both_spellings_of_one_part_are_refused():
    ours, theirs = pair("vit1", "transformers")
    state = zoo.export(ours, "transformers")
    key = "vit.layers.0.attention.q_proj.weight"
    with pytest.raises(zoo.WeightsError, match="are the same part") as error:
        zoo.load(ours, {**state, key: theirs.state_dict()[key]})
    assert key in str(error.value)
    assert "vit.encoder.layer.0.attention.attention.query.weight" in str(error.value)
    # Some parts in the one spelling and others in the other are all there.
    mixed = {k: v for k, v in state.items() if ".query.weight" not in k}
    mixed[key] = theirs.state_dict()[key]
    assert zoo.load(ours, mixed) is ours


@pytest.mark.parametrize("letter", ["query", "key", "value"])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_third_of_the_attention_that_is_missing_or_of_another_shape_is_refused(letter, leaf):
    ours = zoo.build("vit1", eps=1e-12)
    state = zoo.export(ours, "transformers")
    name = f"vit.encoder.layer.0.attention.attention.{letter}.{leaf}"
    part = state.pop(name)
    with pytest.raises(zoo.WeightsError, match=f"{letter}.{leaf}.* is missing"):
        zoo.load(ours, state)
    with pytest.raises(zoo.WeightsError, match="in the file and"):
        zoo.load(ours, {**state, name: torch.cat([part, part])})


def test_torchvisions_older_spelling_is_read_and_never_written():
    ours, theirs = pair("vit2", "torchvision")
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in theirs.state_dict().items()
    }
    assert same(zoo.load(zoo.build("vit2", 1000), old).state_dict(), ours.state_dict())
    assert not any("linear_" in key for key in zoo.export(ours))
    old["encoder.layers.encoder_layer_0.mlp.0.weight"] = torch.ones(256, 64)
    with pytest.raises(zoo.WeightsError, match="are the same part"):
        zoo.load(ours, old)
