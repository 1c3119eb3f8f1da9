"""Command lines: options from a dataclass, errors in three lines, exit codes that never change.

0 done, 1 a check found a mismatch, 2 usage, 3 data, results or disk, 4 weights or checkpoint,
5 numeric, 70 a crash (a defect of ours), 130 interrupted (Ctrl-C), 143 terminated.
"""

import contextlib
import dataclasses
import difflib
import errno
import io
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro

from data.errors import DataError, Problem
from experiments import signals
from experiments.checkpoint import CheckpointError
from zoo import ModelError, WeightsError

Options = TypeVar("Options")


class UsageError(Problem):
    """An option that cannot be followed."""


class ResultsError(Problem):
    """Results on disk that are damaged, or that would be overwritten."""


class NumericError(Problem):
    """A result that is not a number."""


EXIT_CODES: dict[type[Exception], int] = {
    UsageError: 2,
    ModelError: 2,
    DataError: 3,
    ResultsError: 3,
    CheckpointError: 4,
    WeightsError: 4,
    NumericError: 5,
}
CRASH = 70  # EX_SOFTWARE of BSD's sysexits
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(
    main: Callable[[Options], int | None],
    options: type[Options],
    module: str,
    resumes: bool = False,
) -> NoReturn:
    """Parse the command line into `options`, call `main`, leave with its exit code.

    `resumes`: given again after an interruption, the command continues.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a log file shows each line at once
    signals.listen()
    try:
        code = main(parse(options, arguments, f"python -m experiments.{module}")) or 0
    except SystemExit:  # --help
        raise
    except BaseException as error:
        code = leave(error, debug, resumes)
    signals.asked.deferring = True  # there is nothing left to interrupt
    sys.exit(code)


def leave(error: BaseException, debug: bool, resumes: bool) -> int:
    """Say in a few lines what ended the command; its exit code."""
    stopped = signals.asked.exit_code if signals.asked.first else 0
    if isinstance(error, KeyboardInterrupt):
        stopped = stopped or 130
    if stopped:  # other errors are a consequence: a worker has gone, a pipe is closed
        word = "terminated" if stopped == 143 else "interrupted"
        lines, code = word + ("; the same command goes on from here" if resumes else ""), stopped
    else:
        lines, code = explain(error)
    if debug or code == CRASH:
        traceback.print_exception(error)
    print(lines, file=sys.stderr)
    return code


def parse(options: type[Options], arguments: list[str], command: str) -> Options:
    """tyro.cli, with its boxed messages turned into three lines."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                options, prog=command, args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        asked = " ".join([command, *arguments])
        raise UsageError(unboxed(said.getvalue()), asked, hint(options, arguments)) from None


def unboxed(message: str) -> str:
    """The first paragraph of tyro's box, on one line."""
    lines = [line.strip("│ ").strip() for line in message.splitlines()[1:]]
    first = next((i for i, line in enumerate(lines) if not line or line[0] in "─╰"), len(lines))
    return " ".join(lines[:first]) or "the command line cannot be read"


def hint(options: type, arguments: list[str]) -> str:
    names = [field.name for field in dataclasses.fields(options)]
    flags = ["--" + name.replace("_", "-") for name in [*names, "debug"]]
    for argument in arguments:
        near = difflib.get_close_matches(argument.split("=")[0], flags, n=1)
        if argument.startswith("--") and near and argument.split("=")[0] not in flags:
            return f"did you mean {near[0]}? --help lists every option"
    return "--help lists every option"


def explain(error: Exception) -> tuple[str, int]:
    """Three lines and an exit code for an error that we know; of another that it is our defect."""
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return str(error), code
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = error.filename or "the output folder"
        return (
            f"the disk is full ({error.strerror}); what was saved before is whole\n{where}\n"
            "make room and run the same command again, or choose another --output-dir"
        ), 3
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError | IsADirectoryError
                  | FileNotFoundError) or (isinstance(error, OSError)
                                           and error.errno == errno.EROFS):  # fmt: skip
        missing = isinstance(error, FileNotFoundError)
        return (
            f"{'cannot find or make this' if missing else 'cannot write here'}: {error.strerror}\n"
            f"{error.filename}\n"
            "choose a place that you may write to with --output-dir or --output"
        ), 2
    return "this is a defect of skipzoo: please report the command and the lines above", CRASH
