"""Run something again and again and keep the times, also those of a measurement that was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...core.errors import Cancelled, UsageError

Clock = Callable[[], float]
"""Returns seconds that never go back; differences alone are used."""


@dataclass(frozen=True)
class Measurement:
    """Seconds of each run, in order; warm_up: of those before it counted. partial: interrupted before the minima were met."""

    warm_up: list[float]
    seconds: list[float]
    partial: bool


def measure(
    run: Callable[[], object],
    min_runs: int = 10,
    min_seconds: float = 0.0,
    warm_ups: int = 1,
    clock: Clock = time.perf_counter,
    on_sample: Callable[[int, float], None] | None = None,
) -> Measurement:
    """Run at least `min_runs` times and for at least `min_seconds` in all, after `warm_ups` runs that do not count.

    `run` must come back only when its work is done: what it has put on a device's queue it waits for. on_sample is told
    the number of each counted run, from 1, and its seconds, between two runs. Ctrl-C, or a run that raises Cancelled,
    ends the measurement: what was measured until then comes back as partial, the run that was under way left out; where
    nothing was measured yet, the interruption is passed on. Raises UsageError for minima that cannot be, and what `run`
    raises.
    """
    if min_runs < 1 or warm_ups < 0 or not min_seconds >= 0:
        raise UsageError(
            f"cannot measure {min_runs} runs and {min_seconds:g} seconds after {warm_ups} warm-up runs: "
            "at least 1 run, 0 seconds, 0 warm-up runs"
        )
    warm_up: list[float] = []
    seconds: list[float] = []
    total = 0.0
    try:
        for _ in range(warm_ups):
            warm_up.append(timed(run, clock))
        while len(seconds) < min_runs or total < min_seconds:
            seconds.append(timed(run, clock))
            total += seconds[-1]
            if on_sample is not None:
                on_sample(len(seconds), seconds[-1])
    except (KeyboardInterrupt, Cancelled):
        if not seconds:
            raise
        return Measurement(warm_up, seconds, partial=True)
    return Measurement(warm_up, seconds, partial=False)


def timed(run: Callable[[], object], clock: Clock) -> float:
    """Return the seconds that one run takes by this clock."""
    start = clock()
    run()
    return clock() - start
