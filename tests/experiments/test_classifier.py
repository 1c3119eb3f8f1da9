"""Prediction and evaluation see validation's pixels; class names come from the checkpoint."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import assert_prints, assert_three_lines, refusal, shaken
from PIL import Image
from sample_images import noise

import zoo
from data.collection import Source, open_dataset
from data.decoding import DecodedOnUse
from data.errors import DataError
from data.images import load_image
from data.store import DecodedOnce
from data.view_batches import every_image
from data.views import View
from experiments.classifier import (
    FP32,
    find_images,
    load_model,
    predict,
    predictions,
    pretrained,
    save_classifier,
)
from experiments.evaluate import IMAGENET_IDS, to_evaluate
from experiments.plumbing.cli import UsageError
from experiments.plumbing.stats import wilson
from experiments.train.loop import evaluate
from zoo import WeightsError
from zoo.weights.files import Metadata, read_weights, write_weights

CLASSES = ("ant", "bee", "개미")
CPU = torch.device("cpu")
VIEW = View(24, 20, "bicubic", input_size=32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("data.collection.IMAGE_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes with a JPEG, a PNG, a BMP and a WebP each."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "test" / name).mkdir(parents=True)
        for i, ending in enumerate(("jpg", "png", "bmp", "webp")):
            pixels = rng.integers(0, 256, (30 + i, 50 - i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "test" / name / f"ä {i}.{ending}")
    return tmp_path / "test"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path, metrics = tmp_path / "best.safetensors", {"epoch": 4, "chosen_by": "val accuracy"}
    save_classifier(path, "resnet8", shaken("resnet8", 3), CLASSES, VIEW, metrics)
    return path


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """A file that stands in for the weights IMAGENET1K_V1."""
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.setattr(
        "zoo.weights.published.fetch", lambda _, **__: read_weights(tmp_path / "resnet18.pth")
    )
    return tmp_path / "resnet18.pth"


def test_prediction_sees_validations_pixels_and_gives_its_logits(folder, checkpoint, tmp_path):
    model = load_model(checkpoint)
    files = sorted(map(str, folder.glob("*/*")))
    labels = torch.zeros(len(files), dtype=torch.int64)
    for images in (DecodedOnce(files, VIEW, tmp_path), DecodedOnUse(tuple(files), VIEW)):
        for i, file in enumerate(files):
            assert torch.equal(model.view(load_image(file)), images[i])
        batches = list(every_image(images, labels, VIEW, 5, CPU))
        with torch.no_grad():
            expected = torch.cat([model.model(batch) for batch, _ in batches])
    one_by_one = torch.cat([model.logits(model.view(load_image(f))[None]) for f in files])
    assert (one_by_one - expected).abs().max() < 1e-5 * expected.abs().max()
    for file, logits in zip(files, expected, strict=True):
        best = predict(model, file, k=3)
        order = logits.argsort(descending=True)
        assert [guess["label"] for guess in best] == [CLASSES[i] for i in order]
        assert sum(guess["score"] for guess in best) == pytest.approx(1)
        assert best[0]["score"] == pytest.approx(logits.softmax(0).max().item(), abs=1e-5)
        assert predict(model, load_image(file), k=1) == best[:1]


def test_an_image_gives_the_same_answer_however_it_is_given(folder, checkpoint):
    model, file = load_model(checkpoint), folder / "ant" / "ä 1.png"
    answer, array = predict(model, file), np.array(Image.open(file))
    with file.open("rb") as opened:
        for given in (str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), opened,
                      Image.open(file), Image.fromarray(array), array, array[:, ::-1][:, ::-1],
                      torch.from_numpy(array).permute(2, 0, 1), load_image(file)):  # fmt: skip
            assert predict(model, given) == answer
    grey = Image.open(file).convert("L")
    assert predict(model, np.array(grey)) == predict(model, grey)
    with refusal(DataError, "float64", "astype('uint8')"):
        predict(model, array / 255)


def test_a_classifier_and_predictions_display_themselves(tmp_path):
    path, metrics = tmp_path / "<b>.safetensors", {"epoch": 4, "val_accuracy": 0.9375}
    save_classifier(path, "resnet8", shaken("resnet8", 12), tuple("abcdefghi<&>"), VIEW, metrics)
    model = load_model(path)
    shown = model._repr_html_()
    for words in ("12 classes", "a, b, c, d, e, f, g, h, i, &lt;, ...", "0.938", "crop 20x20"):
        assert words in shown
    assert "&lt;b&gt;.safetensors" in shown
    assert "<b>" not in shown

    answers = predict(model, np.zeros((40, 30, 3), np.uint8), k=2)
    assert answers == [dict(answer) for answer in answers]
    assert json.loads(json.dumps(answers)) == answers
    with Image.open(io.BytesIO(answers._repr_png_())) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 200


def test_thin_strips_are_predicted_and_drawn(checkpoint, invoke, tmp_path):
    for size in ((4000, 1), (1, 65_000)):
        Image.new("L", size, 99).save(tmp_path / f"{size[0]}.png")
    done = invoke("experiments.predict", checkpoint, f"{tmp_path}/*.png", "--sheet",
                  tmp_path / "sheet.png")  # fmt: skip
    assert_prints(done, "4000.png  ", "1.png  ", "sheet: ")


def test_a_folder_is_searched_by_content_and_says_what_it_left_out(tmp_path, capsys):
    (tmp_path / "phone.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(20))
    with refusal(DataError, "left out, HEIC image (1): phone.heic"):
        find_images([str(tmp_path)])
    Image.new("RGB", (2, 2)).save(tmp_path / "a", "PNG")
    assert find_images([str(tmp_path)]) == [tmp_path / "a"]
    assert "read by content, not named .jpg, .png ... (1): a\n" in capsys.readouterr().err


def test_k_is_clipped_to_the_classes(folder, checkpoint):
    model, file = load_model(checkpoint), next(folder.glob("*/*.png"))
    assert len(predict(model, file)) == 3
    assert len(predict(model, file, k=2)) == 2
    with pytest.raises(UsageError, match="not a whole number from 1: 0"):
        predict(model, file, k=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet20", {"shortcut": "pad-append"}), ("resnet20", {"shortcut": "projection"}),
     ("plain20", {}), ("resnet50", {"stride_in": "conv1"}),
     ("resnet8", {"norm": "none"}), ("plain18", {})],
)  # fmt: skip
def test_checkpoints_say_all_that_it_takes_to_build_the_network(tmp_path, name, settings):
    """No weight shows these settings; with others, the same weights compute something else."""
    model = shaken(name, 3, **settings).eval()
    path = tmp_path / "model.safetensors"
    save_classifier(path, name, model, CLASSES, VIEW, {})
    loaded = load_model(path)
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.allclose(loaded.model(images), model(images), rtol=1e-4, atol=1e-5)
    assert (loaded.classes, loaded.view) == (CLASSES, VIEW)
    said = read_weights(path).metadata
    assert set(said.versions) == {"torch", "torchvision", "pillow"}


def test_another_kind_of_network_is_named(checkpoint):
    with refusal(WeightsError, "this is resnet8's"):
        pretrained("vit1", str(checkpoint), 0)


def test_any_flipped_byte_is_noticed(checkpoint):
    content = checkpoint.read_bytes()
    for place in [*range(8, 1500, 31), *range(1500, len(content), len(content) // 40)]:
        spoiled = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
        checkpoint.write_bytes(spoiled)
        with pytest.raises(WeightsError):
            load_model(checkpoint)


def test_files_that_say_too_little_or_nonsense_are_refused(tmp_path):
    state = zoo.build("resnet8", 3).state_dict()
    path = tmp_path / "model.safetensors"
    good = {"model": "resnet8", "classes": CLASSES}
    view = {"resize": 24, "crop": 20, "interpolation": "bilinear", "squash": False,
            "mean": [0, 0, 0], "std": [1, 1, 1], "input_size": 20}  # fmt: skip
    write_weights(path, state, Metadata(**good, preprocess=view))
    assert load_model(path).view.crop == 20
    for change in (
        {"classes": None}, {"model": None}, {"classes": CLASSES[:2]},
        {"model": "resnet20"}, {"preprocess": view | {"crop": "20"}},
        {"preprocess": view | {"crop": 10**9}}, {"preprocess": view | {"std": [1, 0, 1]}},
        {"preprocess": view | {"mean": [0]}}, {"preprocess": view | {"interpolation": "magic"}},
        {"preprocess": {}}, {"preprocess": view | {"mean": [float("nan")] * 3}},
    ):  # fmt: skip
        write_weights(path, state, Metadata(**(good | {"preprocess": view} | change)))
        with refusal(WeightsError):
            load_model(path)


def test_the_command_names_files_folders_and_patterns(folder, checkpoint, invoke, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = invoke("experiments.predict", checkpoint, folder / "ant", folder / "bee" / "ä 0.jpg",
                  f"{folder}/*/*1.png", "--k", 1, "--sheet", sheet)  # fmt: skip
    assert_prints(done, "epoch 4, chosen by val accuracy")
    assert done.stdout.count(".jpg") == 2
    assert done.stdout.count(".png ") == 3  # ant's only once, though named twice
    assert Image.open(sheet).size[0] > 300


def test_a_runs_folder_and_a_text_are_understood(folder, checkpoint):
    model = load_model(checkpoint.parent)
    assert model.classes == CLASSES
    (checkpoint.parent / "transfer.json").write_text("{}", encoding="utf-8")
    with refusal(WeightsError, "several runs", f"{checkpoint.parent}/RUN"):
        load_model(checkpoint.parent)
    several = [path for path, _ in predictions(model, str(folder / "ant"))]
    assert several == sorted((folder / "ant").iterdir())


def test_json_is_one_document_with_the_name_of_every_image(folder, checkpoint, invoke, tmp_path):
    (folder / "ant" / "broken.jpg").write_bytes(b"\xff\xd8 not much")
    done = invoke("experiments.predict", checkpoint, folder / "ant", "--json", "--k", 9, "--sheet",
                  tmp_path / "sheet.png")  # fmt: skip
    assert done.returncode == 3
    assert "broken.jpg" in done.stderr
    answers = json.loads(done.stdout)
    assert [answer["image"] for answer in answers] == sorted(map(str, folder.glob("ant/*")))
    assert (Path(answers[0]["image"]).name, answers[0]["predictions"]) == ("broken.jpg", None)
    for answer in answers[1:]:
        assert {guess["label"] for guess in answer["predictions"]} == set(CLASSES)
        assert sum(guess["score"] for guess in answer["predictions"]) == pytest.approx(1)


def test_nothing_to_predict_is_refused(folder, checkpoint, invoke, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, code, words in (
        ((checkpoint,), 2, "no images are named"),
        ((checkpoint, f"{folder}/*"), 3, "no file matches this pattern"),  # folders only
        ((checkpoint, f"{folder}/*.xyz"), 3, "no file matches this pattern"),
        ((checkpoint, tmp_path / "empty"), 3, "no images in this folder"),
        ((folder, folder), 4, "this is a folder"),
    ):
        assert_three_lines(invoke("experiments.predict", *arguments), code, words)


def test_published_weights_name_imagenets_classes(published, folder, invoke, tmp_path):
    file = folder / "ant" / "ä 0.jpg"
    done = invoke("experiments.predict", "--model", "resnet18", "--weights", "IMAGENET1K_V1", file,
                  "--json", "--sheet", tmp_path / "sheet.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(torch.load(published))
    with torch.no_grad():
        scores = theirs.eval()(weights.transforms()(load_image(file))[None])[0].softmax(0)
    (answer,) = json.loads(done.stdout)
    for guess, score, place in zip(answer["predictions"], *scores.topk(5), strict=True):
        assert guess["label"] == weights.meta["categories"][place]
        assert guess["score"] == pytest.approx(score.item(), rel=5e-3)


# --- evaluate ---


def test_evaluation_counts_what_the_loop_counts(folder, checkpoint, invoke, tmp_path):
    done = invoke("experiments.evaluate", checkpoint, folder, "--output-dir", tmp_path / "out")
    model = load_model(checkpoint)
    files = sorted(folder.glob("*/*"), key=lambda p: (CLASSES.index(p.parent.name), p.name))
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in files])
    batches = every_image(DecodedOnUse(tuple(map(str, files)), VIEW), labels, VIEW, 4, CPU)
    _, error = evaluate(model.model, batches, FP32)
    right = round(12 * (1 - error))
    low, high = wilson(right, 12)
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    assert_prints(done, f"{right} of 12", interval, "(all images)")
    for name in ("confusion.png", "samples.png", "mistakes.png"):
        assert Image.open(tmp_path / "out" / name).size[0] > 300
    lines = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 13


def test_names_come_from_the_checkpoint(folder, checkpoint, invoke, tmp_path):
    """The folder has fewer classes, so its own order would give other labels."""
    shutil.rmtree(folder / "ant")
    done = invoke("experiments.evaluate", checkpoint, folder, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    model = load_model(checkpoint)
    for row in rows:
        file, truth, label, _ = row.rsplit(",", 3)
        assert truth == Path(file).parent.name
        assert label == predict(model, file, 1)[0]["label"]
    (folder / "bee").rename(folder / "wasp")
    done = invoke("experiments.evaluate", checkpoint, folder, "--output-dir", tmp_path / "out")
    assert_three_lines(done, 3, "does not know wasp", "ant, bee, 개미")


def test_images_that_the_checkpoint_has_seen_do_not_count(folder, tmp_path, invoke):
    """Of the folder that was split for training, only the test part and new images are left."""
    images = open_dataset(Source(str(folder)), 0, 0)
    path = tmp_path / "best.safetensors"
    metrics = {"seen": images.seen}
    save_classifier(path, "resnet8", zoo.build("resnet8", 3), CLASSES, VIEW, metrics)
    model = load_model(path)
    _, found = to_evaluate(Source(str(folder)), model)
    assert sorted(found.splits["evaluated"].files) == sorted(images.splits["test"].files)
    Image.new("RGB", (30, 30)).save(folder / "ant" / "new.png")
    done = invoke("experiments.evaluate", path, folder, "--output-dir", tmp_path / "out")
    text = "left out: 9 images that the checkpoint was trained on or chosen by"
    assert_prints(done, text, " of 4;")
    for file in images.splits["test"].files:
        Path(file).unlink()
    (folder / "ant" / "new.png").unlink()
    done = invoke("experiments.evaluate", path, folder, "--output-dir", tmp_path / "out")
    assert_three_lines(done, 3, "trained on, or chosen by, all 9 images here", "those of val/")


def test_an_accuracy_on_the_images_that_chose_the_checkpoint_is_said_to_be_too_good(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise([len(split), i, ord(name[0])], 30, 30)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    images = open_dataset(Source(str(tmp_path)), 0, 0)
    path = tmp_path / "best.safetensors"
    model = zoo.build("resnet8", 2)
    said = []
    for seen in (images.seen, ""):
        save_classifier(path, "resnet8", model, ("ant", "bee"), VIEW, {"seen": seen})
        notes = to_evaluate(Source(str(tmp_path)), load_model(path))[1].notes
        said.append([note for note in notes if "too good" in note])
    assert "chosen by, 4 of these images" in said[0][0]
    assert said[1] == []


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("names", "labels"),
    [(("n01440764", "n02102040", "n15075141"), [0, 217, 999]), (("0", "217", "999"), [0, 217, 999]),
     (("000", "999"), [0, 999]), (("tench", "English springer"), [217, 0])],
)  # fmt: skip
def test_wordnet_ids_and_class_numbers_are_imagenets_classes(tmp_path, names, labels):
    model = load_model("IMAGENET1K_V1", "resnet18")
    for name in names:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "val" / name / "x.png")
    for source in (tmp_path / "val", tmp_path):  # a split alone needs no train/ beside it
        images = to_evaluate(Source(str(source)), model)[1]
        assert images.splits["evaluated"].labels.tolist() == labels
        said = [note for note in images.notes if f"{names[0]} is tench, and so on" in note]
        assert len(said) == (labels[0] == 0)
    (tmp_path / "val" / names[0]).rename(tmp_path / "val" / "n00000001")
    with pytest.raises(DataError, match="does not know n00000001"):
        to_evaluate(Source(str(tmp_path)), model)


def test_ids_are_known_to_imagenets_heads_only(checkpoint, tmp_path):
    for name in ("n01440764", "n02102040", "n15075141"):  # as many as the checkpoint has classes
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), "red").save(tmp_path / name / "x.png")
    with pytest.raises(DataError, match="does not know n01440764, n02102040"):
        to_evaluate(Source(str(tmp_path)), load_model(checkpoint))


def test_the_list_of_wordnet_ids_is_imagenets():
    ids = IMAGENET_IDS.read_text(encoding="utf-8").split()
    assert ids == sorted(set(ids))
    assert (len(ids), ids[0], ids[-1]) == (1000, "n01440764", "n15075141")


def test_wilsons_interval_covers_and_stays_inside():
    """Against the definition: p lies inside if |p_hat - p| <= z sqrt(p (1 - p) / n)."""
    for right, n in ((0, 10), (10, 10), (5, 10), (119, 153), (1, 1)):
        low, high = wilson(right, n)
        assert 0 <= low <= right / n <= high <= 1
        for p in (low, high):
            if 0 < p < 1:
                assert abs(right / n - p) == pytest.approx(1.959964 * (p * (1 - p) / n) ** 0.5)


def test_predictions_are_fp32_and_in_eval_mode(checkpoint):
    model = load_model(checkpoint)
    images = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    before = model.logits(images)
    assert before.dtype == torch.float32
    model.model.train()  # there, batch norm would use the statistics of these two images
    assert torch.equal(model.logits(images), before)
    alone = torch.cat([model.logits(image[None]) for image in images])
    assert torch.allclose(alone, before, atol=1e-5)
