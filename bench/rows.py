"""One row while it is measured, and what of it goes into the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..core.errors import Cancelled, EdgereelError, EngineError
from . import scores as pictures
from .contenders.base import Clip, Contender, Watched, unknown_facts
from .contenders.stages import ClipTimes, without_openings
from .grid import Plan, bundle_facts, settings_of
from .records.record import Conditions, EngineFacts, MachineLimits, Power, Quality, Row, StageResources
from .resources.limits import Work, stage_resources
from .summaries import timing_of


@dataclass(eq=False)
class Measured:
    """What is known of a row so far.

    first: seconds of the last clip before those that are timed. watched: clips that were made while memory was sampled.
    reference: the row that this one is compared with, None for the first. clips: pictures to compare; psnr: with the first
    row's; psnr_to_reference: with the reference's; psnr_to_edgereel: a peer's with edgereel's of the same settings. scores:
    the scorer's, where asked for.
    """

    plan: Plan
    reference: Measured | None = field(default=None, repr=False)
    first: float = 0.0
    warm: list[ClipTimes] = field(default_factory=list)
    cold: list[ClipTimes] = field(default_factory=list)
    facts: EngineFacts | None = None
    watched: Watched | None = None
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

    def check_against(self, ours: Measured) -> None:
        """Make sure that the clips are those of edgereel's row with the same job. Raises EngineError where they are not.

        Where both calculate in float32 they may differ by rounding alone, elsewhere by what a smaller type loses.
        """
        precisions = [*(self.facts.precision if self.facts else []), *(ours.facts.precision if ours.facts else [])]
        limit = pictures.SAME_DB if set(precisions) == {"float32"} else pictures.NEAR_DB
        found = self.psnr_to_edgereel
        if found is None:
            raise EngineError("there is no clip of edgereel's to compare with: its time would say nothing")
        if found < limit:
            raise EngineError(
                f"it made another clip ({found:.1f} dB, {limit:.0f} at least): its time would say nothing"
            )


def row_of(row: Measured, prompts: Sequence[str], limits: MachineLimits | None, own_limits: bool) -> Row:
    """Return the row as the record has it; own_limits: the limits are not those of the whole record."""
    job, request = row.plan.job, row.plan.job.request
    warm = timing_of(without_openings(row.warm), request.frames, float(request.fps))
    medians = {} if warm is None else {name: summary.median for name, summary in warm.stages.items()}
    stages = stage_resources(row.work if row.warm or row.cold else {}, medians, limits)
    if row.watched is not None:
        for stage, peak in row.watched.host.items():
            if stage:
                stages.setdefault(stage, StageResources()).peak_host_bytes = peak
        for stage, peak in row.watched.device.items():
            if stage:
                stages.setdefault(stage, StageResources()).peak_device_bytes = peak
    return Row(
        name=row.plan.name,
        contender=row.plan.contender,
        reference=None if row.reference is None else row.reference.plan.name,
        bundle=bundle_facts(job.bundle),
        engine=row.facts or unknown_facts(job),
        settings=settings_of(job, prompts),
        warm=warm,
        cold=timing_of(row.cold, request.frames, float(request.fps)),
        quality=quality_of(row),
        stages=stages,
        memory_timeline=[] if row.watched is None else row.watched.timeline,
        memory_stages=[] if row.watched is None else row.watched.stages,
        bytes_read=None if row.watched is None else row.watched.bytes_read,
        installed_bytes=row.installed_bytes,
        power=row.power,
        conditions=row.conditions,
        limits=limits if own_limits else None,
        failures=row.failures,
    )


def quality_of(row: Measured) -> Quality:
    """Return the bundle's own figures, fresh ones before them where there are any; a row without times has none of them."""
    timed = bool(row.warm or row.cold)
    quality = pictures.carried(row.plan.job.bundle) if timed else Quality(source="none")
    if row.scores and timed:
        quality = Quality(source="measured", figures={**quality.figures, **row.scores})
    quality.psnr_to_first_db, quality.psnr_to_edgereel_db = row.psnr, row.psnr_to_edgereel
    quality.psnr_to_reference_db = row.psnr_to_reference
    return quality
