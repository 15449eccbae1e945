"""Many clips by one process, one after the other: does it fail, does its memory grow, does it slow down?

After each clip, while the process waits for the next, its resident memory, open files and threads are read from outside. A
clip that fails is noted and the next one is made; a process that died is started again. Trends are taken over the longest
stretch of clips that one process made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ...core.errors import Cancelled, EdgereelError, EngineError, UsageError, require_packages
from ...core.progress import Progress, report_progress
from ..contenders.base import Contender
from ..contenders.stages import ClipTimes
from ..grid import plan_one
from ..records.record import MEGABYTE, UNCACHED, Record, Soak, Trend
from ..resources.machine import begin_measurement
from ..rows import RowMeasurement, row_of
from ..scores import default_prompts
from ..stats.statistics import median_ratio, slope

CLIPS, SKIPPED = 500, 50
FAIL_MEMORY, FAIL_LATENCY = 0.1, 1.1
MOST_CLIPS = 1_000_000
CAPTIONS = 500
"""How many of the built-in captions are used in turn, at most."""
FEWEST_CLIPS = 16
"""Clips after those skipped, from which on trends can be told."""
GIVE_UP_AFTER = 10
"""Failures in a row, after which the clips that are left would fail too."""


@dataclass(frozen=True)
class Sample:
    """What was seen of one clip. process: which of the processes, counted from 0. resident: bytes of memory."""

    clip: ClipTimes
    resident: int
    open_files: int
    threads: int
    process: int


@dataclass(frozen=True)
class SoakLimits:
    """memory: MB that each clip may add. latency: how many times the earlier clips' median the later ones' may be."""

    memory: float = FAIL_MEMORY
    latency: float = FAIL_LATENCY


def run_soak(
    bundle: Path | None = None,
    engine: str = "auto",
    *,
    clips: int = CLIPS,
    skip: int | None = None,
    prompts: Sequence[str] | None = None,
    threads: int | None = None,
    memory: str | None = None,
    limits: SoakLimits = SoakLimits(),
    contender: type[Contender] = Contender,
    command: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Record:
    """Return the record of so many clips by one process; `record.soak` has the verdict.

    None for a bundle is the built-in one. Prompts (None: captions that the built-in model never saw) are used in turn, seeds
    count up from 0. skip: first clips that trends leave out, None for `default_skip`. contender: makes the clips. on_progress:
    the stage `clips`.

    Ctrl-C, or on_progress answering False, ends it: the record of what was made until then is partial; where that is
    nothing, Cancelled or KeyboardInterrupt is passed on. Raises BundleError, GeometryError, PromptError, UsageError before
    the first clip, MissingExtraError without psutil, and EngineError where the process cannot open the bundle.
    """
    require_packages(("psutil",), "bench", "a soak")
    if not FEWEST_CLIPS <= clips <= MOST_CLIPS:
        raise UsageError(f"--clips {clips}: choose from {FEWEST_CLIPS} to {MOST_CLIPS}")
    skip = default_skip(clips) if skip is None else skip
    if not 0 <= skip <= clips - FEWEST_CLIPS:
        raise UsageError(
            f"--skip {skip}: choose from 0 to {clips - FEWEST_CLIPS}: of {clips} clips, trends need {FEWEST_CLIPS} after those"
        )
    if not (math.isfinite(limits.memory) and math.isfinite(limits.latency) and min(limits.memory, limits.latency) >= 0):
        raise UsageError("--fail-memory and --fail-latency are numbers from 0 on")
    chosen = list(prompts) if prompts is not None else default_prompts(min(clips, CAPTIONS))
    plan = plan_one(bundle, engine, chosen, threads, memory, on_progress)
    facts = begin_measurement()
    run = SoakRun(contender(plan), chosen)
    partial = run.make(clips, on_progress)
    kept = [sample.clip for sample in run.samples[skip:] if sample is not None]
    row = row_of(RowMeasurement(plan, warm=kept, facts=run.contender.facts(), failures=run.failures), chosen)
    row.settings.seeds = list(range(len(run.samples)))
    return Record(
        **facts(),
        kind="soak",
        partial=partial,
        command=list(command),
        rows=[row],
        soak=judge(run.samples, run.failures, clips, skip, limits),
        notes=[UNCACHED],
    )


def default_skip(clips: int) -> int:
    """Return how many first clips trends leave out: 50, or of fewer than 200 clips up to a quarter, so that 16 are left."""
    return max(0, min(SKIPPED, clips // 4, clips - FEWEST_CLIPS))


class SoakRun:
    """Clips under way. samples: one for each clip, None where it failed; failures: why, in order."""

    def __init__(self, contender: Contender, prompts: Sequence[str]) -> None:
        self.contender = contender
        self.samples: list[Sample | None] = []
        self.failures: list[str] = []
        self._prompts = prompts
        self._process: Any = None
        self._processes = 0

    def make(self, clips: int, on_progress: Progress | None) -> bool:
        """Make the clips; return whether it was interrupted before their end. Raises what that was where none is made."""
        try:
            self._start()
            for number in range(clips):
                report_progress(on_progress, "clips", number, clips)
                self.samples.append(self._attempt(number))
                if len(self.samples) >= GIVE_UP_AFTER and not any(self.samples[-GIVE_UP_AFTER:]):
                    self.failures.append(f"given up after {GIVE_UP_AFTER} failures in a row")
                    return False
            report_progress(on_progress, "clips", clips, clips)
        except (KeyboardInterrupt, Cancelled):
            if not any(self.samples):
                raise
            return True
        finally:
            self.contender.close()
        return False

    def _start(self) -> None:
        import psutil

        self.contender.start()
        self._process = psutil.Process(self.contender.pid)
        self._processes += 1

    def _attempt(self, number: int) -> Sample | None:
        try:
            if not self._alive():
                self._start()
            clip = self.contender.make(self._prompts[number % len(self._prompts)], number)
            return self._sample(clip)
        except Cancelled:
            raise
        except EdgereelError as error:
            self.failures.append(f"clip {number + 1}: {error}")
            return None

    def _alive(self) -> bool:
        import psutil

        return bool(self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE)

    def _sample(self, clip: ClipTimes) -> Sample:
        import psutil

        process = self._process
        try:
            with process.oneshot():
                files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
                resident, threads = process.memory_info().rss, process.num_threads()
        except psutil.Error as error:
            raise EngineError("the process was gone when its memory was to be read") from error
        return Sample(clip, int(resident), int(files), int(threads), self._processes - 1)


def judge(
    samples: Sequence[Sample | None], failures: Sequence[str], asked: int, skip: int, limits: SoakLimits = SoakLimits()
) -> Soak:
    """Return trends and verdict of what was seen, clip by clip (None: it failed)."""
    steady = longest_stretch(samples[skip:])
    told = len(steady) >= FEWEST_CLIPS
    totals = [sample.clip.total for sample in steady]
    half = len(totals) // 2
    halves = median_ratio(totals[:half], totals[half:]) if told else None
    soak = Soak(
        asked=asked,
        made=sum(sample is not None for sample in samples),
        failed=sum(sample is None for sample in samples),
        skipped=skip,
        seconds=[None if sample is None else sample.clip.total for sample in samples],
        resident_bytes=[None if sample is None else sample.resident for sample in samples],
        open_files=[None if sample is None else sample.open_files for sample in samples],
        threads=[None if sample is None else sample.threads for sample in samples],
        memory_trend=trend([sample.resident / MEGABYTE for sample in steady]) if told else None,
        latency_trend=trend(totals) if told else None,
        open_files_trend=trend([sample.open_files for sample in steady]) if told else None,
        threads_trend=trend([sample.threads for sample in steady]) if told else None,
        second_half=None if halves is None else halves.value,
        second_half_low=None if halves is None else halves.low,
        second_half_high=None if halves is None else halves.high,
        limits={"memory_mb_per_clip": limits.memory, "latency_second_half": limits.latency},
        verdict="pass" if told else "undecided",
    )
    soak.reasons = reasons_to_fail(soak, failures)
    if soak.reasons:
        soak.verdict = "fail"
    return soak


def reasons_to_fail(soak: Soak, failures: Sequence[str]) -> list[str]:
    """Return every limit that was broken, in words.

    Memory fails by its trend. Latency fails only where the whole interval is over its limit, since what else a machine does
    moves times; open files and threads where the interval leaves no room for an even number.
    """
    found = []
    if failures:
        found.append(f"{soak.failed} of {soak.made + soak.failed} clips failed, first: {failures[0]}")
    memory, latency = soak.limits["memory_mb_per_clip"], soak.limits["latency_second_half"]
    if soak.memory_trend is not None and soak.memory_trend.per_clip > memory:
        found.append(f"memory grew by {soak.memory_trend.per_clip:.3f} MB with each clip, and {memory:g} are allowed")
    if soak.second_half_low is not None and soak.second_half is not None and soak.second_half_low > latency:
        found.append(
            f"later clips took {soak.second_half:.2f} times as long as earlier ones, and {latency:g} times are allowed"
        )
    for name, counted in (("open files", soak.open_files_trend), ("threads", soak.threads_trend)):
        if counted is not None and counted.low > 0:
            found.append(f"the number of {name} grew by {counted.per_clip:.2f} with each clip")
    return found


def longest_stretch(samples: Sequence[Sample | None]) -> list[Sample]:
    """Return the samples of the process that made the most of these clips."""
    made = [sample for sample in samples if sample is not None]
    stretches = [list(group) for _, group in groupby(made, key=lambda sample: sample.process)]
    return max(stretches, key=len, default=[])


def trend(values: Sequence[float]) -> Trend:
    """Return by how much values grow from one to the next. Raises UsageError for fewer than eight, or negative ones."""
    found = slope(values)
    return Trend(per_clip=found.value, low=found.low, high=found.high, confidence=found.confidence)
