"""The advice of a comparison follows from its numbers, whatever they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_three_lines

from experiments.transfer import report
from experiments.transfer.report import (
    MOVING,
    about_others,
    about_weights,
    arms,
    bound_by,
    caption,
    choose,
    how_compared,
    table,
)


def advice(data) -> str:
    return choose(data)[0]


def row(strategy, seed, right, seconds=10.0, status="finished", model="resnet18", **more) -> dict:
    """A row of `right` of 1,000 test images, always the first ones."""
    bits = "1" * right + "0" * (1000 - right)
    return {
        "name": f"{strategy}{seed}", "status": status, "tested_on": "test", "right": bits,
        "accuracy": right / 1000 if status == "finished" else None,
        "last_test_accuracy": right / 1000, "best_val_accuracy": right / 1000,
        "seconds": seconds, "training_seconds": 8.0, "waiting_seconds": 2.0, "trainable": 1026,
        "images_per_second": 100.0, "images": {"train": 50, "val": 20, "test": 1000},
        "device": "a computer", "threads": 2,
        "run": {"strategy": strategy, "seed": seed, "model": model, "weights": "w.pth",
                "recipe": {"batch_size": 32, "epochs": 20, "opt": "sgd", "lr": 0.1},
                "base": {"precision": "bf16"}},
        "versions": {"python": "3", "torch": "2", "torchvision": "0"},
    } | more  # fmt: skip


def rows(**accuracies) -> list[dict]:
    """Rows from strategy=(seconds, number of correct images for each seed)."""
    return [
        row(name.replace("_", "-"), seed, right, seconds)
        for name, (seconds, *rights) in accuracies.items()
        for seed, right in enumerate(rights)
    ]


def test_a_clear_winner_is_chosen():
    said = advice(rows(finetune=(50, 950, 955, 960), linear_probe=(2, 800, 802, 801)))
    assert said.startswith("Choose finetune here: 95.5 ± ")
    assert "next comes linear-probe" in said
    assert "excludes 0" in said
    assert "does not" not in said


def test_the_quickest_of_equal_strategies_is_chosen():
    said = advice(rows(finetune=(50, 950, 955, 930), linear_probe=(2, 940, 941, 939),
                       scratch=(60, 500, 510, 505)))  # fmt: skip
    assert said.startswith("Choose linear-probe here")
    assert "finetune, 94.5" in said
    assert "does not exclude 0" in said


def test_neither_a_slow_equal_nor_a_quick_loser_is_chosen():
    data = rows(finetune=(50, 950, 955, 960), lp_ft=(80, 949, 956, 958), scratch=(1, 500, 500, 501))
    assert choose(data)[1].strategy == "finetune"


def test_few_images_do_not_decide_though_seeds_agree():
    """A lead of 1 of 50 images in every seed: no spread over seeds, and yet possibly chance."""
    data = rows(finetune=(50, 960, 960, 960), linear_probe=(2, 940, 940, 940))
    assert choose(data)[1].strategy == "finetune"  # 20 of 1,000 images are a clear lead
    for each in data:
        right = round(each["accuracy"] * 50)
        each |= {"right": "1" * right + "0" * (50 - right), "accuracy": right / 50}
    said, arm = choose(data)
    assert arm.strategy == "linear-probe"
    assert "does not exclude 0" in said


def test_one_seed_or_one_strategy_cannot_tell():
    assert "Cannot tell" in advice(rows(finetune=(50, 990), linear_probe=(2, 500)))
    said = advice(rows(finetune=(50, 990), linear_probe=(2, 990), lp_ft=(60, 500)))
    assert "of the strategies linear-probe and finetune have the highest accuracy" in said
    assert "alone cannot be compared" in advice(rows(finetune=(50, 990, 980)))
    diverged = [row("finetune", seed, 0, status="diverged at step 3") for seed in (0, 1)]
    assert advice(diverged) == "Nothing to choose from: no run of these strategies finished."
    assert choose(diverged)[1] is None


def test_the_mistake_is_shown_but_never_advised():
    data = rows(
        moving_bn=(1, 990, 991, 992), finetune=(50, 900, 902, 901), linear_probe=(2, 700, 701, 702)
    )
    assert [line[0] for line in table(data).lines] == [MOVING, "finetune", "linear-probe"]
    assert choose(data)[1].strategy == "finetune"
    assert MOVING not in advice(data)


def test_the_table_counts_finished_runs():
    data = rows(finetune=(50, 900, 902, 904))
    data[1] = row("finetune", 1, 0, status="diverged at step 3")
    (line,) = table(data).lines
    assert (line[0], line[6], line[-1]) == ("finetune", "25 %", "2 of 3")
    assert line[1].startswith("90.2 ± ")
    many = [*rows(finetune=(50, 900)), row("finetune", 0, 800, model="plain18")]
    assert [arm.label for arm in arms(many)] == ["finetune resnet18", "finetune plain18"]


def test_the_caption_says_on_what_and_how_sure():
    data = rows(finetune=(50, 900, 900, 900))
    said = caption(data)
    assert "the epoch is chosen on val, the accuracy is that on test" in said
    assert "± 1.9 points" in said
    assert "± 1.4 points" in caption(rows(finetune=(50, 900), scratch=(50, 50)))  # at least
    assert "there is no test set" in caption([each | {"tested_on": "val"} for each in data])
    assert "mean ± 95 % CI over n seeds (in addition" in said
    alone = caption([row("linear-probe", 0, 900)])
    assert "logistic regression on frozen features; accuracy on test; one seed" in alone
    assert "one seed (each accuracy is uncertain by at least ± 1.9 points" in alone
    assert "epochs" not in alone
    assert "epochs" not in how_compared(arms([row("linear-probe", 0, 900)]))
    both = [*data, row("finetune", 0, 900, model="plain18")]
    where = "50 train, 20 val, 1,000 test images; plain18 and resnet18"
    assert caption(both).startswith(f"{where} from w.pth; 20 epochs")
    assert how_compared(arms(data)).endswith(f"{where.replace('plain18 and ', '')}, 20 epochs")


def test_the_caption_names_unusual_settings():
    partial = row("partial", 0, 900)
    recipe = {"unfreeze": "stages.3,head", "lr_decay": 0.7, "augment": "color"}
    partial["run"]["recipe"] |= recipe
    assert "sgd, unfreeze stages.3,head, lr-decay 0.7, augment color;" in caption([partial])
    said = caption([row("finetune", 0, 900), partial])
    assert "unfreeze stages.3,head (partial), lr-decay 0.7 (partial), augment color (par" in said
    assert "epochs, sgd;" in caption([row("finetune", 0, 900)])


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"plain18": "IMAGENET1K_V1"}, "plain18 starts from the weights of resnet18"),
     ({"resnet56": "CIFAR10_LI", "plain56": "CIFAR10_LI"}, ""),
     ({"resnet56": "CIFAR10_AKAMASTER", "plain56": "CIFAR10_LI"}, "trained in different ways"),
     ({"plain18": "mine.pth"}, ""), ({"resnet18": None, "plain18": None}, "")],
)  # fmt: skip
def test_networks_that_differ_in_more_than_their_skips_are_named(weights, said):
    note = about_weights(weights)
    assert said in note
    assert bool(note) == bool(said)


def test_what_bounds_a_run():
    assert "computing" in bound_by(row("finetune", 0, 1))
    loading = row("finetune", 0, 1, waiting_seconds=7.0)
    assert "bounded by loading images (88 %" in bound_by(loading)
    assert "0 %" in bound_by(row("finetune", 0, 1, training_seconds=0.0, waiting_seconds=0.0))


def test_the_interval_of_images_covers_as_often_as_it_says():
    """Two equal strategies, on other images each time: a lead is claimed in about 5 % of cases."""
    rng, claimed = np.random.default_rng(0), 0
    for _ in range(200):
        images = rng.random(400)  # how easy each is; the same ones are easy for both
        found = rows(finetune=(50, 0, 0, 0), scratch=(60, 0, 0, 0))
        for each in found:
            right = (rng.random(400) < images).astype(int)
            each |= {"right": "".join(map(str, right)), "accuracy": right.mean()}
        said = advice(found)
        claimed += "excludes 0" in said and "does not" not in said
    assert 0 < claimed <= 0.08 * 200


@pytest.mark.parametrize("status", ["finished", "diverged at step 0"])
def test_every_status_can_be_flattened(status):
    flat = report.flatten(row("finetune", 0, 900, status=status))
    assert list(flat) == list(report.FIELDS)
    assert (flat["strategy"], flat["test_images"], flat["recipe_lr"]) == ("finetune", 1000, 0.1)


@pytest.mark.parametrize(
    ("given", "shown"),
    [("/home/me/w.pth", "w.pth"), ("hf:owner/name", "hf:owner/name"), ("DEFAULT", "DEFAULT"),
     ("https://host.org/w.pth", "https://host.org/w.pth"), (None, None)],
)  # fmt: skip
def test_published_rows_name_no_folder(given, shown):
    each = row("finetune", 0, 50)
    each["run"]["weights"] = given
    assert report.flatten(each)["weights"] == shown


# --- experiments.report shows it again ---


def written(folder: Path, data: list[dict], whole: bool = True) -> Path:
    """Write those files of experiments.transfer that a report reads."""
    (folder / "transfer.json").write_text("{}", encoding="utf-8")
    for each in data:
        (folder / each["name"]).mkdir()
        (folder / each["name"] / "row.json").write_text(json.dumps(each), encoding="utf-8")
        (folder / each["name"] / "history.csv").write_text("epoch\n", encoding="utf-8")
    if whole:
        for name in ("results.csv", "curves.png", "accuracy_time.png"):
            (folder / name).write_bytes(b"made by experiments.transfer")
    return folder


DATA = rows(finetune=(50, 950, 955, 960), linear_probe=(2, 800, 802, 801))


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_is_shown_again_with_its_advice_and_an_interrupted_one_is_not_published(
    tmp_path, invoke, whole
):
    written(tmp_path, DATA, whole)
    done = invoke("experiments.report", tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert advice(DATA) in said
    assert caption(DATA) in said
    assert ("6 runs are finished" in said) == (not whole)
    if not whole:
        done = invoke("experiments.publish", tmp_path)
        assert_three_lines(done, 3, "not every run is finished", str(tmp_path))


def test_other_runs_in_the_folder_are_named(tmp_path):
    written(tmp_path, DATA)
    assert about_others(DATA, tmp_path) == []
    (line,) = about_others(DATA[:2], tmp_path)
    assert line.startswith("6 finished runs are here, 2 of them in this report; all: ")
    assert line.endswith(f"experiments.report {tmp_path}")


def test_runs_on_different_images_are_not_compared(tmp_path, invoke):
    other, *same = DATA
    other = other | {"run": other["run"] | {"dataset_id": "another"}}
    written(tmp_path, [other, *same])
    words = ("different images", str(tmp_path), "to another folder")
    assert_three_lines(invoke("experiments.report", tmp_path), 3, *words)


def test_publishing_fills_readme_and_docs(tmp_path, invoke, monkeypatch):
    written(tmp_path, DATA)
    monkeypatch.chdir(tmp_path)
    assert_three_lines(invoke("experiments.publish", tmp_path), 3, "no page here has a place")
    assert not (tmp_path / "docs").exists()
    (tmp_path / "README.md").write_text("<!-- transfer -->\n<!-- /transfer -->\n", encoding="utf-8")
    done = invoke("experiments.publish", tmp_path)
    assert done.returncode == 0, done.stderr
    assert advice(DATA) in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(list((tmp_path / "docs" / "transfer").iterdir())) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [(b'{"a": 1}\n', ("another command or version", "keep it")),
     (b'{"run"', ("damaged", "keep it")),
     (b"\xff\n", ("damaged", "keep it"))],
)  # fmt: skip
def test_damaged_and_foreign_rows_are_refused(tmp_path, invoke, content, words):
    written(tmp_path, DATA)
    (tmp_path / DATA[0]["name"] / "row.json").write_bytes(content)
    assert_three_lines(invoke("experiments.report", tmp_path), 3, *words)
