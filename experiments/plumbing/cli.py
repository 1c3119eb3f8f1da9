"""Command lines: options from a dataclass, errors in three lines, fixed exit codes.

A step that takes longer than two seconds prints what it does.
Exit codes: 0 done, 1 a check found a mismatch, 2 usage, 3 data, results or disk, 4 weights or
checkpoint, 5 numeric, 70 a crash (a bug of ours), 130 interrupted (Ctrl-C), 141 nobody reads the
output any more, 143 terminated.
"""

import errno
import io
import os
import re
import shlex
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import tyro

from data.errors import DataError, Problem
from data.processes import is_lost_loader
from data.progress import say
from experiments.plumbing import signals

Options = TypeVar("Options")


def shown(metavar: str, hint: str = "") -> object:
    """How --help shows an option: `metavar` for its value, `hint` instead of "(default: None)"."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


# Types of options whose default is explained in their help.
Count = Annotated[int | None, shown("N")]
Real = Annotated[float | None, shown("X")]
Pixels = Annotated[int | None, shown("PIXELS")]
Folder = Annotated[Path | None, shown("FOLDER")]
Word = Annotated[str | None, shown("NAME")]
Classes = Annotated[str | None, shown("NAMES")]
Preprocess = Annotated[str | None, shown("HOW")]
Paths = Annotated[tuple[str, ...], tyro.conf.Positional, shown("PATH ...", "(required)")]


class UsageError(Problem):
    """An invalid option or argument."""


class ResultsError(Problem):
    """Results on disk that are damaged, or would be overwritten."""


class NumericError(Problem):
    """A result that is not a finite number."""


class CheckpointError(Problem):
    """A checkpoint that is damaged or belongs to another run."""


EXIT_CODES: dict[type[Exception], int] = {
    UsageError: 2, DataError: 3, ResultsError: 3, CheckpointError: 4, NumericError: 5,
}  # fmt: skip
# By name: importing zoo imports torch, and --help should not wait for that.
ZOO_CODES = {"zoo.errors.ModelError": 2, "zoo.errors.WeightsError": 4}
CRASH = 70  # EX_SOFTWARE of BSD's sysexits
PIPE = 141  # as a shell reports SIGPIPE
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CONFIG = (tyro.conf.FlagCreatePairsOff,)
SOON = 10.0  # seconds after a signal in which an unknown error is taken for its consequence
SILENCE = 2.0  # seconds until doing() prints


def run(
    main: Callable[[Options], int | None],
    options: type[Options],
    module: str,
    resumes: bool = False,
) -> NoReturn:
    """Parse the command line into `options`, call `main`, and exit with its exit code.

    `resumes`: whether the command resumes when it is run again after an interruption.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A log shows each line at once. On Windows its encoding may lack a name's characters.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    signals.listen()
    command = f"python -m experiments.{module}"
    try:
        refuse_empty(arguments, command)
        code = main(tyro.cli(options, prog=command, args=arguments, config=CONFIG)) or 0
        print(end="", flush=True)  # raises errors of buffered output here
    except SystemExit as stop:  # tyro: 0 for --help, or 2; rich: 1 if nobody reads its output
        code = PIPE if stop.code == 1 else int(stop.code or 0)
    except BaseException as error:
        code = leave(error, debug, resumes)
    signals.asked.raised = True  # there is nothing left to interrupt
    exec("")  # Python kills itself by SIGINT at exit if the last exec ended with Ctrl-C
    signals.kill_children()
    drop_unwritable_output()
    sys.exit(code)


def python() -> str:
    """The command that starts this Python: not always "python", if make started it."""
    in_notebook = "ipykernel" in sys.modules  # which has no terminal in this folder
    if in_notebook or Path(shutil.which("python") or "").absolute() == Path(sys.executable):
        return "python"
    with suppress(ValueError):
        return shlex.quote(str(Path(sys.executable).relative_to(Path.cwd())))
    return shlex.quote(sys.executable)


def refuse_empty(arguments: Sequence[str], command: str) -> None:
    """Raise UsageError for an argument without a value.

    Path("") would be the current folder; tyro takes `--option None` as the default.
    """
    line = f"{command} {shlex.join(arguments)}"
    if any(re.fullmatch("(--[^=]*=)?", argument) for argument in arguments):
        raise UsageError("an argument is empty", line, "give it a value, or omit it")
    if re.search(r" --[\w-]+[ =]None( |$)", f" {' '.join(arguments)}"):
        fix = "omit the option; --augment and --lr-scheduler have the value none"
        raise UsageError("None is not the value of an option", line, fix)


def options_from(options: type[Options], *words: object, **values: object) -> Options:
    """The options of a command line with these arguments, for notebooks; raises UsageError.

    batch_size=8 is --batch-size 8; a list gives several values; False and None leave an option out.
    """
    arguments = list(map(str, words))
    for name, value in values.items():
        if value is None or value is False:
            continue
        several = value if isinstance(value, list | tuple) else [value] * (value is not True)
        arguments += [f"--{name.replace('_', '-')}", *map(str, several)]
    refuse_empty(arguments, "the call with the options")
    try:
        return tyro.cli(options, args=arguments, config=CONFIG)
    except SystemExit as error:  # tyro has printed what is wrong
        fix = "see above for what is allowed"
        raise UsageError("these options are not understood", shlex.join(arguments), fix) from error


def leave(error: BaseException, debug: bool, resumes: bool) -> int:
    """Print in a few lines why the command ended; return its exit code."""
    signals.asked.raised = True  # a signal must not interrupt this
    signals.forget_children()
    stopped = signals.asked.exit_code if signals.asked.first else 0
    if isinstance(error, BrokenPipeError) and not stopped:  # `| head` has read enough
        return PIPE
    if isinstance(error, KeyboardInterrupt):
        stopped = stopped or 130
    lines, code = explain(error)
    # C code or an import that a signal interrupts may fail in its own way, which explains nothing.
    at_once = code == CRASH and time.monotonic() - signals.asked.raised_at < SOON
    if stopped and (is_consequence(error) or at_once):
        word = "terminated" if stopped == 143 else "interrupted"
        again = "; run the same command again to resume" if resumes else ""
        lines, code = word + again, stopped
    with suppress(OSError):  # `2>&1 | head`
        if debug or code == CRASH:
            traceback.print_exception(error)
        print(lines, file=sys.stderr)
    return code


def drop_unwritable_output() -> None:
    """Silence streams that cannot be written: Python flushes them at exit, and would report it."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed from the start
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_consequence(error: BaseException) -> bool:
    """Whether a signal explains the error. It does not explain a full disk, for example."""
    kinds = (KeyboardInterrupt, signals.Terminated, BrokenExecutor, BrokenPipeError)
    return isinstance(error, kinds) or is_lost_loader(error)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Print `what` to stderr, once, if the code inside takes longer than SILENCE."""
    timer = threading.Timer(SILENCE, lambda: say(f"{what} ...", sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_counts(**counts: object) -> None:
    """Raise UsageError unless all of them are whole numbers from 1."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            why = f"{name} is not a whole number from 1: {count!r}"
            raise UsageError(why, f"predict(..., {name}=...)", "give 1 or more")


def check_numbers(options: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise UsageError for an option that is outside its limits (inclusive) or not a number."""
    for name, (least, most) in limits.items():
        value, flag = getattr(options, name), "--" + name.replace("_", "-")
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not least <= number <= most:
                low, high = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (least, most))
                kind = "large" if number > most else "small"
                what = f"{flag} is " + (f"too {kind}" if number == number else "not a number")
                raise UsageError(what, f"{flag} {number}", f"give {low} to {high}")


def check_folder(folder: Path) -> None:
    """Raise OSError if a folder cannot be created or written to: before the work, not after it."""
    folder = folder.absolute()
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    code = errno.EACCES if there.is_dir() else errno.ENOTDIR
    if code == errno.ENOTDIR or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(code, os.strerror(code), str(there))


def check_file(flag: str, path: Path, suffix: str = "") -> None:
    """Raise UsageError or OSError for a file that cannot be written, or has the wrong suffix."""
    if path.exists() and not path.is_file():
        raise UsageError("a folder or device, not a file", f"{flag} {path}", "name a file")
    if suffix and path.suffix.lower() not in ("", suffix):
        name = path.with_suffix(suffix)
        raise UsageError(f"the file must be {suffix}", f"{flag} {path}", f"{flag} {name}")
    check_folder(path.parent)


def explain(error: BaseException) -> tuple[str, int]:
    """Three lines and an exit code for a known error; one line and 70 for any other."""
    for kind in type(error).__mro__:
        if code := EXIT_CODES.get(kind) or ZOO_CODES.get(f"{kind.__module__}.{kind.__name__}"):
            return str(error), code
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    if is_lost_loader(error) or is_out_of_memory(error):
        what = "out of memory, or a process that loads images was killed"
        fix = "use a smaller --batch-size or --size, fewer --jobs or --workers, or more /dev/shm"
        return f"{what}\n{first_line}\n{fix}", 3 if is_lost_loader(error) else 2
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        what = f"the disk is full ({error.strerror}); files saved before are intact"
        fix = "make room and run the same command again, or choose another --output-dir"
        return f"{what}\n{error.filename or 'the output folder'}\n{fix}", 3
    if isinstance(error, OSError) and error.filename is not None:
        fix = "check this path, or choose another; cache/ is created in the current folder"
        return f"cannot use this: {error.strerror}\n{error.filename}\n{fix}", 2
    return "this is a bug in skipzoo: please report the command and the lines above", CRASH


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU, torch raises a RuntimeError with one of these texts."""
    words = r"can't allocate memory|not enough memory|out of memory|bad[ _]alloc"
    # The last one is oneDNN's whole message if there is no memory for its machine code.
    whole = rf"(?is).*({words}).*|could not create a primitive"
    return isinstance(error, MemoryError) or bool(re.fullmatch(whole, str(error)))
