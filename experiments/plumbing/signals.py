"""Counts Ctrl-C and SIGTERM: the first stops the command, the second says so, the third kills it.

The first signal raises KeyboardInterrupt or Terminated, once. While it is `deferred` it raises
nothing, and the code inside asks after each step whether to stop. Later signals never raise: an
exception in the middle of a pool's shutdown leaves parent and workers waiting for each other.

A thread counts, because Python runs signal handlers between two instructions of the main thread,
and a backward pass is one instruction.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """SIGTERM: like KeyboardInterrupt, not an error, so nothing catches it by accident."""


@dataclass
class Asked:
    """What this process has been asked to do."""

    first: int = 0  # the signal that came first; 0: none
    count: int = 0
    deferring: bool = False
    raised: bool = False  # also set where there is nothing left to interrupt

    @property
    def exit_code(self) -> int:
        return 128 + self.first  # 130 or 143, as a shell reports it


asked = Asked()
masks: list[set] = []  # of signals that were blocked before a fork


def listen() -> None:
    """Handle signals from here on. A signal that was ignored before stays ignored (nohup)."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    threading.Thread(target=count, args=(reading,), daemon=True).start()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop()),
            after_in_child=leave_it_to_the_parent,
        )


def handle(number: int, _: object) -> None:
    asked.first = asked.first or number
    if not (asked.deferring or asked.raised):
        stop()


def stop() -> NoReturn:
    asked.raised = True
    raise Terminated if asked.first == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, signals raise nothing: ask whether to stop. They raise at the end instead."""
    asked.deferring = True
    try:
        yield lambda: bool(asked.first)
    finally:
        asked.deferring = False
    if asked.first:
        stop()


def count(reading: socket.socket) -> None:
    """Runs in a thread: every signal that arrives is a byte with its number."""
    while numbers := reading.recv(1):
        if numbers[0] not in STOPS:
            continue
        asked.first = asked.first or numbers[0]
        asked.count += 1
        saving = asked.deferring and not asked.raised
        if asked.count == 1 and saving:
            say("stopping: saving what is under way")
        elif asked.count == 2:
            what = "saving" if saving else "ending"
            say(f"still {what}, please wait; a third time kills it without saving")
        elif asked.count == 3:
            say("killed")
            kill_children()
            os._exit(asked.exit_code)


def say(text: str) -> None:
    """To stderr without a lock: the main thread may hold any, and be stopped for ever."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def kill_children() -> None:
    """Forked ones ignore SIGTERM, with which Python would end them when it exits."""
    for child in multiprocessing.active_children():
        child.kill()


def leave_it_to_the_parent() -> None:
    """In a forked child: a signal to the group reaches both, and only the parent acts on it.

    The child shares the parent's socket, so it would count twice. A DataLoader whose worker dies
    raises in the middle of a step, which then could not be saved.
    """
    signal.set_wakeup_fd(-1)  # and both signals stay blocked
