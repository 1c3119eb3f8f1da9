"""Models of the Hugging Face Hub, by folder or by name, and their image preprocessing."""

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_prints, assert_three_lines, held, refusal, shaken
from sample_images import smooth_image

import zoo
from experiments.classifier import load_model, predict, save_classifier
from experiments.proof.checks import shake
from zoo.weights.hub import read_hub_folder, write_folder
from zoo.weights.load import open_weights

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
transformers = pytest.importorskip("transformers")


def written(folder: Path, layers: int, **labels) -> torch.nn.Module:
    """A small network of transformers, which transformers saves in the folder."""
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=256,
        image_size=32, patch_size=4, **labels,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.ViTForImageClassification(config).eval()
    shake(model)
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # so that the classes differ
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder that transformers wrote, the network in it, and an image."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    places = {name: place for place, name in enumerate(CIFAR10)}
    model = written(folder, 2, id2label=dict(enumerate(CIFAR10)), label2id=places)
    return folder, model, smooth_image(folder.parent / "image.png", (120, 75))


@pytest.fixture
def copied(theirs, tmp_path):
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(theirs[0], tmp_path / "copy"))


def change(folder: Path, name: str, **changes) -> None:
    path = folder / name
    said = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in said.items() if v is not None}), encoding="utf-8")


def by_transformers(folder: Path, image: Path, **options) -> list[dict]:
    return transformers.pipeline("image-classification", str(folder), **options)(str(image))


def assert_alike(mine: list[dict], wanted: list[dict]) -> None:
    assert [guess["label"] for guess in mine] == [guess["label"] for guess in wanted]
    scores = [guess["score"] for guess in wanted]
    assert [guess["score"] for guess in mine] == pytest.approx(scores, rel=0, abs=1e-5)


def test_a_folder_of_transformers_is_the_same_network_with_its_labels(theirs):
    folder, model, _ = theirs
    ours = load_model(folder)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours.model(images), model(images).logits, rtol=1e-5, atol=1e-5)
    assert ours.classes == CIFAR10
    assert (ours.model.norm.eps, ours.model.stem.resizing) == (1e-12, "bicubic")
    assert ours.view.mean == ours.view.std == (0.5, 0.5, 0.5)
    assert (ours.view.squash, ours.view.crop, ours.view.interpolation) == (True, 32, "bilinear")


@pytest.mark.parametrize("resample", [2, 3])
def test_predictions_are_those_of_transformers_pipeline(theirs, copied, resample):
    _, _, image = theirs
    change(copied, "preprocessor_config.json", resample=resample)
    mine = predict(load_model(copied), image, k=10)
    assert_alike(mine, by_transformers(copied, image, top_k=10))
    assert len({round(guess["score"], 4) for guess in mine}) > 5  # there is something to compare


def test_the_old_extractors_file_is_read(theirs, copied):
    """The file of ViTFeatureExtractor, from 2021; transformers 5 no longer has this class."""
    folder, _, image = theirs
    old = {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor",
           "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2,
           "size": 32}  # fmt: skip
    (copied / "preprocessor_config.json").write_text(json.dumps(old), encoding="utf-8")
    assert predict(load_model(copied), image) == predict(load_model(folder), image)


def test_a_pickle_that_weights_only_accepts_is_read(theirs, copied):
    folder, model, _ = theirs
    (copied / "model.safetensors").unlink()
    torch.save(model.state_dict(), copied / "pytorch_model.bin")  # with the names used in memory
    again, before = (load_model(of).model.state_dict() for of in (copied, folder))
    assert held(before, again)


def test_a_pickle_that_runs_code_is_refused(theirs, copied):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(copied / "ran"),)

    (copied / "model.safetensors").unlink()
    torch.save({"classifier.weight": Evil()}, copied / "pytorch_model.bin")
    with pytest.raises(zoo.WeightsError, match="nothing of it was run"):
        load_model(copied)
    assert not (copied / "ran").exists()


def test_a_folder_that_we_write_is_what_their_pipeline_takes(theirs, tmp_path):
    folder, _, image = theirs
    ours = load_model(folder)
    write_folder(tmp_path / "out", "vit2", ours.model, ours.classes, asdict(ours.view))
    mine, wanted = read_hub_folder(tmp_path / "out"), read_hub_folder(folder)
    assert mine.metadata == wanted.metadata
    assert set(mine.tensors) == set(wanted.tensors)
    assert held(wanted.tensors, mine.tensors)
    answers = [by_transformers(of, image, top_k=10) for of in (tmp_path / "out", folder)]
    assert answers[0] == answers[1]


def test_our_checkpoint_becomes_a_folder_with_its_own_eps_and_view(theirs, invoke, tmp_path):
    """The folder records eps 1e-6 and ImageNet's normalisation; a state dict cannot."""
    image = theirs[2]
    model = shaken("vit2", 3)
    view = type(load_model(theirs[0]).view)(36, 32, input_size=32)  # the shorter side, then a crop
    save_classifier(tmp_path / "c.safetensors", "vit2", model, ("a", "b", "c"), view, {})
    done = invoke(
        "experiments.convert", tmp_path / "c.safetensors", tmp_path / "f", "--to", "transformers"
    )
    assert_prints(done)
    mine = predict(load_model(tmp_path / "c.safetensors"), image)
    assert predict(load_model(tmp_path / "f"), image) == mine
    assert_alike(mine, by_transformers(tmp_path / "f", image))


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [(CONFIG, {"model_type": "bert"}, "model_type='bert'"),
     (CONFIG, {"hidden_act": "gelu_new"}, "gelu_new"),
     (CONFIG, {"qkv_bias": False}, "qkv_bias"),
     (CONFIG, {"num_attention_heads": 8}, "num_attention_heads=8"),
     (CONFIG, {"layer_norm_eps": "tiny"}, "layer_norm_eps"),
     (CONFIG, {"image_size": 30}, "image_size=30"),
     (CONFIG, {"image_size": 48}, "for images of 48 pixels"),
     (CONFIG, {"problem_type": "multi_label_classification"}, "multi_label"),
     (CONFIG, {"id2label": {"0": "cat", "2": "dog"}}, "a name in id2label"),
     (CONFIG, {"id2label": {"0": "cat"}}, "a name in id2label"),
     (CONFIG, {"id2label": None}, "2 classes and its head has 10"),
     (CONFIG, {"id2label": {"0": "cat", "1": "dog"}}, "2 classes and its head has 10"),
     *((PROCESSOR, changes, "unsupported preprocessing") for changes in (
         {"image_processor_type": "CLIPImageProcessor"}, {"do_pad": True}, {"do_resize": False},
         {"resample": [2]}, {"resample": 1}, {"do_center_crop": True, "crop_size": 28},
         {"rescale_factor": float("nan")}, {"rescale_factor": 1 / 127.5},
         {"size": {"height": [32], "width": [32]}}, {"size": {"shortest_edge": 32}},
         {"size": {"height": 64, "width": 64}}, {"size": {"height": 32, "width": 64}})),
     (PROCESSOR, {"image_std": [0, 1, 1]}, "cannot be followed")],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_settings_that_we_do_not_support_are_refused(copied, file, changes, words):
    change(copied, file, **changes)
    with refusal(zoo.WeightsError, words):
        load_model(copied)


def test_two_classes_without_names_have_those_of_transformers(tmp_path, theirs):
    written(tmp_path, 1, num_labels=2)
    assert "id2label" not in json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    assert_alike(predict(load_model(tmp_path), theirs[2]), by_transformers(tmp_path, theirs[2]))


def test_processor_config_wins_as_in_transformers(theirs, copied):
    """Its numbers differ from those in preprocessor_config.json beside it."""
    said = json.loads((copied / "preprocessor_config.json").read_text(encoding="utf-8"))
    said["image_mean"] = [0.1, 0.2, 0.3]
    path = copied / "processor_config.json"
    path.write_text(json.dumps({"image_processor": said}), encoding="utf-8")
    mine = predict(load_model(copied), theirs[2])
    assert mine != predict(load_model(theirs[0]), theirs[2])
    assert_alike(mine, by_transformers(copied, theirs[2]))
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(zoo.WeightsError, match="no image_processor"):
        load_model(copied)


def test_no_folder_is_written_that_transformers_would_refuse(theirs, tmp_path):
    ours = load_model(theirs[0])
    view = asdict(ours.view) | {"resize": 48, "crop": 48}
    with pytest.raises(zoo.WeightsError, match="48 pixels a side, and the network is for 32"):
        write_folder(tmp_path / "out", "vit2", ours.model, ours.classes, view)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_says_which(copied, file):
    (copied / file).unlink()
    with pytest.raises(zoo.WeightsError, match=re.escape(file)):
        load_model(copied)


def test_settings_of_the_weights_build_the_network(theirs):
    """eps and the image size come from the weights; explicit settings are not overruled."""
    folder = theirs[0]
    assert zoo.build("vit2", weights=folder).norm.eps == 1e-12
    larger = zoo.build("vit2", weights=folder, image_size=48)
    assert larger.stem.position.shape == (1, 145, 64)
    with pytest.raises(zoo.WeightsError, match="eps"):
        zoo.build("vit2", weights=folder, eps=1e-6)


# --- a Hub of our own, on loopback ---


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hub's protocol that hf_hub_download uses."""

    def __init__(self, folder: Path, log: list[str], *arguments) -> None:
        self.folder, self.log = folder, log
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match = re.fullmatch(r"/owner/name/resolve/\w+/([\w.-]+)", self.path)
        path = self.folder / match[1] if match else None
        if self.path.startswith("/api/models/owner/name"):
            self.answer(200, self.description())
        elif path and path.is_file():
            if self.command == "GET":
                self.log.append(path.name)
            content = path.read_bytes()
            self.answer(200, content, ETag=f'"{path.name}-{len(content)}"')
        else:
            self.answer(404, **{"X-Error-Code": "EntryNotFound" if match else "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

    def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        headers |= {"X-Repo-Commit": "a" * 40, "Content-Length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def description(self) -> bytes:
        files = [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name}
            for path in self.folder.iterdir()
        ]
        siblings = [{"rfilename": file["path"]} for file in files]
        model = {"id": "owner/name", "sha": "a" * 40, "siblings": siblings}
        return json.dumps(files if "/tree/" in self.path else model).encode()


@contextlib.contextmanager
def serving(folder: Path):
    """Serve the folder as owner/name; yields the address, and the names of downloaded files."""
    log: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, folder, log))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", log
    server.shutdown()


@pytest.fixture
def hub(copied):
    with serving(copied) as server:
        yield server


OPEN = "import sys; from zoo.weights.load import open_weights as o; print(o(sys.argv[1]).metadata)"


def in_a_process(home: Path, endpoint: str, *arguments: object, **more: str):
    """Run Python in its own process, because the library reads its settings on import."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **more}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip


NOWHERE = "http://127.0.0.1:9"


def test_a_name_of_the_hub_is_downloaded_once_and_used_offline(copied, hub, tmp_path):
    """A pickle, and shards: see test_hub_resnets.py."""
    (endpoint, log), home = hub, tmp_path / "home"
    first = in_a_process(home, endpoint, "-c", OPEN, "hf:owner/name")
    assert_prints(first, str(read_hub_folder(copied).metadata))
    assert sorted(log) == sorted([CONFIG, "model.safetensors", PROCESSOR])
    again = in_a_process(home, NOWHERE, "-c", OPEN, "hf:owner/name", HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr
    assert len(log) == 3  # nothing was requested again


def test_preprocessing_is_not_guessed_offline(copied, hub, tmp_path):
    """transformers' own download leaves no preprocessor_config.json, even if there is one."""
    fetch = "from huggingface_hub import hf_hub_download as get"
    for file in (CONFIG, "model.safetensors"):
        in_a_process(tmp_path, hub[0], "-c", f"{fetch}; get('owner/name', {file!r})")
    offline = {"HF_HUB_OFFLINE": "1"}
    done = in_a_process(tmp_path, NOWHERE, "-c", OPEN, "hf:owner/name", **offline)
    assert "cannot get hf:owner/name" in done.stderr
    (copied / PROCESSOR).unlink()
    asked = in_a_process(tmp_path, hub[0], "-c", OPEN, "hf:owner/name")
    assert_prints(asked, str(read_hub_folder(copied).metadata))
    done = in_a_process(tmp_path, NOWHERE, "-c", OPEN, "hf:owner/name", **offline)
    assert_prints(done, asked.stdout.strip())  # the absence is cached


@pytest.mark.parametrize(
    "settings", [{"HF_HUB_OFFLINE": "1"}, pytest.param({}, marks=pytest.mark.slow)]
)
def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(settings, theirs, tmp_path):
    """A library that does not know that it is offline tries six times, and would print that."""
    done = in_a_process(
        tmp_path, NOWHERE, "-m", "experiments.predict", "hf:nateraw/cifar10", theirs[2], **settings
    )
    assert_three_lines(done, 4, "hf:nateraw/cifar10", "config.json", "model.safetensors", "PATH")


def test_an_invalid_name_is_refused():
    for name in ("hf:", "hf:name", "hf:a/b/c", "hf:a/../b c"):
        with pytest.raises(zoo.WeightsError, match="not the name of a model"):
            open_weights(name)
