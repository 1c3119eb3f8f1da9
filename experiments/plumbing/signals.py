"""Handle Ctrl-C and SIGTERM: the first stops the command, the second warns, the third kills it.

The first signal raises KeyboardInterrupt or Terminated, once. Inside `deferred` it raises nothing,
and the code checks after each step whether to stop. Later signals never raise: an exception during
a pool's shutdown would leave parent and workers waiting for each other.

A thread counts the signals: Python runs signal handlers between two instructions of the main
thread, and a backward pass is one instruction.
"""

import atexit
import contextlib
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """Raised by SIGTERM. Like KeyboardInterrupt no Exception, so nothing catches it by accident."""


@dataclass
class Asked:
    """The signals that this process has received."""

    first: int = 0  # number of the first signal; 0: none
    count: int = 0
    deferring: bool = False
    raised: bool = False  # also set when there is nothing left to interrupt
    raised_at: float = -math.inf  # time.monotonic() of the exception

    @property
    def exit_code(self) -> int:
        """The exit code of a command that was stopped by the first signal."""
        return 128 + self.first  # 130 or 143, as a shell reports it


asked = Asked()
masks: list[set] = []  # signals that were blocked before a fork


def listen() -> None:
    """Install the signal handlers. A signal that is ignored already (nohup) stays ignored."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    sys.unraisablehook = raise_again
    atexit.register(ignore_all)  # the first one registered is called last
    threading.Thread(target=count, args=(reading,), daemon=True).start()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop()),
            after_in_child=leave_it_to_the_parent,
        )


def raise_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception was raised in a callback, where Python ignores it.

    Such callbacks (of weak references, and __del__) run at any moment, and end soon.
    """
    if not isinstance(ignored.exc_value, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(ignored)
        return
    asked.raised, asked.count = False, asked.count - 1
    # To the main thread, which may be waiting; Windows has no pthread_kill.
    send = getattr(signal, "pthread_kill", lambda _, number: signal.raise_signal(number))
    timer = threading.Timer(0.05, send, [threading.main_thread().ident, asked.first])
    timer.daemon = True
    timer.start()


def ignore_all() -> None:
    """Ignore signals while Python frees its memory: its own handlers are gone by then.

    Otherwise a second Ctrl-C would end the process by the signal, not with its exit code.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def forget_children() -> None:
    """From here on, the end of a worker process is no error.

    PyTorch's handler would raise one anywhere, even while Python exits, for a worker that was
    killed because it ended too slowly.
    """
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def handle(number: int, _: object) -> None:
    """Signal handler: raise, unless signals are deferred or one was raised before."""
    asked.first = asked.first or number
    if not (asked.deferring or asked.raised):
        stop()


def stop() -> NoReturn:
    """Raise the exception of the first signal."""
    asked.raised, asked.raised_at = True, time.monotonic()
    raise Terminated if asked.first == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Defer signals to the end of the block; yields a function that says whether to stop."""
    asked.deferring = True
    try:
        yield lambda: bool(asked.first)
    finally:
        asked.deferring = False
    if asked.first:
        stop()


def count(reading: socket.socket) -> None:
    """Count signals, in a thread: each arrives as one byte with its number."""
    while numbers := reading.recv(1):
        if numbers[0] not in STOPS:
            continue
        asked.first = asked.first or numbers[0]
        asked.count += 1
        saving = asked.deferring and not asked.raised
        if asked.count == 1 and saving:
            say_at_once("stopping: saving the runs in progress")
        elif asked.count == 2:
            what = "saving" if saving else "ending"
            say_at_once(f"still {what}, please wait; a third signal kills it without saving")
        elif asked.count == 3:
            say_at_once("killed")
            kill_children()
            os._exit(asked.exit_code)


def say_at_once(text: str) -> None:
    """Print to stderr without a lock: the main thread may hold one and never release it."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def kill_children() -> None:
    """Kill child processes. Forked ones ignore SIGTERM, which Python would send them at exit."""
    for child in multiprocessing.active_children():
        child.kill()


def leave_it_to_the_parent() -> None:
    """Ignore signals in a forked child: only the parent acts on a signal to the process group.

    The child shares the parent's socket, so the signal would be counted twice. And a DataLoader
    whose worker dies raises in the middle of a step, which then could not be saved.
    """
    signal.set_wakeup_fd(-1)  # and both signals stay blocked
