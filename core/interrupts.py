"""How a run is stopped: by ctrl-C, and where the command line asks for it by SIGTERM, as `kill` and `timeout` send it,
and SIGHUP, which comes when a terminal or a connection is closed.

Extension modules lose the interrupt that comes while they are imported, or turn it into an ImportError, so it waits until
they are done: where the import is ours, by `interrupts_wait`, and for those that libraries make of their own in the middle
of their work, by the handlers of the command line. It waits, too, where something would be left behind half made.
"""

from __future__ import annotations

import _thread
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from .files import folder_prefix, sweep

_HUNG_UP, _INTERRUPTED, _TERMINATED = 129, 130, 143  # as shells say it: 128 and the signal's number
_AT_ONCE = 1.0
"""Seconds within which another SIGTERM is the same one: `timeout` sends it to the process and to its group."""

_AGAIN = 0.01
"""Seconds after which an interrupt is sent again that came while a module was imported."""

_terminated_at: float | None = None
_terminated_by: int = 0
_began_in_import = False  # by a module that runs the command line as it is imported: there would be no end to wait for


def end_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise KeyboardInterrupt, so that what is half done is cleaned up as after ctrl-C.

    All wait until no module is being imported. For the command line alone: a program that uses the library has its own
    ways. Nothing changes outside the main thread, where a signal is ignored or handled already (`nohup` ignores SIGHUP),
    and for these two on Windows.
    """
    global _began_in_import
    if not _in_main_thread():
        return
    _began_in_import = _is_importing(sys._getframe())
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    for number in _endings():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def how_it_ended() -> tuple[str, int]:
    """Return in a word how a run that was stopped ended, and its exit code."""
    if _terminated_at is None:
        return "interrupted", _INTERRUPTED
    return ("terminated", _TERMINATED) if _terminated_by in (0, signal.SIGTERM) else ("hung up", _HUNG_UP)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold ctrl-C, and SIGTERM and SIGHUP where they raise KeyboardInterrupt, until the end of the block, then raise that."""
    before = _handlers() if _in_main_thread() else {}
    waiting: set[int] = set()
    for number in before:
        signal.signal(number, lambda number, _: waiting.add(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in _endings():
            if number in waiting:
                _terminate(number, None)
        if signal.SIGINT in waiting:
            raise KeyboardInterrupt


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None, suffix: str = "") -> Iterator[Path]:
    """Give a new folder that goes with all that is in it, also where an interrupt comes while it is made.

    prefix: begins with a dot or `edgereel-`, ends with a hyphen. parent: None for the system's folder for such; what killed
    processes left there goes now. suffix: "" or ".partial". What has another name by then stays. Raises OSError.
    """
    made: tempfile.TemporaryDirectory[str] | None = None
    sweep(Path(tempfile.gettempdir()) if parent is None else parent)
    try:
        with interrupts_wait():  # between making it and knowing its name
            made = tempfile.TemporaryDirectory(suffix, folder_prefix(prefix), parent, ignore_cleanup_errors=True)
        yield Path(made.name)
    finally:
        if made is not None:
            made.cleanup()


def _handlers() -> dict[signal.Signals, Any]:
    """Return by signal the handlers to put back, of the signals that interrupt this process."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    found: dict[signal.Signals, Any] = {signal.SIGINT: ctrl_c} if callable(ctrl_c) else {}
    return found | {number: _terminate for number in _endings() if signal.getsignal(number) is _terminate}


def _endings() -> list[signal.Signals]:
    """Return the signals that end a process unless it does something about them; none on Windows."""
    return [] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGHUP]


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _put_off(number, frame):
        raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    global _terminated_at, _terminated_by
    if _put_off(number, frame):
        return
    before, now = _terminated_at, time.monotonic()
    if before is None or now - before > _AT_ONCE:
        _terminated_at, _terminated_by = now, number
        raise KeyboardInterrupt


def _put_off(number: int, frame: FrameType | None) -> bool:
    """Return whether a module is being imported; then the signal is sent again."""
    if _began_in_import or not _is_importing(frame):
        return False
    _thread.start_new_thread(_send_again, (number,))
    return True


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib."):
        frame = frame.f_back
    return frame is not None


def _send_again(number: int) -> None:
    time.sleep(_AGAIN)
    if sys.platform == "win32":
        _thread.interrupt_main(signal.Signals(number))
    elif (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)  # which wakes it where it waits, as interrupt_main does not


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
