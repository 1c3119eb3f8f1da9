"""ResNets of the Hugging Face Hub: folders of transformers and of timm, whole or in shards."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import assert_prints, held, refusal, shaken
from PIL import Image
from sample_images import smooth_image
from test_hub import (
    CONFIG,
    NOWHERE,
    OPEN,
    PROCESSOR,
    assert_alike,
    by_transformers,
    change,
    in_a_process,
    serving,
)

import zoo
from data.images import load_image
from data.views import View
from experiments.classifier import load_model, predict, save_classifier
from experiments.plumbing.preprocess import view_from
from experiments.proof.checks import shake
from zoo.weights.configs import metadata_of
from zoo.weights.load import open_weights

transformers = pytest.importorskip("transformers")
LABELS = ("ant", "bee", "cat")
SHAPES = {"resnet18": ("basic", [2, 2, 2, 2], 1), "resnet50": ("bottleneck", [3, 4, 6, 3], 4)}


def written(folder: Path, name: str, **settings) -> torch.nn.Module:
    """A narrow ResNet of transformers, which transformers saves in the folder."""
    layer, depths, times = SHAPES[name]
    config = transformers.ResNetConfig(
        layer_type=layer, depths=depths, embedding_size=8,
        hidden_sizes=[8 * times * 2**i for i in range(4)], id2label=dict(enumerate(LABELS)),
        label2id={label: place for place, label in enumerate(LABELS)}, **settings,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.ResNetForImageClassification(config).eval()
    shake(model)
    model.save_pretrained(folder)
    size = {"shortest_edge": 40}
    transformers.ConvNextImageProcessor(size=size, crop_pct=0.9).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder that transformers wrote, the network in it, and an image."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    model = written(folder, "resnet18")
    return folder, model, smooth_image(folder.parent / "image.png", (120, 80))


@pytest.fixture
def copied(theirs, tmp_path):
    return Path(shutil.copytree(theirs[0], tmp_path / "copy"))


def assert_equal_logits(ours: torch.nn.Module, model: torch.nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = getattr(model(images), "logits", None)
        wanted = model(images) if wanted is None else wanted
        assert torch.allclose(ours(images), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.01  # there is something to compare


def test_a_folder_of_transformers_is_the_same_network_with_its_labels(theirs):
    folder, model, image = theirs
    ours = load_model(folder)
    assert_equal_logits(ours.model, model)
    assert ours.classes == LABELS
    assert (ours.view.resize, ours.view.crop, ours.view.interpolation) == (44, 40, "bicubic")
    assert_alike(predict(ours, image), by_transformers(folder, image))


def test_strides_come_from_the_config(tmp_path):
    """Both networks have the same entries; only downsample_in_bottleneck tells them apart."""
    model = written(tmp_path, "resnet50", downsample_in_bottleneck=True, image_size=[7])
    ours = load_model(tmp_path).model
    assert_equal_logits(ours, model)
    built = zoo.build("resnet50", 3, weights=tmp_path)
    assert held(ours.state_dict(), built.state_dict())
    assert built.stages[1][0].conv1.stride == (2, 2)
    with refusal(zoo.WeightsError, "stride_in=conv1"):
        zoo.build("resnet50", 3, weights=tmp_path, stride_in="conv2")


# --- what a config can reveal ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"downsample_in_first_stage": True}, "downsample_in_first_stage=True"),
     ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
     ({"num_channels": 1}, "num_channels=1"),
     ({"depths": [2, 2, 2]}, "depths=[2, 2, 2]"),
     ({"layer_type": "bottleneck"}, "layer_type='bottleneck'"),
     ({"embedding_size": 64}, "embedding_size=64"),
     ({"embedding_size": "8"}, "embedding_size='8'"),
     ({"hidden_sizes": [8, 16, 32, 48]}, "hidden_sizes"),
     ({"downsample_in_bottleneck": "no"}, "downsample_in_bottleneck='no'"),
     ({"num_labels": 10**9, "id2label": None}, "id2label"),
     ({"model_type": ["resnet"]}, "model_type=['resnet']")],
    ids=str,
)  # fmt: skip
def test_what_the_zoo_does_not_have_is_refused_by_name(copied, changes, words):
    change(copied, CONFIG, **changes)
    with refusal(zoo.WeightsError, "not a network of the zoo", words):
        metadata_of(copied)


def test_classes_without_names_keep_the_placeholders(copied):
    change(copied, CONFIG, id2label=None, num_labels=4)
    assert metadata_of(copied).classes == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


# --- preprocessing ---

OLD = {"feature_extractor_type": "ConvNextFeatureExtractor", "do_normalize": True,
       "do_resize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "steps"),
    [(OLD | {"size": 56, "crop_pct": 0.89, "resample": 3}, (62, 56, False)),
     (OLD | {"size": 390, "crop_pct": None, "resample": 2}, (390, 390, True)),
     ({"image_processor_type": "ConvNextImageProcessor"}, (384, 384, True)),
     ({"image_processor_type": "ViTImageProcessorFast", "size": {"height": 40, "width": 40}},
      (40, 40, True)),
     ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 44},
       "do_center_crop": True, "crop_size": {"height": 40, "width": 40}}, (44, 40, False))],
)  # fmt: skip
def test_preprocessing_is_that_of_transformers(theirs, copied, entries, steps):
    (copied / PROCESSOR).write_text(json.dumps(entries), encoding="utf-8")
    view = view_from(metadata_of(copied).preprocess, copied)
    assert (view.resize, view.crop, view.squash) == steps
    processor = transformers.AutoImageProcessor.from_pretrained(copied)
    wanted = processor(Image.open(theirs[2]), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(normalized(view, theirs[2]), wanted, atol=0.025)


def normalized(view: View, image: Path) -> torch.Tensor:
    pixels = view(load_image(str(image), str(image))) / 255
    return (pixels - torch.tensor(view.mean)[:, None, None]) / torch.tensor(view.std)[:, None, None]


@pytest.mark.parametrize(
    "changes",
    [{"crop_pct": 0}, {"crop_pct": None}, {"do_center_crop": True}, {"size": {"height": 40}},
     {"size": {"height": 40, "width": 40}}, {"image_processor_type": "BitImageProcessor"}],
    ids=str,
)  # fmt: skip
def test_preprocessing_that_we_cannot_follow_is_refused(copied, changes):
    entries = json.loads((copied / PROCESSOR).read_text(encoding="utf-8")) | changes
    (copied / PROCESSOR).write_text(json.dumps(entries), encoding="utf-8")
    with refusal(zoo.WeightsError, "unsupported preprocessing"):
        metadata_of(copied)


def test_a_folder_without_preprocessing_says_what_is_assumed(copied, capfd):
    (copied / PROCESSOR).unlink()
    assert load_model(copied).view == View(256, 224, "bicubic")  # that of microsoft/resnet-50
    said = capfd.readouterr().err
    assert "crop 224x224 (bicubic), ImageNet mean and std; assumed" in said
    assert "--preprocess" in said


# --- timm ---


def of_timm(architecture: str, **entries) -> dict:
    """What timm writes into config.json; `entries` replace those of the same name."""
    data = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic",
            "tag": "a1_in1k"}  # fmt: skip
    return {"architecture": architecture, "num_classes": 3, "pretrained_cfg": data} | entries


def described(folder: Path, config: dict):
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return metadata_of(folder)


def test_a_folder_of_timm_is_the_same_network(theirs, tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models._hub import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3).eval()
    config = {"label_names": list(LABELS)}
    save_for_hf(model, str(tmp_path), model_config=config, safe_serialization=True)
    ours = load_model(tmp_path)
    assert_equal_logits(ours.model, model)
    assert ours.classes == LABELS
    data = timm.data.resolve_data_config({}, model=model)
    wanted = timm.data.create_transform(**data)(Image.open(theirs[2]).convert("RGB"))
    assert torch.allclose(normalized(ours.view, theirs[2]), wanted, atol=0.025)


@pytest.mark.parametrize(
    "architecture",
    ["resnetblur18", "resnetaa50", "resnet50d", "seresnet50", "gluon_resnet50_v1c", "resnet26",
     "wide_resnet50_2", "vit_base_patch16_clip_224", "vit_base_patch16_224_miil", "deit3_base"],
)  # fmt: skip
def test_other_architectures_of_timm_are_refused_by_name(tmp_path, architecture):
    with refusal(zoo.WeightsError, f"architecture='{architecture}'"):
        described(tmp_path, of_timm(architecture))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("tv_resnet50", "resnet50"), ("resnet101.a1_in1k", "resnet101"),
     ("vit_large_patch16_384", "vit_l_16"), ("deit_base_patch16_224", "vit_b_16")],
)  # fmt: skip
def test_architectures_of_timm_that_the_zoo_has(tmp_path, architecture, name):
    found = described(tmp_path, of_timm(architecture))
    assert found.model == name
    if name.startswith("vit"):
        assert (found.settings["eps"], found.settings["resizing"]) == ("1e-06", "antialias")
    assert (found.preprocess["resize"], found.preprocess["crop"]) == (235, 224)
    assert found.classes == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [("vit_base_patch16_224", {"global_pool": "avg"}, "global_pool='avg'"),
     ("vit_base_patch16_224", {"model_args": {"img_size": 384}}, "img_size=384"),
     ("resnet50", {"model_args": {"output_stride": 16}}, "output_stride=16"),
     ("resnet50", {"model_args": {"path": "x"}}, "path='x'"),
     ("resnet50", {"model_args": 3}, "model_args=3"),
     ("resnet50", {"label_names": ["ant"]}, "label_names"),
     ("resnet50", {"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode='border'"),
     ("resnet50", {"pretrained_cfg": {"interpolation": "nearest"}}, "interpolation='nearest'"),
     ("resnet50", {"pretrained_cfg": {"input_size": [3, 224, 192]}}, "input_size=[3, 224, 192]")],
    ids=str,
)  # fmt: skip
def test_settings_of_timm_that_we_do_not_support_are_refused(
    tmp_path, architecture, changes, words
):
    with refusal(zoo.WeightsError, words):
        described(tmp_path, of_timm(architecture, **changes))


def test_arguments_that_only_training_uses_are_accepted(tmp_path):
    arguments = {"drop_path_rate": 0.1, "in_chans": 3, "global_pool": "avg", "num_classes": 3}
    assert described(tmp_path, of_timm("resnet50", model_args=arguments)).model == "resnet50"


def test_imagenets_names_are_those_of_the_tag_and_said(tmp_path, caplog):
    found = described(tmp_path, of_timm("resnet18", num_classes=1000))
    assert found.classes[:2] == ("tench", "goldfish")
    assert "as its tag says" in caplog.text
    assert described(tmp_path, of_timm("resnet18", num_classes=0)).classes is None  # no head


# --- shards ---


@pytest.fixture(params=["safetensors", "bin"])
def sharded(theirs, tmp_path, request):
    """The same weights in three files, with an index."""
    folder, model, _ = theirs
    if request.param == "safetensors":
        model.save_pretrained(tmp_path, max_shard_size="200KB")
    else:
        keys = list(model.state_dict())
        places = {key: f"pytorch_model-{i % 2}.bin" for i, key in enumerate(keys)}
        for name in set(places.values()):
            part = {key: v for key, v in model.state_dict().items() if places[key] == name}
            torch.save(part, tmp_path / name)
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    for name in (CONFIG, PROCESSOR):
        shutil.copy(folder / name, tmp_path / name)
    return tmp_path


def index_of(folder: Path) -> tuple[Path, dict]:
    (path,) = folder.glob("*.index.json")
    return path, json.loads(path.read_text(encoding="utf-8"))["weight_map"]


def test_shards_are_read_as_one_file_is(theirs, sharded):
    assert len(set(index_of(sharded)[1].values())) > 1
    mine, wanted = load_model(sharded), load_model(theirs[0])
    assert held(wanted.model.state_dict(), mine.model.state_dict())


def test_an_index_that_names_other_files_is_refused(sharded):
    path, places = index_of(sharded)
    key = "classifier.1.bias"

    def refused(words: str, **changes: str) -> None:
        path.write_text(json.dumps({"weight_map": places | changes}), encoding="utf-8")
        with refusal(zoo.WeightsError, words):
            open_weights(sharded)

    refused(f"../{places[key]}", **{key: f"../{places[key]}"})
    refused(f"no file of weights beside it: {CONFIG}", **{key: CONFIG})
    refused("other.bin", more="other.bin")
    path.write_text(json.dumps({"weight_map": {}}), encoding="utf-8")
    with refusal(zoo.WeightsError, "no file of weights"):
        open_weights(sharded)


# --- writing ---


@pytest.mark.parametrize(
    ("name", "settings", "view"),
    [("resnet18", {}, View(44, 40, "bicubic", input_size=40)),
     ("resnet50", {"stride_in": "conv1"}, View(40, 40, squash=True, input_size=40))],
)  # fmt: skip
def test_what_convert_writes_is_what_their_pipeline_takes(
    theirs, invoke, tmp_path, name, settings, view
):
    image, model = theirs[2], shaken(name, 3, width=8, **settings)
    save_classifier(tmp_path / "c.safetensors", name, model, LABELS, view, {})
    arguments = (tmp_path / "c.safetensors", tmp_path / "f", "--to", "transformers")
    assert_prints(invoke("experiments.convert", *arguments))
    again = load_model(tmp_path / "f")
    assert asdict(again.view) == asdict(view)
    assert_equal_logits(again.model, model.eval())
    answer = predict(load_model(tmp_path / "c.safetensors"), image)
    assert predict(again, image) == answer
    assert_alike(answer, by_transformers(tmp_path / "f", image))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [("resnet20", {}, "the model has cifar"), ("plain18", {"width": 8}, "the model has none")],
)
def test_networks_that_transformers_does_not_have_are_refused(
    invoke, tmp_path, name, settings, words
):
    model = zoo.build(name, 3, **settings)
    save_classifier(tmp_path / "c.safetensors", name, model, LABELS, View(), {})
    arguments = (tmp_path / "c.safetensors", tmp_path / "f", "--to", "transformers")
    done = invoke("experiments.convert", *arguments)
    assert done.returncode == 4
    assert words in done.stderr, done.stderr
    assert not (tmp_path / "f").exists()


# --- by name ---


@pytest.mark.parametrize("prefix", ["hf:", "hf-hub:"])
def test_a_name_is_downloaded_once_and_used_offline(theirs, tmp_path, prefix):
    """In shards, and from timm without a preprocessor_config.json."""
    served, home, source = tmp_path / "served", tmp_path / "home", f"{prefix}owner/name"
    if prefix == "hf:":
        theirs[1].save_pretrained(served, max_shard_size="200KB")
        shutil.copy(theirs[0] / PROCESSOR, served / PROCESSOR)
    else:
        served.mkdir()
        described(served, of_timm("resnet18"))
        torch.save(zoo.export(shaken("resnet18", 3, width=8)), served / "pytorch_model.bin")
    with serving(served) as (endpoint, log):
        first = in_a_process(home, endpoint, "-c", OPEN, source)
        assert_prints(first, str(metadata_of(served)))
        assert sorted(log) == sorted(path.name for path in served.iterdir())
    again = in_a_process(home, NOWHERE, "-c", OPEN, source, HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr


@pytest.mark.parametrize(
    "source",
    ["hf://owner/name", "hf://models/owner/name", "https://huggingface.co/owner/name",
     "https://hf.co/owner/name/tree/main"],
)  # fmt: skip
def test_other_spellings_of_a_name_are_corrected(source):
    with refusal(zoo.WeightsError, "did you mean hf:owner/name?"):
        open_weights(source)


def test_a_file_on_the_hub_is_still_a_url(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("zoo.weights.download.download", lambda url, *_: asked.append(url))
    url = "https://huggingface.co/owner/name/resolve/main/model.safetensors"
    with pytest.raises(zoo.WeightsError):  # nothing was written
        open_weights(url)
    assert asked == [url]
