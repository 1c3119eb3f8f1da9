"""A user's own file: class names and preprocessing from options, or found by diagnose."""

import json
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from conftest import assert_prints, assert_three_lines, refusal, shaken
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torchvision.transforms import v2

import zoo
from data.collection import Source
from data.errors import DataError
from data.images import load_image
from data.synthetic import synthetic
from data.view_batches import normalize_as
from data.views import View
from experiments.ablation.runs import Data, Run, evaluation_batches, run_one
from experiments.classifier import load_model, predict, pretrained
from experiments.evaluate import to_evaluate
from experiments.plumbing.class_names import class_names
from experiments.plumbing.cli import UsageError
from experiments.plumbing.preprocess import HALF, IMAGENET_MEAN_STD, view_named
from experiments.plumbing.recipes import RECIPES, evaluation_view
from experiments.train.loop import Settings
from zoo import WeightsError
from zoo.weights.files import Metadata, write_weights

PREDICT, EVALUATE, DIAGNOSE = "experiments.predict", "experiments.evaluate", "experiments.diagnose"
CPU, NAMES = torch.device("cpu"), ("cat", "dog", "fox")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("data.collection.IMAGE_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture
def photos(tmp_path):
    """A folder of class folders with two photos each."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def own(tmp_path):
    """A notebook's resnet18_model.pth: torchvision's names, three outputs, and nothing else."""
    model = torchvision.models.resnet18(num_classes=3)
    torch.save(model.state_dict(), tmp_path / "resnet18_model.pth")
    return tmp_path / "resnet18_model.pth", model.eval()


# --- Class names ---


def test_class_names_come_in_every_form(tmp_path):
    files = ["t.txt", "l.json", "n.json", "i.json", "f"]
    text, listed, numbers, inverse, folder = (tmp_path / name for name in files)
    text.write_text("\ufeffcat\ndog\n\nfox\n", encoding="utf-8")
    listed.write_text('["cat", "dog", "fox"]', encoding="utf-8")
    numbers.write_text('{"2": "fox", "1": "dog", "0": "cat"}', encoding="utf-8")
    inverse.write_text('{"fox": 2, "cat": 0, "dog": 1}', encoding="utf-8")
    for name in ("fox", "Dog", "cat", ".git"):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "1.png").touch()
    for form in ("cat, dog,fox", "['cat', 'dog', 'fox']", text, listed, numbers, inverse):
        assert class_names(str(form), None, 3, "") == NAMES
    for content in ('{"3": "fox", "1": "dog", "0": "cat"}', '["cat", 3, "dog"]', '{"a": "b"}'):
        numbers.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match="no class names in this file"):
            class_names(str(numbers), None, 3, "")
    text.write_text("0 cat\n1 dog\n2 fox\n", encoding="utf-8")
    with pytest.raises(UsageError, match="lines begin with numbers"):
        class_names(str(text), None, 3, "")
    with pytest.raises(UsageError, match="there is no such file of class names"):
        class_names(str(tmp_path / "none.txt"), None, 3, "")
    theirs, _ = torchvision.datasets.folder.find_classes(folder / "train")
    for form in (folder, folder / "train"):
        assert class_names(str(form), None, 3, "") == tuple(theirs[1:])  # .git is no class


@pytest.mark.parametrize("inside", [["val"], ["seg_train/seg_train", "seg_test"], ["photos/all"]])
def test_class_names_of_a_folder_are_those_that_training_reads(inside, tmp_path, capfd):
    """Splits, and folders around the classes, are no classes."""
    for folder, name in product(inside, ("cat", "dog")):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "1.png").touch()
    assert class_names(str(tmp_path), None, 2, "x.pth") == ("cat", "dog")
    assert inside[0] in capfd.readouterr().err


def test_a_refusal_of_evaluate_has_the_notes_about_the_folder(tmp_path):
    for name in ("cat/siamese", "cat/persian", "dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(name.encode())
    model = SimpleNamespace(classes=("ant",), metrics={})
    with refusal(DataError, "does not know cat, dog", "one class each", "cat (persian, siamese)"):
        to_evaluate(Source(str(tmp_path)), model)


def test_class_names_that_cannot_be_are_refused(tmp_path):
    for content in ('{"a": "b"}', "[1, 2, 3]", "3", "{", '{"a": {}}'):
        (tmp_path / "c.json").write_text(content, encoding="utf-8")
        with refusal(UsageError, "JSON"):
            class_names(str(tmp_path / "c.json"), None, 3, "")
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02\xff")
    with refusal(DataError, "no images in class folders"):
        class_names(str(tmp_path), None, 3, "")
    for wrong in ("a,b", "a,b,c,d", "a,a,b", "a,,b", tmp_path / "weights.pth", "nowhere"):
        with refusal(UsageError):
            class_names(str(wrong), None, 3, "")
    with refusal(WeightsError, "names 2 classes", "3 outputs"):
        class_names(None, ("a", "b"), 3, "x.pth")


# --- Preprocessing ---


def test_preprocessing_is_a_recipe_published_or_numbers():
    usual, (mean, std) = View(), IMAGENET_MEAN_STD
    assert view_named("bootcamp", "resnet18", usual) == View(256, 224, squash=True)
    theirs = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    for text in ("IMAGENET1K_V2", "resnet50/IMAGENET1K_V2"):
        view = view_named(text, "plain50", usual)
        assert (view.resize, view.crop, view.mean) == (232, 224, tuple(theirs.mean))
    numbers = "resize=40, crop=32,mean=0.5,std=0.1,0.2,0.3,interpolation=bicubic"
    expected = View(40, 32, "bicubic", False, HALF[0], (0.1, 0.2, 0.3), 32)
    assert view_named(numbers, "resnet18", usual) == expected
    numbers = "squash=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225"
    assert view_named(numbers, "vit_b_16", usual) == View(
        224, 224, "bilinear", True, mean, std, 224
    )


@pytest.mark.parametrize(
    "text",
    ["boot", "IMAGENET1K_V9", "resnet20/IMAGENET1K_V1", "squash=224", "=", "8",
     "squash=224,crop=224,mean=0,std=1", "resize=256,mean=0,std=1", "squash=0,mean=0,std=1",
     "squash=8,mean=0,std=0", "squash=8,mean=a,std=1", "squash=8,mean=1,2,std=1",
     "squash=8,mean=0,mean=1,std=1", "squash=8,8,mean=0,std=1",
     "squash=8,mean=nan,std=1", "squash=8,mean=0,std=1,side=3", "squash=8.5,mean=0,std=1",
     "squash=9999999,mean=0,std=1", "squash=8,mean=0,std=1,interpolation=cubic"],
)  # fmt: skip
def test_other_preprocessing_is_refused_with_the_forms(text):
    with refusal(UsageError, "bootcamp", "resnet50/IMAGENET1K_V2", "resize=256,crop=224"):
        view_named(text, "resnet18", View())


def test_a_vits_images_have_to_divide_into_patches():
    with refusal(zoo.ModelError, "multiple of 16"):
        view_named("squash=100,mean=0.5,std=0.5", "vit_b_16", View())


# --- The commands ---


def test_a_state_dict_is_used_with_class_names_and_preprocessing(own, photos, invoke, tmp_path):
    path, theirs = own
    how = ("--classes", "cat,dog,fox", "--preprocess", "bootcamp")
    done = invoke(PREDICT, path, photos, *how, "--json", "--sheet", tmp_path / "s.png")
    assert done.returncode == 0, done.stderr
    assert "squash to 224x224, ImageNet mean and std; by --preprocess bootcamp" in done.stderr
    transform = v2.Compose([v2.Resize((224, 224)), v2.ToDtype(torch.float32, scale=True),
                            v2.Normalize(*IMAGENET_MEAN_STD)])  # fmt: skip
    for answer in json.loads(done.stdout):
        with torch.no_grad():
            scores = theirs(transform(load_image(answer["image"]))[None])[0].softmax(0)
        for guess in answer["predictions"]:
            expected = scores[NAMES.index(guess["label"])].item()
            assert guess["score"] == pytest.approx(expected, abs=1e-4)
    done = invoke(EVALUATE, path, photos, "--classes", photos, "--preprocess", "small",
                  "--output-dir", tmp_path / "out")  # fmt: skip
    assert_prints(done, "of 6;")
    assert "squash to 32x32" in done.stderr


def test_what_a_file_lacks_is_named_with_the_command_that_finds_it(own, photos, invoke):
    for arguments, words in (
        ((), ("class", "preprocessing", "--classes and --preprocess")),
        (("--preprocess", "small"), ("class", "add --classes (")),
    ):
        done = invoke(PREDICT, own[0], photos, *arguments)
        assert_three_lines(done, 4, *words, f"python -m {DIAGNOSE} {own[0]} FOLDER")


def test_what_is_assumed_is_printed_and_can_be_changed(tmp_path, photos, invoke, capfd):
    """A ViT in timm's names: ImageNet's mean or 0.5? No entry shows it."""
    path, sheet = tmp_path / "deit.pth", ("--sheet", tmp_path / "s.png")
    torch.save(zoo.export(shaken("vit1", 3), "timm"), path)
    done = invoke(PREDICT, path, photos, "--classes", "cat,dog,fox", *sheet)
    assert done.returncode == 0, done.stderr
    for word in ("squash to 32x32, mean = std = 0.5", "assumed", "--preprocess", DIAGNOSE):
        assert word in done.stderr
    assert pretrained("vit1", str(path), 0)[1].mean == HALF[0]  # transfer
    assert "assumed" in capfd.readouterr().err
    _, view = pretrained("vit1", str(path), 0, "squash=32,mean=0.4,std=0.2")
    assert view.mean == (0.4, 0.4, 0.4)
    # convert keeps what it has printed: in the names of another library, another would be assumed.
    out = tmp_path / "out.safetensors"
    done = invoke("experiments.convert", path, out, "--to", "zoo", "--classes", "cat,dog,fox")
    assert "assumed" in done.stderr
    done = invoke(PREDICT, out, photos, *sheet)
    assert_prints(done, "3 classes")
    assert "assumed" not in done.stderr
    assert load_model(out).view.mean == HALF[0]


def test_options_override_what_a_file_says_and_it_is_said(tmp_path, capfd):
    path = tmp_path / "model.safetensors"
    model = shaken("resnet8", 3)
    stored = dict(vars(View(32, 32, input_size=32)))
    write_weights(path, model.state_dict(), Metadata("resnet8", {}, NAMES, stored))
    loaded = load_model(path, None, "ant,bee,cow", "squash=16,mean=0.5,std=0.5")
    assert (loaded.classes, loaded.view.crop) == (("ant", "bee", "cow"), 16)
    said = capfd.readouterr().err
    assert "not the file's (cat, dog, fox)" in said
    assert "not what the file says" in said
    with refusal(UsageError, "3 outputs"):
        load_model(path, None, "ant,bee")


def test_every_conversion_can_be_used(own, photos, invoke, tmp_path):
    how = ("--classes", "cat,dog,fox", "--preprocess", "small")
    for name, to in (("a.safetensors", "zoo"), ("b.pth", "zoo"), ("c.safetensors", "torchvision"),
                     ("d.safetensors", "transformers")):  # fmt: skip
        done = invoke("experiments.convert", own[0], tmp_path / name, "--to", to, *how)
        assert done.returncode == 0, done.stderr
        loaded = load_model(tmp_path / name)
        assert (loaded.classes, loaded.view.crop, loaded.view.squash) == (NAMES, 32, True)
        assert pretrained("resnet18", str(tmp_path / name), 0)[1] == loaded.view
        assert len(predict(loaded, next(photos.glob("*/*.png")))) == 3
    done = invoke("experiments.convert", own[0], tmp_path / "e.pth", "--to", "torchvision", *how)
    assert_three_lines(done, 2, "no place for class names or preprocessing")


@pytest.mark.parametrize("normalize", ["channel", "pixel-mean"])
def test_an_ablations_own_weights_see_its_images(normalize, tmp_path):
    """Also a mean per pixel, which is averaged if transfer uses another size."""
    data = Data(size=16, train_images=64, test_images=20, normalize=normalize)
    run = Run(depth=8, data=data, settings=Settings(steps=2, batch_size=32))
    assert run_one(run, tmp_path, CPU)
    loaded = load_model(tmp_path / "final.safetensors")
    assert len(loaded.classes) == 10
    drawn = synthetic(64, 20).test_images  # 32x32: predict makes them smaller
    logits = loaded.logits(torch.stack([loaded.view(image) for image in drawn]))
    with torch.no_grad():
        (images, _), *_ = evaluation_batches(data, 20, CPU)
        assert torch.allclose(logits, loaded.model(images), atol=1e-4)
    _, view = pretrained("resnet8", str(tmp_path / "final.safetensors"), 0)
    assert view == loaded.view
    larger = evaluation_view(replace(RECIPES["default"], size=24), view)
    mean = torch.tensor(view.mean).view(3, -1).mean(1)
    assert torch.equal(normalize_as(larger).mean.flatten(), mean)


# --- diagnose ---

COLOURS = {"cat": (0.2, 0.4, 0.7), "dog": (0.4, 0.4, 0.7), "fox": (0.2, 0.6, 0.5)}


@pytest.fixture(scope="module")
def banded(tmp_path_factory):
    """Wide images whose colour lies in the left and right quarter: a center crop is grey."""
    folder, rng = tmp_path_factory.mktemp("banded"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(30):
            pixels = np.full((16, 32, 3), 0.5)
            pixels[:, :8] = pixels[:, 24:] = np.array(colour) + rng.normal(0, 0.02, 3)
            pixels += rng.normal(0, 0.05, pixels.shape)
            Image.fromarray((255 * pixels).clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{i}.png"
            )
    return folder


def fitted(folder, order=("cat", "dog", "fox")):
    """A resnet8 for whole images at 32x32 in BGR, mean = std = 0.5: only its head is trained."""
    view, images, labels = View(32, 32, squash=True), [], []
    for path in sorted(folder.glob("*/*.png")):
        images.append(view(load_image(path)).flip(0) / 127.5 - 1)
        labels.append(order.index(path.parent.name))
    model, x = zoo.build("resnet8", 3), torch.stack(images)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch below
    with torch.no_grad():
        model.train()(x)
        features = model.eval().features(x)
        fit = LogisticRegression(C=100, max_iter=1000).fit(features, labels)
        model.head.weight.copy_(torch.tensor(fit.coef_))
        model.head.bias.copy_(torch.tensor(fit.intercept_))
    return model


def saved(model, path):
    torch.save(zoo.export(model, "cifar"), path)
    return path


def test_diagnose_finds_how_images_were_prepared(banded, invoke, tmp_path):
    """And its file, for RGB, computes what the network does with BGR."""
    model, out = fitted(banded, ("fox", "cat", "dog")), tmp_path / "found.safetensors"
    path = saved(model, tmp_path / "model.pth")
    done = invoke(DIAGNOSE, path, banded, "--images", 60, "--output", out)
    said = " ".join(done.stdout.split())
    for words in ("resnet8 with 3 outputs, 60 labelled images", "the folders, but: fox, cat, dog",
                  "trained with squash to 32x32, mean = std = 0.5, BGR"):  # fmt: skip
        assert words in said, done.stderr
    loaded = load_model(out)
    assert loaded.classes == ("fox", "cat", "dog")
    for image in sorted(banded.glob("*/0.png")):
        pixels = View(32, 32, squash=True)(load_image(image))[None]
        with torch.no_grad():
            expected = model(pixels.flip(1) / 127.5 - 1)
        assert torch.allclose(loaded.logits(pixels), expected, atol=1e-3)
        assert predict(loaded, image)[0]["label"] == image.parent.name


def test_diagnose_says_when_it_cannot_tell(banded, invoke, tmp_path):
    out = tmp_path / "found.safetensors"
    path = saved(zoo.build("resnet8", 3), tmp_path / "random.pth")
    done = invoke(DIAGNOSE, path, banded, "--images", 60, "--output", out)
    assert_three_lines(done, 3, "nothing is written")
    assert "none is better than chance, 33 %" in " ".join(done.stdout.split())
    assert not out.exists()


def test_diagnose_notices_bad_batch_norm_statistics(banded, invoke, tmp_path):
    model = fitted(banded)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.running_mean += 3
    done = invoke(DIAGNOSE, saved(model, tmp_path / "model.pth"), banded, "--images", 60)
    assert_prints(done, "BatchNorm statistics are bad", "training mode")
    assert done.stdout.count("nothing is chosen") == 1


def test_diagnose_refuses_images_of_other_classes(banded, invoke, tmp_path):
    path = saved(zoo.build("resnet8", 4), tmp_path / "model.pth")
    assert_three_lines(invoke(DIAGNOSE, path, banded), 3, "90 images of 3 classes", "has 4")
    assert_three_lines(invoke(DIAGNOSE, path, banded, "--images", 5), 2, "--images")
    (tmp_path / "there.safetensors").touch()
    done = invoke(DIAGNOSE, path, banded, "--output", tmp_path / "there")
    assert_three_lines(done, 2, "must be new")
