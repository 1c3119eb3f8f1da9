"""Every bug is caught by the checks that should catch it; the correct network passes them."""

from functools import partial

import pytest
from conftest import assert_prints

import zoo
from experiments.plumbing.tables import print_report
from experiments.proof import gallery, resnet_bugs, vit_bugs
from experiments.proof.checks import CHECKS
from experiments.proof.gallery import BUGS, Bug, examine, table

OUTPUTS, NAMES = {"eval", "train"}, {"load", "count"}
CAUGHT_BY = {  # at least
    "stride 2 in stage 1 only": {"stages"}, "stride on the 1x1 (v1)": OUTPUTS,
    "ReLU before the addition only": OUTPUTS, "ReLU before and after the addition": OUTPUTS,
    "the skip forgotten": OUTPUTS, "the skip added twice": OUTPUTS,
    "no norm in the block": NAMES, "no norm on the projection": NAMES,
    "a bias before each norm": NAMES, "an extra block": NAMES,
    "max-pool without padding": {"stages", "eval"}, "norm with eps 1e-3": {"eval"},
    "norm with momentum 0.01": {"train"}, "fan_in for fan_out": {"init"},
    "blocks that start as copies": {"init"}, "no bias on q, k, v": NAMES,
    "norms around the patches": NAMES, "LayerNorm with eps 1e-12": OUTPUTS,
    "norm after the addition": OUTPUTS, "keys for queries": OUTPUTS,
    "number and size of heads exchanged": OUTPUTS, "GELU by tanh": OUTPUTS,
    "class token at the end": OUTPUTS, "encoder blocks as copies": {"init"},
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_bug_is_caught(bug, examined):
    said = examined(bug.build, bug.model)
    caught = {name for name, text in said.items() if text}
    assert caught >= CAUGHT_BY[bug.name]
    assert not said["shape"], "the output's shape shows this bug"


def test_the_gallery_is_whole():
    assert [bug.name for bug in BUGS] == list(CAUGHT_BY)
    assert set(CHECKS) == {"shape", "count", "stages", "load", "eval", "train", "init"}


@pytest.mark.parametrize(
    ("build", "name"),
    [*((partial(zoo.build, name, 1000), name) for name in ("resnet18", "resnet50", "vit1", "vit2")),
     (vit_bugs.broken_vit, vit_bugs.SIZE)],
)  # fmt: skip
def test_the_correct_network_passes_every_check(build, name):
    """The zoo's networks, and the gallery's own ViT without a bug."""
    assert set(examine(build, name).values()) == {""}


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.model == vit_bugs.SIZE])
def test_a_bug_of_vits_is_in_what_it_computes_or_in_its_names(bug, examined):
    """If its names are the same, it starts with the same weights, unless the start is the bug."""
    said = examined(bug.build, bug.model)
    if not said["load"]:
        assert bool(said["init"]) == (bug.name == "encoder blocks as copies")
        assert bool(said["eval"]) != bool(said["init"])


def test_the_extra_block_has_the_parameters_that_were_reported(examined):
    (bug,) = (bug for bug in BUGS if bug.name == "an extra block")
    assert examined(bug.build, bug.model)["count"].startswith("16,41")


def test_readmes_table_has_a_line_per_bug_and_counts():
    verdicts = dict.fromkeys(CHECKS, "") | {"load": "unlike", "eval": None}
    rows = table({BUGS[0]: verdicts})
    assert rows.lines[0][:2] == [BUGS[0].name, BUGS[0].seen]
    assert rows.lines[0][2:] == ["", "", "", "caught", "-", "", ""]
    assert rows.lines[1] == ["caught of 1", "", "0", "0", "0", "1", "0", "0", "0"]


def test_no_word_of_the_matrix_is_broken_at_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_report([table({bug: dict.fromkeys(CHECKS, "unlike") for bug in BUGS})])
    words = capsys.readouterr().out.split()
    assert words.count("caught") == len(BUGS) * len(CHECKS) + 1
    assert {word for bug in BUGS for word in bug.name.split()} <= set(words)


def test_the_command_shows_the_matrix_and_fails_if_a_bug_escapes(invoke, monkeypatch):
    fan_in = [bug for bug in BUGS if bug.name == "fan_in for fan_out"]
    monkeypatch.setattr(gallery, "BUGS", fan_in)
    done = invoke("experiments.bugs")
    assert_prints(done, "caught of 1", "fan_in for fan_out")
    assert "NOT CAUGHT" not in done.stdout
    monkeypatch.setattr(gallery, "BUGS", (Bug("no bug at all", resnet_bugs.resnet18),))
    assert_prints(invoke("experiments.bugs"), "no bug at all: NOT CAUGHT", code=1)


def test_the_command_fails_if_the_correct_network_does(invoke, monkeypatch):
    monkeypatch.setattr(gallery, "BUGS", BUGS[-1:])
    monkeypatch.setattr(gallery, "CORRECT", BUGS[-2:-1])
    assert invoke("experiments.bugs").returncode == 1
