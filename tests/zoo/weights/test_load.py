"""zoo.load fills a model completely or not at all; zoo.export is its inverse."""

import copy
import logging
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import held, refusal, same, shaken, unfilled, vit_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import zoo
from experiments.proof.oracles import logits_of
from zoo.plainvit import BLOCKS
from zoo.resnet import TABLE, CifarStem
from zoo.weights.dialects import DIALECTS, VIT_DIALECTS, Dialect
from zoo.weights.files import Metadata, read_weights, write_weights
from zoo.weights.settings import settings_of


def refused(model, source, *words: str, **options) -> None:
    """zoo.load refuses this in three lines that contain `words`, and leaves the model untouched."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with refusal(zoo.WeightsError, *words):
        zoo.load(model, source, **options)
    assert same(before, model.state_dict())


def changed(state: dict, **changes) -> dict:
    """The state dict with entries added or replaced, or left out if a change is None."""
    state = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in state.items() if value is not None}


def logged(caplog, action, *arguments, **options):
    """Run action(*arguments) with its warnings in the log; returns its result."""
    with caplog.at_level(logging.WARNING, "zoo"):
        return action(*arguments, **options)


def speakers(dialect: Dialect) -> list[str]:
    """The models that a dialect has names for, except the largest ones."""
    vits = dialect in VIT_DIALECTS.values()
    names = [name for name in zoo.list_models() if ("vit" in name) == vits]
    names = [name for name in names if not name.endswith(("152", "110", "101", "_16", "_32"))]
    if dialect.name == "zoo":
        return names
    cifar = {name for name, row in TABLE.items() if row.stem is CifarStem}
    names = [name for name in names if not name.startswith("plain")]
    return [name for name in names if (name in cifar) == (dialect.name == "cifar")]


def small(name: str, dialect: Dialect) -> dict:
    """Settings of a small network that the dialect may hold."""
    if "vit" not in name:
        return {"width": 2}
    eps = dialect.requires.get("eps", ("1e-06",))[0]
    return {"image_size": 8, "eps": float(eps)}


SPOKEN = st.sampled_from(DIALECTS).flatmap(
    lambda dialect: st.tuples(st.sampled_from(speakers(dialect)), st.just(dialect))
)


def without_counters(state: dict) -> dict:
    return {key: v for key, v in state.items() if "num_batches_tracked" not in key}


WRAPPERS = st.sampled_from(
    [
        lambda state: state,
        lambda state: {"state_dict": state, "best_prec1": 91.7},
        lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 3},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        without_counters,
        lambda state: dict(reversed(state.items())),
        lambda state: {key: nn.Parameter(v, v.is_floating_point()) for key, v in state.items()},
    ]
)


@settings(max_examples=15)
@given(spoken=SPOKEN, wrap=WRAPPERS, named=st.booleans(), seed=st.integers(0, 99))
def test_exported_weights_come_back_to_the_last_bit_in_any_wrapper(spoken, wrap, named, seed):
    name, dialect = spoken
    torch.manual_seed(seed)
    settings = small(name, dialect)
    model = shaken(name, 3, **settings)
    # The zoo's own entries do not show their settings, so bare ones count as the defaults'.
    state, wanted = wrap(zoo.export(model, dialect.name)), model.state_dict()
    if wrap is without_counters:  # the counters are then zero
        wanted = {k: v if v.is_floating_point() else 0 * v for k, v in wanted.items()}
    back = zoo.load(unfilled(name, 3, **settings), state, dialect.name if named else None)
    assert same(back.state_dict(), wanted)


@settings(max_examples=12)
@given(spoken=SPOKEN, suffix=st.sampled_from([".pth", ".safetensors", ".pt"]))
def test_files_come_back_to_the_last_bit_with_what_they_say(tmp_path_factory, spoken, suffix):
    name, dialect = spoken
    path = tmp_path_factory.mktemp("files") / f"w{suffix}"
    settings = small(name, dialect)
    model = shaken(name, 2, **settings)
    said = Metadata(name, settings_of(model), ("ant", "bee\u4e2d"))
    for metadata, source in ((said, path), (Metadata(), str(path))):
        write_weights(path, zoo.export(model, dialect.name), metadata)
        assert read_weights(path).metadata == metadata
        back = zoo.load(unfilled(name, 2, **settings), source)
        assert same(back.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["vit2", "resnet8"])
def test_the_addresses_of_loaded_tensors_do_not_matter(name):
    """MKL sums in an order that depends on addresses, so a network has memory of its own."""
    model = shaken(name).eval()
    state = {key: four_bytes_on(value) for key, value in model.state_dict().items()}
    again = zoo.load(zoo.build(name), state).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))
    # Not every processor would show a difference.
    assert all(value.data_ptr() % 64 == 0 for value in again.state_dict().values())


def four_bytes_on(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, four bytes after the address that torch would choose (eight for int64)."""
    return torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize(("model", "twin", "count"), [("plain18", "resnet18", 18),
                                                      ("plain50", "resnet50", 24),
                                                      ("plain20", "resnet20", 0)])  # fmt: skip
def test_a_plain_network_takes_its_twins_weights_and_says_so(model, twin, count, caplog):
    dialect = "cifar" if model == "plain20" else "torchvision"
    state = zoo.export(shaken(twin, 4, width=4), dialect)
    refused(zoo.build(model, 4, width=4), state, "drop='shortcut'")
    plain = logged(caplog, zoo.load, zoo.build(model, 4, width=4), state, drop="shortcut")
    said = f"dropped {count} entries" if count else "no entries of a shortcut: none are dropped"
    assert said in caplog.text
    twins = zoo.load(zoo.build(twin, 4, width=4), state).state_dict()
    assert held(plain.state_dict(), twins)


@pytest.mark.parametrize("block", [None, *BLOCKS])
def test_a_plain_vit_takes_its_twins_weights_and_says_so(block, caplog):
    dialect = "timm" if block in (None, "plain") else "zoo"
    twin = shaken("vit2", 5)
    model = zoo.build("plainvit2", 5, block=block)
    state = zoo.export(twin, dialect)
    if block in ("no-mlp", "pure-attention"):
        refused(model, state, "missing in the model", drop="shortcut")
        return
    if dialect == "timm":
        refused(model, state, "drop='shortcut'")
    logged(caplog, zoo.load, model, state, drop="shortcut")
    assert "the weights have no entries of a shortcut: none are dropped" in caplog.text
    assert held(model.state_dict(), twin.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(images), twin(images))
    refused(twin, state, "for plain networks", drop="shortcut")


def test_another_head_is_refused_or_left_out(caplog):
    state = zoo.export(shaken("resnet18", 4, width=4))
    model = zoo.build("resnet18", 6, width=4)
    refused(model, state, "the file's head has 4 classes, the model 6: pass num_classes=4",
            "fc.weight", "(4, 32)", "(6, 32)")  # fmt: skip
    head = model.head.weight.clone()
    logged(caplog, zoo.load, model, state, drop="head")
    assert "dropped 2 entries of a head: the model keeps its own" in caplog.text
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.stem.conv.weight, state["conv1.weight"])


T = torch.ones


def nested(layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        return torch.nested.nested_tensor([T(4)], layout=layout)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"layer1__0__bn1__bias": None}, ("layer1.0.bn1.bias is missing", "they are incomplete")),
     ({"conv1__weight": None}, ("conv1.weight is missing in the file and (4, 3, 7, 7) in",)),
     ({"extra": T(1)}, ("extra is (1,) in the file and unknown",)),
     ({"stem__conv__weight": T(4, 3, 7, 7)}, ("(4, 3, 7, 7) in the file and unknown",)),
     ({"layer1__0__conv3__weight": T(4)}, ("conv3.weight is (4,) in the file and missing in",)),
     ({"layer5__0__conv1__weight": T(4)}, ("(4,) in the file and missing in",)),
     ({"layer2__0__bn2__weight": T(9)}, ("layer2.0.bn2.weight is (9,) in the file and (8,)",)),
     ({"layer2__0__bn2__weight": T(8, 1)}, ("(8, 1) in the file and (8,) in the model",)),
     ({"fc__weight": None, "fc__bias": None, "fc__1__weight": T(5, 32), "fc__1__x": T(5)},
      ("fc.1.weight is (5, 32) in the file and unknown", "of several layers: pass drop='head'")),
     ({"bn1__running_var": -T(4)}, ("bn1.running_var", "negative variances")),
     ({"bn1__running_var": T(4) * float("nan")}, ("bn1.running_var is not finite",)),
     ({"bn1__num_batches_tracked": torch.tensor(1.5)}, ("torch.float32, which torch.int64",)),
     ({"bn1__num_batches_tracked": T((), dtype=torch.uint16)}, ("torch.uint16",)),
     ({"bn1__running_var": 0 * T(4)}, ("bn1.running_var is", "nothing but zeros")),
     ({"conv1__weight": 0 * T(4, 3, 7, 7)}, ("conv1.weight is", "nothing but zeros")),
     ({"fc__bias": T(())}, ("fc.bias is () in the file and (5,) in the model",)),
     ({"fc__weight": T(())}, ("fc.weight is () in the file",)),
     ({"conv1__weight": T(())}, ("conv1.weight is () in the file",)),
     ({"x" * 501: T(1)}, ("an entry's name has 501 letters",)),
     ({"bn1__bias": 3}, ("bn1.bias is missing",)),
     *(({"bn1__bias": value}, (words,)) for value, words in (
         (T(4) * float("inf"), "bn1.bias is not finite"),
         (torch.tensor([float("inf"), -float("inf"), 0, 0]), "not finite"),
         (T(4).int(), "torch.int32, which torch.float32 cannot hold"),
         (T(4) > 0, "torch.bool, which"), (T(4) * 1j, "torch.complex64"),
         (T(4).to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
         (T(4).to_sparse(), "'bn1.bias' is Tensor, not a plain"),
         (nested(torch.strided), "the entry 'bn1.bias' is"),
         (nested(torch.jagged), "the entry 'bn1.bias' is"),
         (T(4, device="meta"), "'bn1.bias' is Tensor, not a plain"),
         (nn.UninitializedParameter(), "'bn1.bias' is UninitializedParameter"),
         ([1.0] * 4, "bn1.bias is missing")))],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_every_entry_that_does_not_fit_is_refused_by_name(changes, words):
    state = changed(zoo.export(shaken("resnet18", 5, width=4)), **changes)
    refused(zoo.build("resnet18", 5, width=4), state, *words)


def test_precisions_that_the_model_holds_exactly_are_taken():
    state = {
        k: v.half() if v.is_floating_point() else v
        for k, v in zoo.export(shaken("resnet18", 2, width=2)).items()
    }
    model = zoo.load(zoo.build("resnet18", 2, width=2), state)
    assert torch.equal(model.head.weight, state["fc.weight"].float())
    huge = torch.full((2, 16), 3e38)  # the sum is infinite, the values are not
    model = zoo.load(model, changed(state, fc__weight=huge))
    assert torch.equal(model.head.weight, huge)


SMALL = {"num_classes": 5, "width": 4}


@pytest.mark.parametrize(
    ("file", "dialect", "wrote", "model", "reads", "cause"),
    [("resnet34", "torchvision", SMALL, "resnet18", SMALL,
      "this is resnet34's: zoo.build('resnet34', weights=...)"),
     ("resnet18", "torchvision", SMALL, "resnet50", SMALL, "this is resnet18's"),
     ("resnet152", "torchvision", SMALL, "resnet101", SMALL, "resnet152's"),
     ("resnet20", "cifar", {}, "resnet32", {}, "this is resnet20's"),  # as well as plain20's
     ("resnet20", "cifar", {"shortcut": "projection"}, "resnet20", {},
      "zoo.build('resnet20', weights=...)"),
     ("resnet18", "torchvision", {"width": 8}, "resnet18", {"width": 4},
      "zoo.build('resnet18', weights=...)")],
)  # fmt: skip
def test_the_message_names_the_network_of_the_file(file, dialect, wrote, model, reads, cause):
    """Even with option B or with another width."""
    state = zoo.export(shaken(file, **wrote), dialect)
    refused(zoo.build(model, **reads), state, cause)


@pytest.mark.parametrize(
    ("name", "settings", "dialect", "words"),
    [("resnet50", {"stride_in": "conv1"}, "torchvision", ()),
     ("resnet50", {"stride_in": "conv1"}, "transformers", ()),
     ("resnet18", {"shortcut": "pad"}, "torchvision", ("this is resnet18's",)),
     ("resnet20", {"shortcut": "pad-append"}, "cifar", ("has pad-append", "shortcut='pad'")),
     ("resnet20", {}, "torchvision", ("conv1.weight is (4, 3, 7, 7)", "resnet18's")),
     ("resnet18", {}, "cifar", ("conv1.weight is (4, 3, 3, 3)", "resnet20's")),
     ("resnet20", {"norm": "none"}, "cifar", ("bn1.weight is (4,)", "this is resnet20's")),
     ("resnet18", {"norm": "none"}, "torchvision", ("bn1.weight is (4,)", "resnet18's"))],
)  # fmt: skip
def test_settings_of_the_file_and_of_the_model_are_compared(name, settings, dialect, words):
    """By names and shapes, and where these do not tell, by what the library's networks have.

    Strides are the caller's choice: a state dict does not show them, which is logged.
    """
    right = {"torchvision": "resnet50" if "50" in name else "resnet18",
             "transformers": "resnet50", "cifar": "resnet20"}[dialect]  # fmt: skip
    state = zoo.export(shaken(right, 3, width=4), dialect)
    model = zoo.build(name, 3, width=4, **settings)
    if words:
        refused(model, state, *words, dialect=dialect)
    else:
        zoo.load(model, state, dialect)
    with pytest.raises(zoo.WeightsError, match="no network of theirs computes this"):
        zoo.export(model, dialect)


@pytest.mark.parametrize(
    ("wrote", "wrote_with", "reads", "reads_with", "words"),
    [("resnet50", {"stride_in": "conv1"}, "resnet50", {}, ("stride_in",)),
     ("resnet50", {}, "resnet50", {"stride_in": "conv1"}, ("stride_in",)),
     ("resnet20", {"shortcut": "pad-append"}, "resnet20", {}, ("pad-append",)),
     ("plain20", {}, "resnet20", {}, ("plain", "twin")),
     ("resnet20", {}, "plain20", {}, ("plain", "drop"))],
)  # fmt: skip
def test_our_own_files_say_what_wrote_them(wrote, wrote_with, reads, reads_with, words, tmp_path):
    """So does the dict that torch.load returns for such a file."""
    model = shaken(wrote, 3, width=2, **wrote_with)
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        write_weights(path, zoo.export(model, "zoo"), Metadata(wrote, settings_of(model)))
        refused(zoo.build(reads, 3, width=2, **reads_with), path, *words)
        zoo.load(zoo.build(wrote, 3, width=2, **wrote_with), path)
    loaded = torch.load(path, weights_only=True)
    refused(zoo.build(reads, 3, width=2, **reads_with), loaded, *words)
    zoo.load(zoo.build(wrote, 3, width=2, **wrote_with), loaded)


def test_wrong_calls_are_refused():
    state = zoo.export(shaken("resnet18", 2, width=2))
    model = zoo.build("resnet18", 2, width=2)
    refused(model, state, "no dialect 'keras'", dialect="keras")
    refused(model, state, "no drop='stem'", drop="stem")
    refused(model, state, "for plain networks", drop="shortcut")
    refused(model, {}, "no state dict")
    refused(model, {"a.b": T(1)}, "a.b", "the zoo does not have")
    refused(nn.DataParallel(model), state, "DataParallel")
    for source in (None, 3, b"w.pth", [state], torch.ones(2), Path):
        refused(model, source, "a path, a URL or a state dict")
    refused(model, "~nobody-of-this-name/w.pth", "no such file")
    for odd in ([], {}, 3):
        refused(model, state, "no dialect", dialect=odd)
        refused(model, state, "no drop", drop=odd)
    with refusal(zoo.WeightsError, "no dialect"):
        zoo.export(model, "keras")
    with torch.device("meta"):
        model = zoo.build("resnet18", 2, width=2)
    with refusal(zoo.WeightsError, "meta device"):
        zoo.load(model, state)
    with pytest.raises(zoo.WeightsError) as error:
        zoo.load(zoo.build("resnet18", 2, width=2), changed(state, bn1__bias=None))
    assert "more do not fit" not in str(error.value)


def test_models_that_were_changed_are_refused_or_filled():
    state = zoo.export(shaken("resnet18", 2, width=2))
    for head in (nn.Sequential(nn.Dropout(), nn.Linear(16, 5)), nn.Identity(), None):
        model = zoo.build("resnet18", 2, width=2)
        model.head = head
        refused(model, state, "fc.weight")
        assert zoo.load(model, state, drop="head").head is head
        assert torch.equal(model.stem.conv.weight, state["conv1.weight"])
    model.head = nn.Sequential(nn.Linear(16, 5))
    with pytest.raises(zoo.WeightsError, match=r"head\.0\.weight has no name"):
        zoo.export(model)


def test_a_state_dict_of_the_models_own_tensors_may_be_rearranged():
    model = shaken("resnet18", 2, width=2)
    before = {key: value.clone() for key, value in zoo.export(model).items()}
    state = zoo.export(model)
    a, b = "layer1.0.conv1.weight", "layer1.0.conv2.weight"
    state[a], state[b] = state[b], state[a]
    after = zoo.export(zoo.load(model, state))
    assert torch.equal(after[a], before[b])
    assert torch.equal(after[b], before[a])


def test_build_takes_a_file_and_makes_a_fresh_head_only_when_asked(tmp_path, caplog):
    model = shaken("resnet18", 5, width=4)
    path = tmp_path / "w.pth"
    write_weights(path, zoo.export(model), Metadata())
    build = partial(zoo.build, "resnet18", width=4, weights=path)
    for classes in (5, None):  # None: as many as in the file
        assert same(logged(caplog, build, classes).state_dict(), model.state_dict())
    assert "head" not in caplog.text
    assert "no blur before strides" in caplog.text  # which a state dict does not show
    torch.manual_seed(3)
    fresh = logged(caplog, build, 7)
    assert "dropped 2 entries of a head: the model keeps its own" in caplog.text
    torch.manual_seed(3)
    assert torch.equal(fresh.head.weight, nn.Linear(32, 7).weight)
    assert torch.equal(fresh.stages[3][1].conv2.weight, model.stages[3][1].conv2.weight)
    assert all(p.requires_grad and not p.is_meta for p in fresh.parameters())


def test_a_head_of_another_size_does_not_hide_another_network(tmp_path):
    path = tmp_path / "w.pth"
    write_weights(path, zoo.export(shaken("resnet34", 5, width=4)), Metadata())
    with refusal(zoo.WeightsError, "this is resnet34's"):
        zoo.build("resnet18", 7, width=4, weights=path)


# --- other libraries' ViTs ---


def test_another_libraries_eps_is_refused_in_both_directions():
    ours, _ = vit_pair("vit1", "transformers")
    for dialect in ("torchvision", "timm"):
        with refusal(zoo.WeightsError, "eps"):
            zoo.export(ours, dialect)
    model, state = zoo.build("vit1", eps=1e-12), zoo.export(zoo.build("vit1"), "timm")
    refused(model, state, "build a network with eps=1e-06")
    assert zoo.load(model, zoo.export(zoo.build("vit1", eps=1e-12), "zoo"))


def test_transformers_opens_what_we_write_and_we_what_it_writes(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours, theirs = vit_pair("vit2", "transformers")
    theirs.save_pretrained(tmp_path)
    back = zoo.load(zoo.build("vit2", 1000, eps=1e-12), tmp_path / "model.safetensors")
    exported = zoo.export(ours, "transformers")
    assert same(back.state_dict(), ours.state_dict())
    written = load_file(tmp_path / "model.safetensors")  # which has its own order
    assert same({key: written[key] for key in exported}, exported)
    assert written.keys() == exported.keys()
    opened = transformers.ViTForImageClassification.from_pretrained(
        None, config=copy.deepcopy(theirs.config), state_dict=exported
    )
    assert same(opened.state_dict(), theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = logits_of(opened.eval()(images))
        torch.testing.assert_close(ours.eval()(images), logits, rtol=1e-5, atol=1e-6)


def test_both_spellings_of_one_part_are_refused():
    ours, theirs = vit_pair("vit1", "transformers")
    state = zoo.export(ours, "transformers")
    key = "vit.layers.0.attention.q_proj.weight"
    refused(ours, {**state, key: theirs.state_dict()[key]}, "are the same part", key,
            "vit.encoder.layer.0.attention.attention.query.weight")  # fmt: skip
    # Different parts may have different spellings.
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
    refused(ours, state, f"{letter}.{leaf}", " is missing")
    refused(ours, {**state, name: torch.cat([part, part])}, f"{letter}.{leaf}", "in the file and")


def test_torchvisions_older_spelling_is_read_and_never_written():
    ours, theirs = vit_pair("vit2", "torchvision")
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in theirs.state_dict().items()
    }
    assert same(zoo.load(zoo.build("vit2", 1000), old).state_dict(), ours.state_dict())
    assert not any("linear_" in key for key in zoo.export(ours))
    old["encoder.layers.encoder_layer_0.mlp.0.weight"] = torch.ones(256, 64)
    refused(ours, old, "are the same part")
