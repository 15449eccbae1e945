"""From the times of clips to what the record says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .contenders.stages import ClipTimes
from .records.record import DETAILS, STAGES, Comparison, Summary, Timing
from .stats.statistics import summarize
from .stats.turns import Turns, compare

_DIGITS = 7  # tenths of a microsecond: less is the clock's noise


def timing_of(clips: Sequence[ClipTimes], frames: int, fps: float) -> Timing | None:
    """Return the distribution of every stage and detail over clips of so many frames; None where there is no clip."""
    if not clips:
        return None
    samples = {"total": [clip.total for clip in clips]}
    for stage in STAGES:
        if any(stage in clip.stages for clip in clips):
            samples[stage] = [clip.stages.get(stage, 0.0) for clip in clips]
    for detail in DETAILS:
        values = [value for clip in clips for value in clip.details.get(detail, [])]
        if values:
            samples[detail] = [max(0.0, value) for value in values]
    stages = {name: summary_of(values) for name, values in samples.items()}
    median = stages["total"].median
    return Timing(
        runs=len(clips),
        stages=stages,
        samples={name: [round(value, _DIGITS) for value in values] for name, values in samples.items()},
        frames_per_second=frames / median,
        real_time_factor=median * fps / frames,
    )


def summary_of(values: Sequence[float]) -> Summary:
    """Return a list of seconds as the record has it."""
    summary = summarize(values)
    return Summary(
        runs=summary.runs,
        median=summary.median,
        median_low=summary.median_low,
        median_high=summary.median_high,
        median_confidence=summary.median_confidence,
        p90=summary.p90.seconds,
        p99=summary.p99.seconds,
        mean=summary.mean,
        standard_deviation=summary.standard_deviation,
        minimum=summary.minimum,
        maximum=summary.maximum,
    )


def compare_in_turns(
    rows: Mapping[str, Sequence[ClipTimes]], references: Mapping[str, str] | None = None
) -> list[Comparison]:
    """Return how each row's totals differ from its reference's, the n-th clips of all having been made in one round.

    references: by a row's name; a row whose reference is not among the rows is compared with the first of them.
    """
    found = []
    earliest, *others = rows
    for name in others:
        first = (references or {}).get(name, earliest)
        first = first if first in rows else earliest
        rounds = min(len(rows[first]), len(rows[name]))
        if not rounds:
            continue
        seconds = {each: [clip.total for clip in rows[each][:rounds]] for each in (first, name)}
        result = compare(Turns(seconds, partial=False), first, name)
        found.append(
            Comparison(
                first=first,
                second=name,
                stage="total",
                ratio=result.ratio,
                low=result.interval.low,
                high=result.interval.high,
                rounds=result.rounds,
                verdict=result.verdict,
            )
        )
    return found
