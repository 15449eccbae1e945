"""How a run is stopped: by ctrl-C, and where the command line asks for it by SIGTERM, as `kill` and `timeout` send it.

Extension modules lose the interrupt that comes while they are imported, or turn it into an ImportError, so it waits until
they are done; so does what must not be left behind half made. Python itself loses one that comes in the middle of a
finalizer, of which imports run thousands: it is sent again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_INTERRUPTED, _TERMINATED = 130, 143  # as shells say it: 128 and the signal's number
_AT_ONCE = 1.0
"""Seconds within which another SIGTERM is the same one: `timeout` sends it to the process and to its group."""

_terminated_at: float | None = None


def end_on_termination() -> None:
    """From now on SIGTERM raises KeyboardInterrupt, so that what is half done is cleaned up as after ctrl-C.

    For the command line alone: a program that uses the library has its own ways. Nothing changes on Windows, outside the
    main thread, or where SIGTERM is ignored or handled already.
    """
    if os.name != "nt" and _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def send_lost_interrupts_again() -> None:
    """From now on a KeyboardInterrupt that was raised in a finalizer, where Python only reports it, is raised once more.

    For the command line alone, as `end_on_termination`.
    """
    report = sys.unraisablehook

    def receive(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            report(lost)
            return
        returning: list[bool] = []
        _thread.start_new_thread(_send_again, (returning,))
        returning += [True]  # Python looks at signals after calls and in loops, not between this and the return

    sys.unraisablehook = receive


def _send_again(returning: list[bool]) -> None:
    """Interrupt the main thread once it has left the hook, which would only report that one too."""
    global _terminated_at
    while not returning:
        time.sleep(0.001)
    number = signal.SIGINT if _terminated_at is None else signal.SIGTERM
    _terminated_at = None
    _thread.interrupt_main(number)


def how_it_ended() -> tuple[str, int]:
    """Return in a word how a run that was stopped ended, and its exit code."""
    return ("interrupted", _INTERRUPTED) if _terminated_at is None else ("terminated", _TERMINATED)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold ctrl-C, and SIGTERM where it raises KeyboardInterrupt, back until the end of the block, then raise that."""
    before = _handlers() if _in_main_thread() else {}
    waiting: set[int] = set()
    for number in before:
        signal.signal(number, lambda number, _: waiting.add(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if signal.SIGTERM in waiting:
            _terminate()
        if signal.SIGINT in waiting:
            raise KeyboardInterrupt


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None, suffix: str = "") -> Iterator[Path]:
    """Give a new folder that goes with all that is in it, also where an interrupt comes while it is made.

    parent: None for the system's folder for such. What has another name by then stays. Raises OSError.
    """
    made: tempfile.TemporaryDirectory[str] | None = None
    try:
        with interrupts_wait():  # between making it and knowing its name
            made = tempfile.TemporaryDirectory(suffix, prefix, parent, ignore_cleanup_errors=True)
        yield Path(made.name)
    finally:
        if made is not None:
            made.cleanup()


def _handlers() -> dict[signal.Signals, Any]:
    """Return by signal the handlers to put back, of the signals that interrupt this process."""
    ctrl_c, termination = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    found: dict[signal.Signals, Any] = {signal.SIGINT: ctrl_c} if callable(ctrl_c) else {}
    return {**found, signal.SIGTERM: termination} if termination is _terminate else found


def _terminate(*_: object) -> None:
    global _terminated_at
    before, now = _terminated_at, time.monotonic()
    if before is None or now - before > _AT_ONCE:
        _terminated_at = now
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
