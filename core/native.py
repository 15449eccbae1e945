"""Calls into native libraries at the end of a program: they end before Python does.

A daemon thread that comes back from a native library when Python is already ending is stopped there and then, in the middle
of C++ or Rust, which end the whole process with a core dump. So the end waits for calls that are under way, which are asked
to stop where they can be, and a thread that would begin another one waits for ever instead, which at that point is harmless.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_state = threading.Condition()
_under_way: dict[object, Callable[[], object] | None] = {}
_ending = False


@contextmanager
def native_call(stop: Callable[[], object] | None = None) -> Iterator[None]:
    """Run the block, which calls a native library for long, so that the program's end waits for it.

    stop: asks the call, from another thread, to end early; it may then raise.
    """
    call = object()
    with _state:
        if _ending and threading.current_thread() is not threading.main_thread():
            while True:
                _state.wait()
        _under_way[call] = stop
    try:
        yield
    finally:
        with _state:
            del _under_way[call]
            _state.notify_all()
            # Back in Python, this thread would go on to its next native call of any library.
            if _ending and threading.current_thread() is not threading.main_thread():
                while True:
                    _state.wait()


@atexit.register
def _wait_for_calls() -> None:
    """Let no call of another thread begin, ask those under way to stop, and wait for them."""
    global _ending
    with _state:
        _ending = True
        for stop in list(_under_way.values()):
            if stop is not None:
                with contextlib.suppress(Exception):
                    stop()
        while _under_way:
            _state.wait()
