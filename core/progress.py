"""How the runtime tells a caller how far it is, and how a caller stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .errors import Cancelled

Progress = Callable[[str, int, int], object]
"""on_progress(stage, done, total), called before the first and after each unit of a stage; False means: stop."""


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
