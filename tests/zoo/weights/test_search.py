"""State dicts are found in the checkpoints that people have, and what is chosen is said."""

import io
import logging
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import refusal, same, shaken
from torch import nn

import zoo
from zoo.weights.files import decode
from zoo.weights.identify import names_for
from zoo.weights.kinds import KINDS, kind_of
from zoo.weights.load import open_weights

MODEL = shaken("resnet18", 3, width=2)
STATE = zoo.export(MODEL)
OTHER = {key: value.clone() for key, value in zoo.export(shaken("resnet18", 3, width=2)).items()}
OTHER["conv1.weight"] += 1
IN_PLACE = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def behind(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


def cut_off(state: dict) -> dict:
    """The names in nn.Sequential(*list(resnet.children())[:-1])."""
    parts = (key.split(".", 1) for key in state if not key.startswith("fc."))
    return {f"{IN_PLACE[first]}.{rest}": state[f"{first}.{rest}"] for first, rest in parts}


CHECKPOINTS = {
    "nested": {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": {}, "loss": 0.3},
    "deep": {"a": {"b": {"c": {"net": STATE}}}},
    "flat with numbers": {**STATE, "epoch": 3},
    "Lightning": {"state_dict": behind("model.", STATE), "hyper_parameters": {"lr": 0.1}},
    "MoCo": {"state_dict": behind("module.encoder_q.", STATE) | {
        "module.queue": torch.ones(2, 3), "module.queue_ptr": torch.ones(1)}},
    "averaged": behind("module.", STATE) | {"n_averaged": torch.tensor(4)},
    "plain and averaged": {"model": OTHER, "model_ema": {
        "n_averaged": torch.tensor(4), **behind("module.", STATE)}},
    "averaged in a list": {"model": STATE, "ema": {"shadow_params": [torch.ones(2)] * 2}},
    "a tuple": ({"net": STATE}, 3),
    "two in one dict": {**behind("net.", OTHER), **behind("ema.", STATE)},
    "an optimizer": {"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "a detector": behind("backbone.body.", STATE) | {"rpn.head.weight": torch.ones(2)},
}  # fmt: skip
NOTES = {
    "MoCo": "left out: module.queue (1), module.queue_ptr (1)",
    "averaged": "left out: n_averaged (1)",
    "plain and averaged": "took the averaged weights, model_ema.module; others: #model",
    "averaged in a list": "left out: ema.shadow_params (2)",
    "two in one dict": "took the averaged weights, ema; others: #net",
    "a detector": "left out: rpn (1)",
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_state_dict_is_found_and_what_is_left_out_is_said(kind, tmp_path, caplog):
    path = tmp_path / "checkpoint.pth"
    torch.save(CHECKPOINTS[kind], path)
    with caplog.at_level(logging.WARNING, "zoo"):
        for source in (path, CHECKPOINTS[kind]) if kind != "a tuple" else (path,):
            assert same(zoo.build("resnet18", weights=source).state_dict(), MODEL.state_dict())
    assert NOTES.get(kind, "") in caplog.text
    assert (kind in NOTES) == ("left out" in caplog.text)


def test_a_name_after_the_path_takes_another_one(tmp_path):
    path = tmp_path / "checkpoint#1.pth"
    torch.save(CHECKPOINTS["plain and averaged"], path)
    for name, state in (("#model", OTHER), ("#model_ema.module", STATE), ("", STATE)):
        weights = open_weights(f"{path}{name}")
        assert same(weights.tensors, state)
    with refusal(zoo.WeightsError, "no network's state dict at #mode", "#model, #model_ema.module"):
        zoo.build("resnet18", weights=f"{path}#mode")


@pytest.mark.parametrize(
    "names", [("student", "teacher"), ("module.encoder_q", "module.encoder_k")]
)
def test_an_open_choice_is_refused_and_the_advice_works(names, tmp_path):
    """Two of the same shape, or an averaged one of another network."""
    path = tmp_path / "checkpoint.pth"
    for other in (OTHER, zoo.export(shaken("resnet34", 3, width=2))):
        torch.save({"state_dict": behind(f"{names[0]}.", STATE) | behind("ema.", other)}, path)
        if other is OTHER:
            entries = {**behind(f"{names[0]}.", STATE), **behind(f"{names[1]}.", OTHER)}
            torch.save({"state_dict": entries}, path)
        with pytest.raises(zoo.WeightsError, match="this has 2 state dicts of networks") as found:
            zoo.build("resnet18", weights=path)
        advice = re.search(r"PATH(#[\w.]+)", str(found.value))[1]
        loaded = zoo.build("resnet18", weights=f"{path}{advice}")
        assert same(loaded.state_dict(), MODEL.state_dict())


def test_without_a_network_the_names_are_shown():
    refusals = {
        "a.b is (1,) in the file and unknown": {"a.b": torch.ones(1), "c": torch.ones(1)},
        "enc.x is (1,)": {"net": behind("enc.", {"x": torch.ones(1), "y": torch.ones(2)})},
        "conv1.weight is missing": {**STATE, "conv1.weight": None},
    }
    for words, state in refusals.items():
        with pytest.raises(zoo.WeightsError, match=re.escape(words)):
            zoo.load(zoo.build("resnet18", 3, width=2), {"state_dict": state})


# --- heads ---


@pytest.mark.parametrize("name", ["fc.1", "fc.head"])
def test_a_head_of_one_layer_is_taken_wherever_it_is(name, caplog):
    """nn.Sequential(nn.Dropout(), nn.Linear(...)) in place of torchvision's `fc`."""
    state = {key.replace("fc.", f"{name}."): value for key, value in STATE.items()}
    with caplog.at_level(logging.WARNING, "zoo"):
        loaded = zoo.build("resnet18", weights=state)
    assert same(loaded.state_dict(), MODEL.state_dict())
    assert f"took {name} as the head, fc" in caplog.text


def test_a_vit_whose_heads_a_notebook_replaced_loads():
    """model.heads = nn.Linear(...) in torchvision's ViT."""
    model = shaken("vit1", 3, image_size=8)
    state = {k.replace("heads.head.", "heads."): v for k, v in zoo.export(model).items()}
    assert same(zoo.build("vit1", weights=state).state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["classifier", "last_linear", "head.fc"])
def test_a_head_of_another_name_is_taken_if_it_is_alone(name, caplog):
    state = {key.replace("fc.", f"{name}."): value for key, value in STATE.items()}
    with caplog.at_level(logging.WARNING, "zoo"):
        assert same(zoo.build("resnet18", weights=state).state_dict(), MODEL.state_dict())
    assert f"took {name} as the head, fc" in caplog.text


HEADLESS = {
    "missing": {key: value for key, value in STATE.items() if not key.startswith("fc.")},
    "of several layers": {k: v for k, v in STATE.items() if not k.startswith("fc.")} | {
        "fc.0.weight": torch.ones(4, 16), "fc.2.weight": torch.ones(3, 4)},
    "missing: ": cut_off(STATE),
    "of several layers ": {k: v for k, v in STATE.items() if not k.startswith("fc.")} | {
        "projection_head.0.weight": torch.ones(4, 16), "prototypes.weight": torch.ones(3, 4)},
}  # fmt: skip


@pytest.mark.parametrize("how", HEADLESS)
def test_without_a_usable_head_the_rest_loads_and_the_random_head_is_said(how, caplog):
    """zoo.build makes a head; zoo.load is told to, and its advice works."""
    body = {key: v for key, v in MODEL.state_dict().items() if not key.startswith("head.")}
    with refusal(zoo.WeightsError, how.strip(": "), "drop='head'"):
        zoo.load(zoo.build("resnet18", 3, width=2), HEADLESS[how])
    loaded = [zoo.load(zoo.build("resnet18", 3, width=2), HEADLESS[how], drop="head")]
    with caplog.at_level(logging.WARNING, "zoo"):
        loaded += [zoo.build("resnet18", n, weights=HEADLESS[how]) for n in (None, 7)]
    assert ("random weights" in caplog.text) or ("the model keeps its own" in caplog.text)
    for model in loaded:
        assert same({k: v for k, v in model.state_dict().items() if k in body}, body)


OTHER_HEADS = {
    "missing": {},
    "of several layers": {"fc.0.weight": torch.ones(4, 16), "fc.2.weight": torch.ones(3, 4)},
    "for other features": {"fc.weight": torch.ones(3, 99), "fc.bias": torch.ones(3)},
    "without a bias": {"fc.weight": torch.ones(3, 16)},
}


@pytest.mark.parametrize("how", OTHER_HEADS)
def test_no_head_hides_the_network_or_keeps_a_new_one_from_it(how):
    state = {k: v for k, v in STATE.items() if not k.startswith("fc.")} | OTHER_HEADS[how]
    assert names_for(open_weights(state)) == ["resnet18"]
    for classes in (None, 3, 7):
        stem = zoo.build("resnet18", classes, weights=state).stem
        assert same(stem.state_dict(), MODEL.stem.state_dict())
    with refusal(zoo.WeightsError, "drop='head'"):  # and not num_classes, which is right
        zoo.load(zoo.build("resnet18", 3, width=2), state)


def test_transformers_backbones_load_without_the_prefix_of_their_class():
    """ViTModel and ResNetModel: no "vit." or "resnet.", no head, but a pooler."""
    for name, settings in (("vit1", {"image_size": 8, "eps": 1e-12}), ("resnet18", {"width": 2})):
        model = shaken(name, 3, **settings)
        state = zoo.export(model, "transformers")
        base = {k.split(".", 1)[1]: v for k, v in state.items() if not k.startswith("classifier")}
        base["pooler.dense.weight"] = torch.ones(64, 64)
        if name == "resnet18":
            del base["pooler.dense.weight"]
        loaded = zoo.build(name, 3, weights=base).state_dict()
        wanted = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
        assert same({key: loaded[key] for key in wanted}, wanted)


# --- dtypes and settings ---


def test_other_dtypes_load_and_rounding_is_said(caplog):
    def load(change, half=False) -> nn.Module:
        caplog.clear()
        model = zoo.build("resnet18", 3, width=2)
        with caplog.at_level(logging.WARNING, "zoo"):
            return zoo.load(
                model.half() if half else model, {k: change(v) for k, v in STATE.items()}
            )

    exact = load(lambda v: v.float())  # also num_batches_tracked, as averaging scripts leave it
    assert same(exact.state_dict(), MODEL.state_dict())
    assert "rounded" not in caplog.text
    for dtype in (torch.half, torch.bfloat16):
        back = load(lambda v, dtype=dtype: v.to(dtype) if v.is_floating_point() else v)
        assert back.stem.conv.weight.dtype == torch.float32
        assert "rounded" not in caplog.text
    load(lambda v: v.double() + 1e-12 if v.is_floating_point() else v)
    assert "rounded" in caplog.text
    load(lambda v: v, half=True)
    assert "rounded" in caplog.text
    with refusal(zoo.WeightsError, "num_batches_tracked has dtype torch.float32"):
        load(lambda v: v if v.is_floating_point() else v + 0.5)
    with refusal(zoo.WeightsError, "has values that torch.float16 cannot hold"):
        load(lambda v: v + 1e6 if v.is_floating_point() else v, half=True)
    with refusal(zoo.WeightsError, "int8"):
        load(lambda v: v.to(torch.int8))


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_settings_come_from_the_shapes_and_not_from_the_names(shortcut, caplog):
    """A CIFAR network in torchvision's names: stem, width, classes and projections."""
    model = shaken("resnet8", 4, width=2, shortcut=shortcut)
    words = {"stem.conv": "conv1", "stem.norm": "bn1", "head": "fc", "norm": "bn",
             "shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1",
             "shortcut.bn": "downsample.1"}  # fmt: skip
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"stages\.(\d)", lambda match: f"layer{int(match[1]) + 1}", key)
        for ours, theirs in words.items():
            key = key.replace(ours, theirs)
        state[key] = value
    with caplog.at_level(logging.WARNING, "zoo"):
        loaded = zoo.build("resnet8", weights=decode(saved(state), "x")[0])
    assert same(loaded.state_dict(), model.state_dict())


def saved(state: dict) -> bytes:
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


def test_what_a_state_dict_does_not_show_is_said(tmp_path, caplog):
    """Strides of a bottleneck; a published file or our own has them."""
    model = shaken("resnet50", 2, width=2)
    torch.save(zoo.export(model), tmp_path / "w.pth")
    for stride_in in ("conv2", "conv1"):
        with caplog.at_level(logging.WARNING, "zoo"):
            zoo.build("resnet50", weights=tmp_path / "w.pth", stride_in=stride_in)
        assert f"assumed, as a state dict does not show it: stride_in='{stride_in}'" in caplog.text


def test_li_and_akamaster_share_names_and_are_told_apart_by_the_caller(tmp_path, caplog):
    plain, residual = shaken("plain8", 3, width=2), shaken("resnet8", 3, width=2)
    state = zoo.export(plain, "li")
    target = zoo.build("plain8", 3, width=2)
    with refusal(zoo.WeightsError, "drop='shortcut'", "dialect='li'"):
        zoo.load(target, state)
    for options in ({"dialect": "li"}, {"drop": "shortcut"}):
        loaded = zoo.load(zoo.build("plain8", 3, width=2), state, **options)
        assert same(loaded.state_dict(), plain.state_dict())
    torch.save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.build("resnet8", weights=tmp_path / "w.pth")
        assert "the plain twin has the same entries" in caplog.text
        caplog.clear()
        torch.save(zoo.export(residual, "cifar"), tmp_path / "w.pth")  # with their prefix
        zoo.build("resnet8", weights=tmp_path / "w.pth")
        assert not caplog.text
    with refusal(zoo.WeightsError, "shortcut"):
        zoo.load(zoo.build("resnet8", 3, width=2), state, dialect="li")


@pytest.mark.parametrize(
    ("wrote", "reads", "settings"),
    [("resnet18", "resnet34", {"width": 2}), ("resnet8", "resnet20", {"width": 2}),
     ("resnet8", "resnet8", {"width": 2, "shortcut": "projection"}),
     ("vit1", "vit2", {"image_size": 8}), ("resnet18", "resnet18", {"width": 4})],
)  # fmt: skip
def test_advice_of_messages_works(wrote, reads, settings):
    """The zoo.build(...) of "this is resnet18's" makes the network of the weights."""
    model = shaken(wrote, 3, **settings)
    others = {"resnet8": "cifar", "vit1": "transformers"}
    for dialect in ("zoo", others.get(wrote, "torchvision")):
        eps = {"eps": 1e-12} if dialect == "transformers" else {}
        model = shaken(wrote, 3, **settings, **eps)
        state = zoo.export(model, dialect)
        with pytest.raises(zoo.WeightsError) as found:
            zoo.load(zoo.build(reads, 3, **eps), state)
        call = re.search(r"zoo\.build\((.*)\)", str(found.value))[1]
        advised = eval(f"zoo.build({call.replace('...', 'state')})", {"zoo": zoo, "state": state})
        assert same(advised.state_dict(), model.state_dict())


# --- other kinds of files ---


BEGINNINGS = (
    b"\x93NUMPY", b"\x89HDF", b"GGUF", b"\x08\x07\x12", b"\x80\x04", b"\x1f\x8b",
    b"0" * 257 + b"ustar", b"....ftypheic", b"%PDF", b"version https://git-lfs",
    b"\n<!DOCTYPE html>",    b'{"weight_map": 1}',
)  # fmt: skip


def test_every_kind_of_file_is_named(tmp_path):
    for begin, (_, kind, _) in zip(BEGINNINGS, KINDS["files"], strict=True):
        assert kind_of(begin + b" ...")[0] == kind
    assert kind_of(b"???") is None
    np.savez(tmp_path / "jax.npz", kernel=np.ones(3))
    torch.save(STATE, tmp_path / "protocol4.pth", pickle_protocol=4)
    for name, inside in (("keras.keras", "model.weights.h5"), ("weights.zip", "a/b.pth")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, b"x")
    for name, words in {
        "jax.npz": "a NumPy archive, as of JAX weights",
        "protocol4.pth": "a pickle that torch.save did not write with its defaults",
        "keras.keras": "a Keras network",
        "weights.zip": "unpack it first",
    }.items():
        with refusal(zoo.WeightsError, words):
            zoo.load(MODEL, tmp_path / name)


# --- arguments ---


def test_names_of_published_weights_in_every_spelling():
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    for name in (entry, "ResNet18_Weights.IMAGENET1K_V1", "imagenet1k_v1", "default", "DEFAULT"):
        assert zoo.published("resnet18", name).name == "IMAGENET1K_V1"
    for name, words in {
        "ResNet50_Weights.IMAGENET1K_V1": "ResNet50_Weights is of another model",
        "imagenet1k_v3": "did you mean IMAGENET1K_V1?",
    }.items():
        with refusal(zoo.WeightsError, f"{name!r} for resnet18", words):
            zoo.published("resnet18", name)


def test_numbers_of_numpy_and_patterns_of_names():
    assert zoo.build("resnet8", np.int64(4), width=np.int32(2)).head.out_features == 4
    assert zoo.list_models("resnet1*") == ["resnet110", "resnet18", "resnet101", "resnet152"]
    assert len(zoo.list_models()) > len(zoo.list_models("*vit*")) > 0
    with refusal(zoo.ModelError, "did you mean resnet50"):
        zoo.build("ResNet50")
    with pytest.raises(zoo.ModelError, match="num_classes"):
        zoo.build("resnet8", True)


def test_torch_hub_finds_every_network():
    root = Path(zoo.__file__).parents[1]
    model = torch.hub.load(str(root), "plain8", source="local", num_classes=3, width=2)
    assert model.head.out_features == 3
    assert (root / "zoo" / "py.typed").exists()
