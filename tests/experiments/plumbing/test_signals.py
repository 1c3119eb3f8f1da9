"""Ctrl-C, SIGTERM and SIGKILL at any moment: the right exit code, no process left, the same bits.

ZOO_SIGNAL_RUNS is the number of interruptions (default 2).
"""

import contextlib
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_three_lines
from PIL import Image

from experiments.ablation import pool as campaign
from experiments.plumbing import cli, signals

RUNS = int(os.environ.get("ZOO_SIGNAL_RUNS", "2"))
PATIENCE = 10.0 if RUNS > 2 else 60.0  # seconds; 10 only on an idle machine
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def alive_in(session: int) -> list[str]:
    """The command lines of all processes of a session that are not zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_name = (folder / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            if int(after_name[3]) == session and after_name[0] != "Z":
                found.append((folder / "cmdline").read_text(encoding="utf-8").replace("\0", " "))
    return found


class Command:
    """`python -m ARGUMENTS` in a session of its own, with its output in a file."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log.txt"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)],
                cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, words: str) -> None:
        """Wait until `words` are printed or the command has ended."""
        deadline = time.monotonic() + 180
        while words not in self.output and self.process.poll() is None:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)

    def wait_for_a_row_of_history(self, out: Path) -> None:
        """Wait until at least one run of the campaign in `out` is well under way."""
        while not list(out.glob("*/history.csv")):
            assert self.process.poll() is None, self.output
            time.sleep(0.01)

    def send(self, number: int, to_all: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.process.pid, number)

    def ends(self, within: float) -> int:
        """The exit code as a shell reports it, once no process of the session is left."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            left = alive_in(self.process.pid)
            self.send(signal.SIGKILL, to_all=True)
            pytest.fail(f"still running after {within} s: {left}\n{self.output}")
        self.leaves_nobody(within=5)
        return 128 - code if code < 0 else code

    def leaves_nobody(self, within: float) -> None:
        deadline = time.monotonic() + within
        while (left := alive_in(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, left


def images(root: Path, train: int = 24) -> Path:
    """Two classes of noise, with `train` training and 4 validation images each."""
    rng = np.random.default_rng(0)
    for split, number in (("train", train), ("val", 4)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


CAMPAIGN = ("experiments.ablation", "--depths", 8, 20, "--seeds", 1, "--epochs", 4,
            "--train-images", 512, "--precision", "fp32", "--output-dir")  # fmt: skip
CAMPAIGN_PHASES = ("", "Device", "Precision", "runs to do", "1/", "3/", "figure:")
TRANSFER = ("--model", "resnet8", "--weights", "none", "--size", 32, "--strategy", "finetune",
            "lp-ft", "--seeds", 1, "--epochs", 12, "--batch-size", 8, "--precision", "fp32",
            "--output-dir")  # fmt: skip
TRANSFER_PHASES = ("", "Device", "Recipe", "run 1", "run 2", "figure:")


def interrupted(phases: tuple[str, ...], folder: Path, arguments: tuple, rng: random.Random) -> int:
    """Start a command, signal it at a random moment, check how it ends; returns its exit code."""
    command = Command(folder, *arguments)
    number = rng.choice(tuple(CODES))
    phase, times = rng.choice(phases), rng.choice((1, 1, 2, 3))
    command.wait_for(phase)
    time.sleep(rng.uniform(0, 1.5))
    # Once the figure is drawn, nothing is left to be interrupted.
    ending = phases[-1] in command.output or command.process.poll() is not None
    to_all = rng.random() < 0.5  # a terminal signals the whole group, `kill` only one process
    for _ in range(times):
        command.send(number, to_all)
        time.sleep(rng.uniform(0.05, 1))
    code = command.ends(within=PATIENCE)
    assert code == CODES[number] or (code == 0 and ending), (
        f"{phase!r}, {number.name} x{times}, ending: {ending}, exit code {code}\n{command.output}"
    )
    assert "Traceback" not in command.output, command.output
    print(f"{phase!r:14} {number.name} x{times} {'group' if to_all else 'one'}: {code}")
    return code


def files_of(folder: Path) -> dict[str, bytes]:
    """The files that equal campaigns have in common: no figures, and none with times."""
    names = ("history.csv", "final.safetensors", "last.safetensors")
    files = [path for path in folder.glob("*/*") if path.name in names]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def interrupt_until_done(tmp_path, phases, arguments, seed: int, runs: int) -> None:
    """Interrupt as many campaigns as `runs` interruptions need; all end with the same bits."""
    rng = random.Random(seed)
    undisturbed = Command(tmp_path / "whole", *arguments, tmp_path / "whole" / "out")
    assert undisturbed.ends(within=600) == 0, undisturbed.output
    expected = files_of(tmp_path / "whole" / "out")
    assert expected
    done = 0
    while done < runs:
        folder = tmp_path / f"broken{done}"
        for _ in range(12):
            code = interrupted(phases, folder, (*arguments, folder / "out"), rng)
            done += 1
            if code == 0 or done >= runs:
                break
        last = Command(folder, *arguments, folder / "out")
        assert last.ends(within=600) == 0, last.output
        assert files_of(folder / "out") == expected


@pytest.mark.slow
def test_a_campaign_is_interrupted_at_random_moments(tmp_path):
    interrupt_until_done(tmp_path, CAMPAIGN_PHASES, CAMPAIGN, seed=1, runs=RUNS)


@pytest.mark.slow
def test_a_transfer_is_interrupted_at_random_moments(tmp_path):
    folder = images(tmp_path / "pets")
    arguments = ("experiments.transfer", folder, *TRANSFER)
    interrupt_until_done(tmp_path, TRANSFER_PHASES, arguments, seed=2, runs=RUNS // 2)


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory) -> tuple:
    """A campaign: four runs of a hundred steps each, with little to read or to test in between."""
    folder = images(tmp_path_factory.mktemp("long") / "pets", train=160)
    return ("experiments.ablation", "--data-dir", folder, "--size", 16, "--depths", 8, "--seeds", 1,
            "--epochs", 20, "--precision", "fp32", "--output-dir")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_ctrl_c_and_kill_save_and_the_same_command_resumes(
    tmp_path, four_runs, invoke, quick_workers, number, to_all
):
    out = tmp_path / "a"
    command = Command(tmp_path, *four_runs, out)
    command.wait_for_a_row_of_history(out)
    command.send(number, to_all)
    assert command.ends(within=60) == CODES[number]
    assert "run the same command again to resume" in command.output
    assert "Traceback" not in command.output
    saved = next(out.glob("*/checkpoint.pt"))
    if number == signal.SIGTERM:  # one flipped bit: refused by name, kept; its advice works
        good = saved.read_bytes()
        bad = good[:9000] + bytes([good[9000] ^ 1]) + good[9001:]
        saved.write_bytes(bad)
        done = invoke(*four_runs, out)
        assert_three_lines(done, 4, "the checkpoint is damaged", str(saved), "move this file")
        assert saved.read_bytes() == bad
        saved.unlink()
    assert invoke(*four_runs, out).returncode == 0
    if number == signal.SIGINT:  # once is enough: the files are those of an undisturbed campaign
        assert invoke(*four_runs, tmp_path / "b").returncode == 0
        assert files_of(out) == files_of(tmp_path / "b")


@pytest.mark.slow
def test_a_killed_worker_is_reported(tmp_path, four_runs, invoke, quick_workers):
    def kill() -> None:
        while not list(tmp_path.glob("*/history.csv")):
            time.sleep(0.01)
        (worker,) = multiprocessing.active_children()
        worker.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = invoke(*four_runs, tmp_path, "--jobs", 1)
    killer.join(10)
    assert_three_lines(done, 3, "killed from outside", "--jobs 1")


TIMED = {
    "ablation": ("--depths", 110, "--seeds", 1, "--batch-size", 500),
    "transfer": ("PETS", "--model", "resnet50", "--weights", "none", "--size", 224),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("number", CODES)
def test_interrupted_while_precision_is_timed(tmp_path, name, number):
    pets = images(tmp_path / "pets")
    arguments = [pets if word == "PETS" else word for word in TIMED[name]]
    command = Command(tmp_path, f"experiments.{name}", *arguments, "--output-dir", tmp_path / "out")
    command.wait_for("timing")
    time.sleep(random.Random(name + number.name).uniform(0, 2))
    command.send(number, to_all=True)
    assert command.ends(within=PATIENCE) == CODES[number]
    assert "fastest of" not in command.output
    assert "Traceback" not in command.output


LONG = ("experiments.ablation", "--depths", 110, "--seeds", 1, "--batch-size", 3000,
        "--precision", "fp32", "--jobs", 1, "--output-dir")  # fmt: skip


@pytest.mark.slow
def test_the_third_signal_kills_workers_in_the_middle_of_a_long_step(tmp_path):
    for attempt in range(4):  # a step may end between two signals, and the command with it
        command = Command(tmp_path / str(attempt), *LONG, tmp_path / str(attempt) / "out")
        command.wait_for("runs to do")
        time.sleep(12)  # the worker imports and draws, then begins a step of many seconds
        for words in ("stopping", "still saving", "killed"):
            command.send(signal.SIGINT, to_all=True)
            command.wait_for(words)
            time.sleep(0.3)
        assert command.ends(within=2) == 130
        assert "Traceback" not in command.output
        if "killed" in command.output:
            return
    pytest.fail(command.output)


@pytest.mark.slow
def test_a_worker_whose_parent_was_killed_saves_and_leaves(tmp_path, four_runs):
    command = Command(tmp_path, *four_runs, tmp_path / "out")
    command.wait_for_a_row_of_history(tmp_path / "out")
    command.send(signal.SIGKILL, to_all=False)
    command.process.wait()
    command.leaves_nobody(within=5 if PATIENCE == 10 else 30)
    assert list(tmp_path.glob("out/*/checkpoint.pt"))


FORKS = """
import multiprocessing, os, signal, sys, time
from experiments.plumbing import signals

number = getattr(signal, sys.argv[1])
signals.listen()
context = multiprocessing.get_context("fork")
children = [context.Process(target=time.sleep, args=(60,), daemon=True) for _ in range(3)]
for child in children:
    child.start()
try:
    with signals.deferred() as should_stop:
        assert not should_stop()
        os.killpg(0, number)
        time.sleep(0.5)
        print(should_stop(), signals.asked.count, [child.is_alive() for child in children])
except (KeyboardInterrupt, signals.Terminated) as error:
    print("raised at the end", type(error).__name__)
os.killpg(0, number)
time.sleep(0.5)
print("raised once", signals.asked.count)
signals.kill_children()
"""


@pytest.mark.parametrize(
    ("number", "name"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")]
)
def test_a_signal_to_the_whole_group_counts_once(number, name):
    """Forked workers share the parent's socket, yet only the parent counts; the workers live."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, number],
        cwd=ROOT, capture_output=True, text=True, timeout=60, start_new_session=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True 1 [True, True, True]",
        f"raised at the end {name}",
        "raised once 2",
    ]
    assert "stopping: saving the runs in progress" in done.stderr
    assert "still ending" in done.stderr


IN_EXEC = """
from dataclasses import dataclass
from experiments.plumbing import cli

@dataclass
class Options:
    pass

def main(options):
    exec("raise KeyboardInterrupt")  # as in the middle of a dataclass or an import

cli.run(main, Options, "planted")
"""


def planted(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Run `code` as a command."""
    (folder / "planted.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "planted"], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip


def test_ctrl_c_inside_exec_has_the_same_exit_code(tmp_path):
    """CPython would end a `python -m` of this kind with a second SIGINT to itself: -2."""
    done = planted(tmp_path, IN_EXEC)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_callback_is_not_lost(number, tmp_path):
    """Python ignores exceptions there, so the command would run on to its end."""
    lost = f"""
    import signal, time, weakref
    class Thing: pass
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal({number:d}))
    del thing
    time.sleep(60)
"""
    code = IN_EXEC.replace("main(options):\n", f"main(options):{lost}")
    assert "weakref" in code
    begun = time.monotonic()
    done = planted(tmp_path, code)
    assert time.monotonic() - begun < 50  # it does not sleep to its end
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (done.returncode, done.stderr) == (CODES[number], f"{word}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="on_exit is glibc's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_free_their_memory_keeps_the_exit_code(number, tmp_path):
    """PyTorch needs half a second for it, and Python's own handlers are gone by then.

    on_exit(raise, 0) has the C library call raise(exit code) after Python has ended.
    """
    ends = f'import ctypes\nC = ctypes.CDLL(None)\nC.on_exit(getattr(C, "raise"), None)\n{IN_EXEC}'
    code = ends.replace('exec("raise KeyboardInterrupt")', f"return {number:d}")
    assert f"return {number:d}" in code
    assert planted(tmp_path, code).returncode == number


LOST = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
ENDS = [  # what ends a command, the signal that came before (0: none), its exit code
    (KeyboardInterrupt(), 0, 130),
    (KeyboardInterrupt(), signal.SIGINT, 130),
    (signals.Terminated(), signal.SIGTERM, 143),
    (BrokenProcessPool("a child has gone"), signal.SIGTERM, 143),
    (LOST, signal.SIGINT, 130),
    (OSError(errno.ENOSPC, "No space left on device", "checkpoint.pt"), signal.SIGINT, 3),
    (KeyError("a defect"), signal.SIGINT, 70),
    (LOST, 0, 3),
]


@pytest.mark.parametrize(("error", "first", "code"), ENDS)
def test_a_signal_explains_its_consequences_and_nothing_else(
    error, first, code, monkeypatch, capsys
):
    monkeypatch.setattr(signals, "asked", signals.Asked(first=first))
    assert cli.leave(error, debug=False, resumes=True) == code
    said = capsys.readouterr().err
    assert ("again to resume" in said) == (code in (130, 143))
    assert ("KeyError" in said) == (code == 70)  # its traceback
    assert ("the disk is full" in said) == isinstance(error, OSError)


@pytest.mark.parametrize(("seconds", "code"), [(0.2, 143), (5, 143), (30, 70)])
def test_an_unknown_error_soon_after_a_signal_is_its_consequence(seconds, code, monkeypatch):
    """As a TypeError of torch's C code, or a RecursionError of a module imported by halves."""
    before = time.monotonic() - seconds
    asked = signals.Asked(first=signal.SIGTERM, raised=True, raised_at=before)
    monkeypatch.setattr(signals, "asked", asked)
    assert cli.leave(TypeError("in C"), debug=False, resumes=True) == code


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="Windows has no SIGCHLD")
def test_a_worker_that_ends_after_the_command_is_no_error(monkeypatch):
    """PyTorch's handler raised while Python was exiting."""
    monkeypatch.setattr(signals, "asked", signals.Asked(first=signal.SIGINT))
    before = signal.signal(signal.SIGCHLD, lambda *_: pytest.fail("asked about a worker"))
    try:
        assert cli.leave(KeyboardInterrupt(), debug=False, resumes=True) == 130
        subprocess.run([sys.executable, "-c", ""], check=True)
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_an_error_while_a_worker_saves_is_raised():
    saved, cancelled, broken, full = (Future() for _ in range(4))
    saved.set_result(None)
    cancelled.cancel()
    broken.set_exception(BrokenProcessPool())
    campaign.raise_failures([saved, cancelled, broken])
    full.set_exception(OSError(errno.ENOSPC, "full"))
    with pytest.raises(OSError, match="full"):
        campaign.raise_failures([saved, full])


NO_LINE_BREAK = """
from dataclasses import make_dataclass
from experiments.plumbing import cli
cli.run(lambda options: print("kept in a buffer", end=""), make_dataclass("Options", []), "x")
"""


@pytest.mark.parametrize(
    ("words", "streams", "code"),
    [("-m experiments", ("stdout",), 141),
     ("-m experiments.shapes --help", ("stdout",), 141),
     ("-m experiments.shapes resnet18", ("stdout",), 141),
     ("-m experiments.shapes --no-such-option", ("stdout", "stderr"), 141),
     ("-m experiments.verify --weights x", ("stdout", "stderr"), 2),  # an error keeps its code
     ("-c", ("stdout",), 141)],
)  # fmt: skip
def test_a_closed_pipe_ends_a_command_quietly(words, streams, code):
    reading, writing = os.pipe()
    os.close(reading)  # so that the first line has no reader
    command = [sys.executable, *words.split(), *[NO_LINE_BREAK] * (words == "-c")]
    pipes = {"stderr": subprocess.PIPE} | dict.fromkeys(streams, writing)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, cwd=ROOT, env=buffered, **pipes, text=True, timeout=60, check=False
    )
    os.close(writing)
    assert (128 - done.returncode if done.returncode < 0 else done.returncode) == code
    assert (done.stderr or "").removeprefix("loading the libraries ...\n") == ""
