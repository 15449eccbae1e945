"""Ending a run of a graph in its middle: on ctrl-C, on what a caller answers meanwhile, or from another thread.

A step of a large model takes minutes inside a library, and Python runs no signal's handler before the library returns. So
another thread does the work while the caller's waits, which handlers of signals come into. What they raise, or an answer
that asks to stop, tells the library to end; what it was told in is raised once it has.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ..core.errors import Cancelled
from ..core.native import native_call

Result = TypeVar("Result")

ASKED_EVERY = 0.25
"""Seconds between two askings whether to go on."""
_asked: ContextVar[tuple[Callable[[], bool], ...]] = ContextVar("asked", default=())
_of_thread = threading.local()


@contextlib.contextmanager
def stop_when(asked: Callable[[], bool]) -> Iterator[None]:
    """End runs of graphs in this block, which then raise Cancelled, once `asked` says True; it is called in this thread.

    What it raises ends the run, too. Runs that are shorter than ASKED_EVERY end by themselves.
    """
    before = _asked.set((*_asked.get(), asked))
    try:
        yield
    finally:
        _asked.reset(before)


def run_stoppable(work: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """Return what `work` does. stop: tells it to end soon, called from this thread where a signal or an answer asks for it.

    Raises what `work` raises, what a signal's handler or `asked` raises (KeyboardInterrupt), Cancelled where one asks to stop.
    """
    asked, helper = _asked.get(), _helper()

    def guarded() -> Result:
        with native_call(stop):  # the program's end waits for it
            return work()

    if helper is None:
        return guarded()
    job = _Job(guarded)
    try:
        helper.jobs.put(job)
        # On Windows nothing but a pause in waiting lets a handler run.
        pause = ASKED_EVERY if asked or sys.platform == "win32" else -1
        while not job.done.acquire(timeout=pause):
            if any(ask() for ask in asked):
                raise Cancelled("cancelled in the middle of a step")
    except BaseException:
        job.end(stop)
        raise
    return job.take()


class _Job(Generic[Result]):
    """One piece of work. begun: taken by whoever comes first, its thread or who gives it up.

    done: free once it is done. ended: the same for who may have taken `done` already, and was interrupted just then.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work: Callable[[], Result] | None = work
        self._found: list[Any] = []
        self._error: BaseException | None = None
        self.begun = threading.Lock()
        self.ended = False
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        """Do the work, unless it was given up."""
        if not self.begun.acquire(blocking=False):
            return
        try:
            assert self._work is not None
            self._found.append(self._work())
        except BaseException as error:
            self._error = error
        self._work = None
        self.ended = True
        self.done.release()

    def take(self) -> Result:
        """Return or raise what the work did; nothing of it is held afterwards."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads here
        result: Result = self._found.pop()
        return result

    def end(self, stop: Callable[[], None]) -> None:
        """Give the work up where it has not begun, otherwise stop it and wait until it ends, however often interrupted."""
        while not self.ended and not self.begun.acquire(blocking=False):
            try:
                stop()
                if self.done.acquire(timeout=ASKED_EVERY):
                    return
            except KeyboardInterrupt:  # asked for again: nothing is closed below a library that is at work
                continue


class _Helper:
    """A thread that works for another one, for as long as that is there."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self.thread = threading.Thread(target=_serve, args=(self.jobs,), name="edgereel graphs", daemon=True)
        self.thread.start()

    def __del__(self) -> None:
        self.jobs.put(None)


def _serve(jobs: SimpleQueue[_Job[Any] | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # and with it what it was about, which may be large


def _helper() -> _Helper | None:
    """Return this thread's helper, always the same one: CUDA graphs are recorded for a thread. None where none can start."""
    helper: _Helper | None = getattr(_of_thread, "helper", None)
    if helper is None or not helper.thread.is_alive():  # as after a fork
        helper = None
        with contextlib.suppress(RuntimeError):  # the system has no more threads, or Python is about to end
            helper = _of_thread.helper = _Helper()
    return helper
