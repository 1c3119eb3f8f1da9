"""No silence: the first line comes before the work, and long steps say what they are."""

import re
import time

import pytest
from conftest import Terminal

from data import progress
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing


def test_a_long_step_says_once_what_it_is_doing(monkeypatch, capsys):
    monkeypatch.setattr(cli, "SILENCE", 0.05)
    with doing("counting"):
        time.sleep(0.3)
        assert capsys.readouterr().err == "counting ...\n"
    time.sleep(0.1)
    assert capsys.readouterr() == ("", "")


def test_a_short_or_failing_step_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(cli, "SILENCE", 0.1)
    with pytest.raises(ValueError, match="wrong"), doing("counting"):
        raise ValueError("wrong")
    time.sleep(0.2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "arguments", "works", "first"),
    [("ablation", (), "ablation.campaign.plan", "Do plain networks"),
     ("ablation", ("vit",), "ablation.campaign.plan", "Without skips, do a ViT"),
     ("transfer", ("PETS",), "transfer.comparison.open_dataset", "Device"),
     ("verify", ("resnet18",), "proof.prove.prove", "comparing resnet18 with torchvision"),
     ("bench", (), "bench.networks.both_networks", "usual / ours")],
)  # fmt: skip
def test_the_first_line_comes_before_any_work(module, arguments, works, first, invoke, monkeypatch):
    def stop(*_, **__):
        raise UsageError("work", "begins", "here")

    monkeypatch.setattr(f"experiments.{works}", stop)
    done = invoke(f"experiments.{module}", *arguments)
    assert done.stdout.startswith(first)
    assert done.stderr.removeprefix("loading the libraries ...\n") == "work\nbegins\nhere\n"


@pytest.mark.parametrize("leave_early", [True, False])
def test_without_a_terminal_progress_is_a_plain_line_now_and_then(leave_early, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.2)
    with progress.Progress(desc="reading", total=100, unit=" images") as bar:
        for i in range(1 if leave_early else 100):
            bar.update()
            time.sleep(0.01)
            if i == 0:
                with progress.above():
                    print("hello")
    said = capsys.readouterr()
    assert said.out == "hello\n"
    assert "\r" not in said.err
    lines = said.err.splitlines()
    assert len(lines) <= (0 if leave_early else 5)
    assert leave_early or re.fullmatch(r"reading: \d+ %, 00:00 elapsed, about 00:0. left", lines[0])


def test_a_disabled_bar_prints_nothing_and_nested_bars_stay_plain(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    for _ in progress.Progress(range(3), "silent", disable=True):
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")
    for _ in progress.Progress(range(2), "outer"):
        for _ in progress.Progress(range(2), "inner"):
            time.sleep(0.1)
    said = capsys.readouterr().err
    assert "inner: 50 %" in said
    assert "outer: 50 %" in said
    assert "\x1b" not in said
    assert "\n\n" not in said


@pytest.mark.parametrize("options", [{}, {"disable": False}])
def test_without_stderr_nothing_is_shown_and_nothing_fails(options, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys, "stderr", None)
    for _ in progress.Progress(range(3), "reading", **options):
        progress.say("hello")
    assert capsys.readouterr().out == "hello\n" * 3


def test_a_bar_that_appears_before_its_delay_is_erased_too(monkeypatch):
    """Output above a bar shows the bar again, even if it had not been shown before."""
    monkeypatch.setattr(progress.sys, "stderr", terminal := Terminal())
    with progress.Progress(desc="reading", total=2, delay=60):
        progress.say("hello", terminal)
        assert "reading" in terminal.getvalue()
    *_, spaces, last = terminal.getvalue().split("\r")
    assert spaces.isspace()
    assert not last
