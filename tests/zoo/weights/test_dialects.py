"""Key maps are total and bijective: every name has one translation, and it leads back."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zoo
from experiments.proof.oracles import COMPARED, LIBRARIES, oracles_of
from zoo.weights.dialects import DIALECTS, RESNET_DIALECTS, VIT_DIALECTS

TORCHVISION, TRANSFORMERS = RESNET_DIALECTS["torchvision"], RESNET_DIALECTS["transformers"]
CIFAR, ZOO = RESNET_DIALECTS["cifar"], RESNET_DIALECTS["zoo"]
TORCHVISION_VIT, TIMM_VIT = VIT_DIALECTS["torchvision"], VIT_DIALECTS["timm"]
TRANSFORMERS_VIT = VIT_DIALECTS["transformers"]

DIALECT = st.sampled_from(DIALECTS)


def without_prefix(dialect, key: str) -> str:
    assert key.startswith(dialect.prefix)
    return key.removeprefix(dialect.prefix)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", COMPARED)
def test_the_map_is_a_bijection_between_their_entries_and_ours(name, library):
    pytest.importorskip(library)
    oracle = oracles_of(name)[library]
    with torch.device("meta"):
        theirs = {key: v.shape for key, v in oracle.build(name, 1000).state_dict().items()}
        ours = oracle.dialect.divided(zoo.build(name, 1000).state_dict())
    ours = {key: v.shape for key, v in ours.items()}
    assert {oracle.dialect.to_zoo(key): shape for key, shape in theirs.items()} == ours
    files = {oracle.in_files(key): shape for key, shape in theirs.items()}
    assert {oracle.dialect.from_zoo(key): shape for key, shape in ours.items()} == files
    assert (files == theirs) == (oracle.dialect is not TRANSFORMERS_VIT)


@given(name=st.sampled_from(zoo.list_models()), option=st.booleans(), data=st.data())
def test_every_entry_of_every_model_goes_there_and_back(name, option, data):
    vit = "vit" in name
    dialect = data.draw(st.sampled_from([*(VIT_DIALECTS if vit else RESNET_DIALECTS).values()]))
    settings = {"shortcut": "projection"} if option and name.startswith("resnet") else {}
    with torch.device("meta"):
        model = zoo.build(name, 2, **settings | ({} if vit else {"width": 1}))
        keys = list(dialect.divided(model.state_dict()))
    theirs = [dialect.from_zoo(key) for key in keys]
    assert None not in theirs
    assert len(set(theirs)) == len(keys)
    assert [dialect.to_zoo(without_prefix(dialect, key)) for key in theirs] == keys


NUMBER = st.integers(0, 12).map(str)
WORDS = """stem conv norm conv1 conv2 norm1 stages shortcut head weight bias layer1 layer0 bn1 fc
    linear downsample module classifier encoder resnet embedder layers layer convolution
    normalization layer01 01 running_var vit blocks attn attention qkv query key value proj mlp fc1
    linear_1 encoder_layer_0 self_attention in_proj_weight ln_1 position class_token q_proj dense
    layernorm_before intermediate output embeddings cls_token heads"""
WORD = st.sampled_from(WORDS.split())


@given(dialect=DIALECT, key=st.lists(WORD | NUMBER, min_size=1, max_size=9).map(".".join))
def test_any_name_that_is_translated_comes_back_as_it_was(dialect, key):
    ours = dialect.to_zoo(key)
    if ours is not None:
        theirs = without_prefix(dialect, dialect.from_zoo(ours))
        assert theirs == key or dialect.also
        assert dialect.to_zoo(theirs) == ours
    theirs = dialect.from_zoo(key)
    if theirs is not None:
        assert dialect.to_zoo(without_prefix(dialect, theirs)) == key


@given(
    dialect=DIALECT, rule=st.integers(0, 99),
    stage=st.integers(0, 12), block=st.integers(0, 40), n=st.integers(1, 3),
    leaf=st.sampled_from(["weight", "bias", "running_mean", "num_batches_tracked"]),
)  # fmt: skip
def test_every_rule_counts_right(dialect, rule, stage, block, n, leaf):
    """Both sides of a rule are filled in by hand, with numbers as each side counts them."""
    rules = (*dialect.rules, *dialect.also)
    theirs, ours = rules[rule % len(rules)]
    read_only = (theirs, ours) in dialect.also
    values = {"{stage}": stage, "{stage+1}": stage + 1, "{stage+4}": stage + 4,
              "{block}": block, "{n}": n, "{n-1}": n - 1, "{leaf}": leaf}  # fmt: skip
    for place, value in values.items():
        theirs, ours = theirs.replace(place, str(value)), ours.replace(place, str(value))
    assert dialect.to_zoo(theirs) == ours
    assert (dialect.from_zoo(ours) == dialect.prefix + theirs) != read_only


@pytest.mark.parametrize(
    ("dialect", "key"),
    [(TORCHVISION, "layer0.0.conv1.weight"), (TORCHVISION, "layer01.0.conv1.weight"),
     (TORCHVISION, "layer1.00.conv1.weight"), (TORCHVISION, "layer1.0.conv1"),
     (TORCHVISION, "xlayer1.0.conv1.weight"), (TORCHVISION, "layer1.0.conv1.weight.x"),
     (TORCHVISION, "layer1x0.conv1.weight"), (TORCHVISION, "layer1.0.conv0.weight"),
     (TORCHVISION, "layer1.0.downsample.2.weight"), (TORCHVISION, "fc1weight"),
     (TORCHVISION, "layer" + "9" * 5000 + ".0.conv1.weight"), (TORCHVISION, "fc.weight\n"),
     (TRANSFORMERS, "resnet.encoder.stages.0.layers.0.layer.-1.convolution.weight"),
     (TORCHVISION_VIT, "encoder.layers.encoder_layer_01.ln_1.weight"),
     (TORCHVISION_VIT, "encoder.layers.encoder_layer_0.ln_0.weight"),
     (TORCHVISION_VIT, "encoder.layers.encoder_layer_0.mlp.linear_0.weight"),
     (TIMM_VIT, "blocks.0.attn.q.weight"), (TIMM_VIT, "stem.position"),
     (TRANSFORMERS_VIT, "vit.encoder.layer.0.attention.q_proj.weight"),
     (TRANSFORMERS_VIT, "vit.pooler.dense.weight"), (TRANSFORMERS_VIT, "vit.layers.0.mlp.fc0.x")],
    ids=lambda value: value.name if hasattr(value, "name") else value[:40],
)  # fmt: skip
def test_names_that_only_look_right_are_unknown(dialect, key):
    assert dialect.to_zoo(key) is None


@pytest.mark.parametrize(
    ("dialect", "ours", "theirs"),
    [(CIFAR, "stages.1.0.shortcut.conv.weight", "module.layer2.0.shortcut.0.weight"),
     (CIFAR, "stages.1.0.shortcut.norm.weight", "module.layer2.0.shortcut.1.weight"),
     (TRANSFORMERS, "stages.0.0.conv0.weight", None),
     (TRANSFORMERS, "stages.0.0.conv1.weight",
      "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight")],
)  # fmt: skip
def test_our_names_are_translated_as_their_code_has_it(dialect, ours, theirs):
    """No published file has akamaster's option B: nn.Sequential(conv, norm) in `shortcut`."""
    assert dialect.from_zoo(ours) == theirs


def test_dialects_name_the_settings_that_their_networks_have():
    """torchvision's ResNets are v1.5 with projections; akamaster's put zeros on both sides."""
    assert TORCHVISION.requires["stride_in"] == ("conv2",)
    assert torchvision.models.resnet50().layer2[0].conv1.stride == (1, 1)
    assert set(CIFAR.requires["shortcut"]) == {"pad", "projection"}
    assert not ZOO.requires
    assert not VIT_DIALECTS["zoo"].requires
    with pytest.raises(AttributeError):
        ZOO.prefix = "module."


@pytest.mark.parametrize("library", LIBRARIES)
def test_dialects_name_the_eps_of_their_vits(library):
    pytest.importorskip(library)
    oracle = oracles_of("vit_b_16")[library]
    with torch.device("meta"):
        norms = [m for m in oracle.build("vit_b_16", 10).modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {oracle.settings["eps"]}
    assert len(norms) == 25


def test_q_k_and_v_are_views_of_one():
    model = zoo.build("vit2")
    state = model.state_dict()
    parts = TRANSFORMERS_VIT.divided(state)
    whole = state["blocks.1.attention.qkv.weight"]
    for i, letter in enumerate("qkv"):
        part = parts[f"blocks.1.attention.{letter}.weight"]
        assert part.data_ptr() == whole[64 * i].data_ptr()
        assert torch.equal(part, whole[64 * i : 64 * (i + 1)])
    assert all(value is state[key] for key, value in TIMM_VIT.divided(state).items())
