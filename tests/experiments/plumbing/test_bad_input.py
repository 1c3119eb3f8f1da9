"""Bad command lines and files: three lines and a fixed exit code; a crash is called our bug."""

import ast
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY, assert_three_lines, refusal

from data.errors import DataError
from experiments.ablation.runs import Run
from experiments.plumbing import cli
from experiments.plumbing.cli import CheckpointError, NumericError, ResultsError, UsageError
from experiments.plumbing.results import difference, read_row
from experiments.transfer.comparison import transfer
from experiments.transfer.options import More, Options
from zoo import ModelError, WeightsError


def test_a_crash_is_called_our_bug_and_has_its_own_exit_code(invoke, monkeypatch):
    def crash(path) -> None:
        raise KeyError("planted")

    monkeypatch.setattr("experiments.drawing.samples.draw_samples", crash)
    done = invoke("experiments.publish", "samples")
    assert done.returncode == 70
    assert done.stderr.startswith("Traceback")
    assert "KeyError: 'planted'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("this is a bug in skipzoo: please report")


# Command lines, exit codes, words; FOLDER, FILE and PIPE exist, NOWHERE does not.
BAD = [
    ("shapes resnet50 --size -3", 2, "--size -3"),
    ("shapes resnet50 --size 0", 2, "--size 0"),
    ("shapes vit_b_16 --size 100000", 2, "give 1 to 4,096"),
    ("saliency NOWHERE NOWHERE --output ''", 2, "an argument is empty"),
    ("saliency NOWHERE NOWHERE --output=", 2, "an argument is empty"),
    ("saliency NOWHERE NOWHERE --output FOLDER", 2, "name a file"),
    ("saliency NOWHERE NOWHERE --output ..", 2, "name a file"),
    ("saliency NOWHERE NOWHERE --output PIPE", 2, "name a file"),
    ("saliency NOWHERE NOWHERE --output FILE/x.png", 2, "Not a directory"),
    ("saliency NOWHERE NOWHERE --output NOWHERE.jpg", 2, "NOWHERE.png"),
    (f"saliency NOWHERE NOWHERE --output {'x' * 300}.png", 2, "File name too long"),
    ("predict NOWHERE NOWHERE --sheet FOLDER", 2, "name a file"),
    ("predict '' NOWHERE", 2, "an argument is empty"),
    ("transfer FOLDER --augment None", 2, "None is not the value of an option"),
    ("transfer FOLDER --augment=None --epochs 1", 2, "None is not the value of an option"),
    ("predict NOWHERE FILE --weights IMAGENET1K_V1", 2, "none is named"),
    ("predict --model resnet5 FILE", 2, "there is no model 'resnet5'"),
    ("evaluate NOWHERE FOLDER --output-dir FILE/x", 2, "Not a directory"),
    ("evaluate --model resnet5 FOLDER", 2, "there is no model 'resnet5'"),
    ("check_data FOLDER --output FOLDER", 2, "name a file"),
    ("check_data FOLDER --workers 100000", 2, "give 0 to 256"),
    ("convert NOWHERE FOLDER --to transformers", 2, "choose another name"),
    ("convert NOWHERE FILE/x.pth --to zoo", 2, "Not a directory"),
    ("bench --rounds 1000000000", 2, "give 5 to 1,000"),
    ("ablation --depths 21", 2, "no model 'resnet21'", "resnet20"),
    ("ablation vit --depths 3", 2, "no model 'vit3'"),
    ("ablation --seeds 0", 2, "--seeds is too small", "give 1 to 1,000"),
    ("ablation --seeds 99999999999999", 2, "give 1 to 1,000"),
    ("ablation --batch-size 1", 2, "give 2 to 1,000,000"),
    ("ablation --batch-size 100000", 3, "4000 training images"),
    ("ablation --epochs 99999999999999999999", 2, "give 1 to 100,000"),
    ("ablation --lr nan", 2, "--lr is not a number"),
    ("ablation --lr inf", 2, "--lr is too large"),
    ("ablation --size 1", 2, "give 2 to 4,096"),
    ("ablation --size 100000", 2, "give 2 to 4,096"),
    ("ablation vit --size 18", 2, "multiple of 4"),
    ("ablation --train-images 1", 2, "--train-images is too small"),
    ("ablation --train-images 999999999", 2, "give 2 to 100,000"),
    ("ablation --device meta", 2, "--device auto"),
    ("ablation --device hpu", 2, "--device auto"),
    ("ablation --device cuda:99", 2, "cuda:99", "--device auto"),
    ("ablation --data-dir FILE", 3, "give a folder or a zip"),
    ("ablation --data-dir /nowhere/at/all", 3, "No such file", "/nowhere/at/all"),
    ("ablation cifar10 --data-dir FOLDER", 3, "no images in class folders"),
    ("ablation --output-dir FILE/x", 2, "cannot use this: Not a directory", "FILE"),
    ("transfer FOLDER --model --seeds 1", 2, "--model needs a name"),
    ("transfer FOLDER --strategy --seeds 1", 2, "--strategy needs a name"),
    ("transfer FOLDER --seeds 999999999999", 2, "give 1 to 1,000"),
    ("transfer FOLDER --lr inf", 2, "--lr is too large", "give 1e-30 to 1e+30"),
    ("transfer FOLDER --weight-decay 1e308", 2, "--weight-decay is too large"),
    ("transfer FOLDER --probe-l2 1e308", 2, "--probe-l2 is too large"),
    ("transfer FOLDER --lr-decay 2", 2, "--lr-decay is too large", "give 0.01 to 1"),
    ("transfer FOLDER --augment color --strategy linear-probe", 2, "does nothing", "leave it out"),
    (
        "transfer FOLDER --lr-decay 0.5 --strategy linear-probe scratch",
        2,
        "only for finetune, lp-ft",
    ),
    ("transfer FOLDER --unfreeze head --strategy finetune", 2, "only for --strategy partial"),
    (
        "transfer FOLDER --unfreeze stages.4,head",
        2,
        "resnet18 has no part 'stages.4'",
        "stages.3.0",
    ),
    ("transfer FOLDER --unfreeze stages.3", 2, "the head is new", "--unfreeze stages.3,head"),
    ("transfer FOLDER --unfreeze '' --strategy partial", 2, "an argument is empty"),
    (
        "transfer FOLDER --unfreeze stages.3,head --model resnet18 vit_b_16",
        2,
        "vit_b_16 has no part 'stages.3'",
        "blocks.11, norm, head",
    ),
    ("transfer FOLDER --workers 3000", 2, "give 0 to 256"),
    ("transfer FOLDER --train-images 1", 2, "--train-images is too small"),
    ("transfer FOLDER --output-dir FILE/x", 2, "Not a directory"),
    # Missing permissions are reported before any work.
    ("saliency NOWHERE NOWHERE", 2, "cannot use this: Permission denied"),
    ("evaluate NOWHERE FOLDER", 2, "cannot use this: Permission denied"),
    ("transfer FOLDER", 2, "cannot use this: Permission denied"),
    ("report FOLDER", 3, "cannot read a folder: Permission denied"),
]


@pytest.mark.parametrize("case", BAD, ids=[line[:60] for line, *_ in BAD])
def test_a_bad_command_line_is_refused_in_three_lines(invoke, tmp_path, monkeypatch, case):
    line, code, *words = case
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").write_bytes(b"x")
    os.mkfifo(tmp_path / "PIPE")
    monkeypatch.chdir(tmp_path)
    if "Permission denied" in words[0]:
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may do everything
    command, *arguments = ["" if part == "''" else part for part in line.split()]
    assert_three_lines(invoke(f"experiments.{command}", *arguments), code, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"FOLDER", "FILE", "PIPE"}
    assert (tmp_path / "PIPE").is_fifo()


def test_images_in_a_folder_that_cannot_be_read_are_not_left_out(tmp_path, monkeypatch):
    from experiments.classifier import find_images

    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "ant" / "1.png").write_bytes(b"x")
    scandir, closed = os.scandir, ".hidden"

    def denied(path):
        if Path(path).name == closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert find_images([str(tmp_path)]) == [tmp_path / "train/ant/1.png"]
    closed = "ant"
    with pytest.raises(DataError, match="cannot list a folder"):
        find_images([str(tmp_path)])


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [(MemoryError(), 2, "out of memory"),
     (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "allocate"),
     (torch.OutOfMemoryError("CUDA out of memory."), 2, "CUDA out of memory"),
     (RuntimeError("std::bad_alloc"), 2, "out of memory"),
     (RuntimeError("could not create a primitive"), 2, "out of memory"),
     (RuntimeError("could not create a primitive descriptor for the matmul primitive."), 70,
      "this is a bug in skipzoo"),
     (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 70, "this is a bug in skipzoo"),
     (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "File name too long"),
     (OSError(errno.EIO, "Input/output error", "x"), 2, "Input/output error")],
)  # fmt: skip
def test_our_bugs_are_explained_in_one_line_and_everything_else_in_three(error, code, word):
    lines, found = cli.explain(error)
    assert found == code
    assert len(lines.splitlines()) == (1 if code == 70 else 3)
    assert word in lines


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (ModelError, 2), (DataError, 3), (ResultsError, 3), (CheckpointError, 4),
     (WeightsError, 4), (NumericError, 5)],
)  # fmt: skip
def test_an_error_and_those_derived_from_it_have_its_exit_code(kind, code):
    lines = ("what",) if kind is ModelError else ("what", "where", "fix")
    derived = type("Derived", (kind,), {})
    assert cli.explain(kind(*lines)) == ("\n".join(lines), code)
    assert cli.explain(derived(*lines)) == ("\n".join(lines), code)
    stranger = type(kind.__name__, (Exception,), {})  # of another library
    assert cli.explain(stranger("what"))[1] == cli.CRASH


def test_a_folder_without_classes_is_refused_for_that_and_not_as_seen_in_training(tmp_path):
    from data.collection import Source
    from experiments.evaluate import to_evaluate

    (tmp_path / "1.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no images in class folders"):
        to_evaluate(Source(str(tmp_path)), SimpleNamespace(metrics={}))


# --- advice that would cost a sound file ---


def test_the_setting_that_differs_is_named():
    here = {"seed": 0, "recipe": {"lr": 0.1, "epochs": 5}}
    assert difference(here, {"seed": 0, "recipe": {"lr": 0.2, "epochs": 6}}) == (
        "recipe.lr is 0.1, not 0.2"
    )
    assert difference(here, here | {"size": 64}) == "size is None, not 64"
    assert difference([1], [1, 2], "depths") == "depths is [1], not [1, 2]"


def test_a_command_to_type_names_the_python_that_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / ".venv" / "bin" / "python"
    monkeypatch.setattr(cli.sys, "executable", str(mine))
    for found, said in ((mine, "python"), ("/usr/bin/python", ".venv/bin/python")):
        monkeypatch.setattr(cli.shutil, "which", lambda _, found=found: str(found))
        assert cli.python() == said
    monkeypatch.setattr(cli.shutil, "which", lambda _: None)
    monkeypatch.setattr(cli.sys, "executable", "/opt/my python/bin/python3")
    assert cli.python() == "'/opt/my python/bin/python3'"


def test_results_of_another_command_or_version_are_to_be_kept(tmp_path):
    row = {"run": {}, "status": "finished", "accuracy": 0.5}
    ours = row | {"train_loss": 1.0, "test_error": 0.5}
    for content, words in ((row, "keep it"), (ours, "other settings")):
        (tmp_path / "row.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ResultsError, match=words):
            read_row(tmp_path, Run())


@pytest.mark.parametrize(
    ("name", "content", "code", "word"),
    [("transfer.json", {}, 2, "results of another command"),
     ("campaign.json", {"preset": "cifar10", "device": "cpu", "models": {}},
      2, "made with preset 'cifar10'")],
)  # fmt: skip
def test_ablations_do_not_write_over_other_results(invoke, tmp_path, name, content, code, word):
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    done = invoke("experiments.ablation", *TINY, "--output-dir", tmp_path)
    assert_three_lines(done, code, word, "another")
    assert {path.name for path in tmp_path.iterdir()} == {name, ".lock"}


def test_transfer_does_not_write_over_an_ablations_results(tmp_path):
    from experiments.plumbing.distributed import Group
    from experiments.transfer import comparison as transfer

    (tmp_path / "campaign.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="results of another command"):
        cpu = torch.device("cpu")
        transfer.settle_precision(transfer.Options("x"), None, cpu, tmp_path, Group())


def test_a_file_that_has_no_weights_is_not_to_be_downloaded_again(tmp_path):
    from zoo.weights.files import read_weights

    (tmp_path / "results.csv").write_text("model,weights\n", encoding="utf-8")
    with pytest.raises(WeightsError, match="not a file of weights") as error:
        read_weights(tmp_path / "results.csv")
    assert "again" not in str(error.value)


def test_only_damaged_files_are_to_be_deleted():
    """Only download.py has a text with "delete": there, a hash proves that the file is damaged."""
    found = set()
    for path in [p for room in ("data", "experiments", "zoo") for p in (ROOT / room).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in statements and "delete " in text:
                found.add(path.name)
    assert found == {"download.py"}


# --- options in a notebook ---


def test_options_of_a_notebook_are_those_of_the_command_line():
    """Lists give several values, True is a flag, and False and None leave an option out."""
    options = cli.options_from(
        Options, "my images", strategy=["finetune", "lp-ft"], batch_size=8, squash=True,
        skip_bad=False, epochs=None, output_dir=Path("a b"), weight_decay=0.0,
    )  # fmt: skip
    assert options == Options(
        "my images", ("finetune", "lp-ft"), batch_size=(8,), squash=True, output_dir=Path("a b"),
        more=More(weight_decay=0.0),
    )  # fmt: skip
    assert cli.options_from(Options, "x") == Options("x")


@pytest.mark.parametrize("wrong", [{"epoch": 3}, {"epochs": "many"}, {"strategy": "fine tune"}])
def test_a_wrong_option_in_a_notebook_is_refused(wrong):
    (name,) = wrong
    with refusal(UsageError, "these options are not understood", f"--{name}"):
        transfer("nowhere", **wrong)
