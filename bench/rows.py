"""One row while it is measured, and what of it goes into the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import Cancelled, EdgereelError, EngineError
from ..quality.metrics import Clip
from ..runtime.memory.work import Work
from . import scores
from .contenders.base import Contender, ResourceReadings, RowPlan
from .contenders.stages import ClipTimes, without_openings
from .grid import bundle_facts, settings_of
from .records.record import (
    DETAILS,
    STAGES,
    Conditions,
    EngineFacts,
    MachineLimits,
    Power,
    Quality,
    Row,
    RowComparison,
    StageResources,
    Summary,
    Timing,
)
from .resources.limits import stage_resources
from .stats.statistics import median_interval, tail_percentile
from .stats.turns import CONFIDENCE, compare

_DIGITS = 7  # tenths of a microsecond: less is the clock's noise


@dataclass(eq=False)
class RowMeasurement:
    """What is known of a row so far.

    first: seconds of the last clip before those that are timed. readings: of clips made while memory was sampled.
    reference: the row that this one is compared with, None for the first. clips: pictures to compare; psnr: with the first
    row's; psnr_to_reference: with the reference's; psnr_to_edgereel: a peer's with edgereel's of the same settings. scores:
    the scorer's, where asked for.
    """

    plan: RowPlan
    reference: RowMeasurement | None = field(default=None, repr=False)
    first: float = 0.0
    warm: list[ClipTimes] = field(default_factory=list)
    cold: list[ClipTimes] = field(default_factory=list)
    facts: EngineFacts | None = None
    readings: ResourceReadings | None = None
    power: Power = field(default_factory=Power)
    conditions: Conditions = field(default_factory=Conditions)
    installed_bytes: int | None = None
    work: dict[str, Work] = field(default_factory=dict)
    clips: list[Clip] = field(default_factory=list, repr=False)
    psnr: float | None = None
    psnr_to_reference: float | None = None
    psnr_to_edgereel: float | None = None
    scores: dict[str, float] | None = None
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Note what goes wrong in the block as the row's failure, and go on; a request to stop is passed on."""
        try:
            yield
        except Cancelled:
            raise
        except EdgereelError as error:
            self.failures.append(str(error))

    def open(self, contender: Contender, prompts: Sequence[str]) -> None:
        """Start the contender and have it make two clips that do not count: the first one opens what it needs."""
        contender.start()
        contender.make(prompts[0], 0)
        self.first = contender.make(prompts[0], 0).total
        self.facts = contender.facts()

    def check_against(self, ours: RowMeasurement) -> None:
        """Make sure that the clips are those of edgereel's row at the same settings. Raises EngineError where they are not.

        Where both calculate in float32 they may differ by rounding alone, elsewhere by what a smaller type loses.
        """
        precisions = {precision for row in (self, ours) if row.facts for precision in row.facts.precision}
        limit = scores.SAME_DB if precisions == {"float32"} else scores.NEAR_DB
        found = self.psnr_to_edgereel
        if found is None:
            raise EngineError("there is no clip of edgereel's to compare with: its time would say nothing")
        if found < limit:
            raise EngineError(
                f"it made another clip ({found:.1f} dB, {limit:.0f} at least): its time would say nothing"
            )


def row_of(
    row: RowMeasurement, prompts: Sequence[str], limits: MachineLimits | None = None, own_limits: bool = False
) -> Row:
    """Return the row as the record has it; own_limits: the limits are not those of the whole record."""
    plan, request, readings = row.plan, row.plan.request, row.readings or ResourceReadings(0, 0.0)
    warm = timing_of(without_openings(row.warm), request.frames, float(request.fps))
    medians = {} if warm is None else {name: summary.median for name, summary in warm.stages.items()}
    stages = stage_resources(row.work if row.warm or row.cold else {}, medians, limits)
    for stage in {**readings.host, **readings.device}:
        if stage:
            found = stages.setdefault(stage, StageResources())
            found.peak_host_bytes, found.peak_device_bytes = readings.host.get(stage), readings.device.get(stage)
    return Row(
        name=plan.name,
        contender=plan.contender,
        reference=None if row.reference is None else row.reference.plan.name,
        bundle=bundle_facts(plan.bundle),
        engine=row.facts or Contender(plan).facts(),
        settings=settings_of(request, prompts),
        warm=warm,
        cold=timing_of(row.cold, request.frames, float(request.fps)),
        quality=_quality_of(row),
        stages=stages,
        memory_timeline=readings.timeline,
        memory_stages=readings.stages,
        bytes_read=readings.bytes_read,
        installed_bytes=row.installed_bytes,
        power=row.power,
        conditions=row.conditions,
        limits=limits if own_limits else None,
        failures=row.failures,
    )


def _quality_of(row: RowMeasurement) -> Quality:
    """Return the bundle's own figures, fresh ones before them where there are any; a row without times has none of them."""
    carried = row.plan.bundle.manifest.quality if row.warm or row.cold else {}
    fresh = (row.scores or {}) if row.warm or row.cold else {}
    return Quality(
        source="measured" if fresh else "bundle" if carried else "none",
        figures={**carried, **fresh},
        psnr_to_first_db=row.psnr,
        psnr_to_reference_db=row.psnr_to_reference,
        psnr_to_edgereel_db=row.psnr_to_edgereel,
    )


def timing_of(clips: Sequence[ClipTimes], frames: int, fps: float) -> Timing | None:
    """Return the distribution of every stage and detail over clips of so many frames; None where there is no clip."""
    if not clips:
        return None
    samples = {"total": [clip.total for clip in clips]}
    for stage in STAGES:
        if any(stage in clip.stages for clip in clips):
            samples[stage] = [clip.stages.get(stage, 0.0) for clip in clips]
    for detail in DETAILS:
        if values := [max(0.0, value) for clip in clips for value in clip.details.get(detail, [])]:
            samples[detail] = values
    stages = {name: summary_of(values) for name, values in samples.items()}
    median = stages["total"].median
    return Timing(
        runs=len(clips),
        stages=stages,
        samples={name: [round(value, _DIGITS) for value in values] for name, values in samples.items()},
        frames_per_second=frames / median,
        real_time_factor=median * fps / frames,
    )


def summary_of(samples: Sequence[float]) -> Summary:
    """Return what times in seconds say. Raises UsageError where there is none, or one that is negative or not finite."""
    median = median_interval(samples)
    return Summary(
        runs=len(samples),
        median=median.value,
        median_low=median.low,
        median_high=median.high,
        median_confidence=median.confidence,
        p90=tail_percentile(samples, 90),
        p99=tail_percentile(samples, 99),
        mean=float(np.mean(samples)),
        standard_deviation=float(np.std(samples, ddof=1)) if len(samples) > 1 else None,
        minimum=min(samples),
        maximum=max(samples),
    )


def compare_in_turns(
    rows: Mapping[str, Sequence[ClipTimes]], references: Mapping[str, str] | None = None
) -> list[RowComparison]:
    """Return how each row's totals differ from its reference's, the n-th clips of all having been made in one round.

    references: by a row's name; a row whose reference is not among the rows is compared with the first of them.
    """
    found = []
    earliest, *others = rows
    for name in others:
        first = (references or {}).get(name, earliest)
        first = first if first in rows else earliest
        if rounds := min(len(rows[first]), len(rows[name])):
            before, after = ([clip.total for clip in rows[each][:rounds]] for each in (first, name))
            ratio = compare(before, after)
            found.append(
                RowComparison(
                    first=first,
                    second=name,
                    stage="total",
                    ratio=ratio.value,
                    low=ratio.low,
                    high=ratio.high,
                    rounds=rounds,
                    verdict=ratio.verdict(CONFIDENCE),
                )
            )
    return found
