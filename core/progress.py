"""How the runtime tells a caller how far it is, and how a caller stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from .errors import Cancelled

Progress = Callable[[str, int, int], object]
"""on_progress(stage, done, total), called before the first and after each unit of a stage; False means: stop.

In the middle of a unit that takes seconds it is called again, with what was told last, so that it can stop that too.
"""
ASKED_AGAIN_AFTER = 2.0
"""Seconds after which a caller is asked in the middle of a unit."""


class Span(NamedTuple):
    """A piece of work that was done. stage: as in Reel.timings. name: the graph, or "". Seconds; start: perf_counter."""

    stage: str
    name: str
    start: float
    seconds: float


def report_progress(on_progress: Progress | None, stage: str, done: int, total: int) -> None:
    """Tell the caller how far a stage is. Raises Cancelled where the caller answers False."""
    if on_progress is not None and on_progress(stage, done, total) is False:
        raise Cancelled(f"cancelled during {stage}")


class InterruptibleProgress:
    """Tells a caller of a stage's units, and asks him again in the middle of a long one whether to go on.

    Call it as report_progress is called. A unit that lasts longer than ASKED_AGAIN_AFTER is told of again, as often as that.
    """

    def __init__(self, on_progress: Progress | None, stage: str, total: int) -> None:
        self._on_progress, self._stage = on_progress, stage
        self._done, self._total = 0, total
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Tell the caller how far the stage is. Raises Cancelled where he answers False."""
        self._done, self._total, self._told = done, total, time.monotonic()
        report_progress(self._on_progress, self._stage, done, total)

    def is_cancelled(self) -> bool:
        """Ask the caller once more, where the last time was long ago, and return whether he answers False."""
        if self._on_progress is None or time.monotonic() - self._told < ASKED_AGAIN_AFTER:
            return False
        self._told = time.monotonic()
        return self._on_progress(self._stage, self._done, self._total) is False
