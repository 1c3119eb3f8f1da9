"""Every famous bug is caught by a check, and by the one that should; the right network passes."""

from functools import partial

import pytest

import zoo
from experiments import bugs
from experiments.bugs import BUGS, Bug, examine
from experiments.checks import CHECKS

CAUGHT_BY = {  # at least
    "stride 2 in stage 1 only": {"stages"},
    "stride on the 1x1 (v1)": {"eval", "train"},
    "ReLU before the addition": {"eval", "train"},
    "a second ReLU before it": {"eval", "train"},
    "the skip forgotten": {"eval", "train"},
    "the skip added twice": {"eval", "train"},
    "no norm in the block": {"load", "count"},
    "no norm on the projection": {"load", "count"},
    "a bias before each norm": {"load", "count"},
    "an extra block": {"load", "count"},
    "max-pool without padding": {"stages", "eval"},
    "norm with eps 1e-3": {"eval"},
    "norm with momentum 0.01": {"train"},
    "fan_in for fan_out": {"init"},
    "blocks that start as copies": {"init"},
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_bug_is_caught(bug, examined):
    said = examined(bug.build, bug.model)
    caught = {name for name, text in said.items() if text}
    assert caught >= CAUGHT_BY[bug.name]
    assert not said["shape"], "a gallery of bugs that the output's shape does not show"


def test_the_gallery_is_whole():
    assert [bug.name for bug in BUGS] == list(CAUGHT_BY)
    # Three that only one check sees: none of these can be left out.
    assert set(CHECKS) == {"shape", "count", "stages", "load", "eval", "train", "init"}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_correct_network_passes_every_check(name):
    assert set(examine(partial(zoo.build, name), name).values()) == {""}


def test_the_extra_block_has_the_parameters_that_were_reported():
    assert examine(bugs.an_extra_block, "resnet18")["count"].startswith("16,41")


def test_the_command_shows_the_matrix_and_fails_if_a_bug_escapes(invoke, monkeypatch):
    monkeypatch.setattr(bugs, "BUGS", BUGS[-2:-1])
    done = invoke("experiments.bugs")
    assert done.returncode == 0
    assert "caught of 1" in done.stdout
    assert "fan_in for fan_out" in done.stdout
    assert "NOT CAUGHT" not in done.stdout
    harmless = Bug("no bug at all", bugs.resnet18, "")
    monkeypatch.setattr(bugs, "BUGS", (harmless,))
    done = invoke("experiments.bugs")
    assert done.returncode == 1
    assert "no bug at all: NOT CAUGHT" in done.stdout


def test_the_command_fails_if_the_correct_network_does(invoke, monkeypatch):
    monkeypatch.setattr(bugs, "BUGS", BUGS[-1:])
    monkeypatch.setattr(bugs.zoo, "build", lambda name: bugs.fan_in())
    assert invoke("experiments.bugs").returncode == 1
