"""Many clips by one process, one after the other: does it fail, does its memory grow, does it slow down?

After each clip, while the process waits for the next, its resident memory, open files and threads are read from outside. A
clip that fails is noted and the next one is made; a process that died is started again. Trends are taken over the longest
stretch of clips that one process made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from ...core.errors import Cancelled, EdgereelError, EngineError, UsageError, require_packages
from ...core.progress import Progress, report_progress
from .. import scores as pictures
from ..contenders.base import EdgereelContender, ProcessContender
from ..contenders.stages import ClipTimes
from ..records.record import Record, Soak, Trend
from ..report.results import skipped_sentence
from ..rows import Measured
from ..single import check_count, plan_one, record_one
from ..stats.statistics import compare_halves, slope

CLIPS, SKIPPED = 500, 50
FAIL_MEMORY, FAIL_LATENCY = 0.1, 1.1
MOST_CLIPS = 1_000_000
CAPTIONS = 500
"""How many of the built-in captions are used in turn, at most."""
FEWEST_CLIPS = 16
"""Clips after those skipped, from which on trends can be told."""
GIVE_UP_AFTER = 10
"""Failures in a row, after which the clips that are left would fail too."""
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Sample:
    """What was seen of one clip. process: which of the processes, counted from 0. resident: bytes of memory."""

    clip: ClipTimes
    resident: int
    open_files: int
    threads: int
    process: int


@dataclass(frozen=True)
class Limits:
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
    limits: Limits = Limits(),
    contender: type[ProcessContender] = EdgereelContender,
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
    check_count("--clips", clips, FEWEST_CLIPS, MOST_CLIPS)
    skip = default_skip(clips) if skip is None else skip
    if not 0 <= skip <= clips - FEWEST_CLIPS:
        raise UsageError(
            f"--skip {skip}: choose from 0 to {clips - FEWEST_CLIPS}: of {clips} clips, trends need {FEWEST_CLIPS} after those"
        )
    if not (math.isfinite(limits.memory) and math.isfinite(limits.latency) and min(limits.memory, limits.latency) >= 0):
        raise UsageError("--fail-memory and --fail-latency are numbers from 0 on")
    chosen = list(prompts) if prompts is not None else pictures.default_prompts(min(clips, CAPTIONS))
    plan = plan_one(bundle, engine, chosen, threads, memory, on_progress)
    started, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    run = Soaking(contender(plan.name, plan.job), chosen)
    partial = run.make(clips, on_progress)
    kept = [sample.clip for sample in run.samples[skip:] if sample is not None]
    row = Measured(plan, warm=kept, facts=run.contender.facts(), failures=run.failures)
    record = record_one(
        "soak",
        row,
        chosen,
        started=started,
        seconds=time.perf_counter() - clock,
        partial=partial,
        command=command,
    )
    record.rows[0].settings.seeds = list(range(len(run.samples)))
    record.soak = judge(run.samples, run.failures, clips, skip, limits)
    return record


def default_skip(clips: int) -> int:
    """Return how many first clips trends leave out: 50, or of fewer than 200 clips up to a quarter, so that 16 are left."""
    return max(0, min(SKIPPED, clips // 4, clips - FEWEST_CLIPS))


class Soaking:
    """Clips under way. samples: one for each clip, None where it failed; failures: why, in order."""

    def __init__(self, contender: ProcessContender, prompts: Sequence[str]) -> None:
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
    samples: Sequence[Sample | None], failures: Sequence[str], asked: int, skip: int, limits: Limits = Limits()
) -> Soak:
    """Return trends and verdict of what was seen, clip by clip (None: it failed)."""
    steady = longest_stretch(samples[skip:])
    told = len(steady) >= FEWEST_CLIPS
    totals = [sample.clip.total for sample in steady]
    halves = compare_halves(totals) if told and all(totals) else None
    soak = Soak(
        asked=asked,
        made=sum(sample is not None for sample in samples),
        failed=sum(sample is None for sample in samples),
        skipped=skip,
        seconds=[None if sample is None else sample.clip.total for sample in samples],
        resident_bytes=[None if sample is None else sample.resident for sample in samples],
        open_files=[None if sample is None else sample.open_files for sample in samples],
        threads=[None if sample is None else sample.threads for sample in samples],
        memory_trend=trend([sample.resident / _MEGABYTE for sample in steady]) if told else None,
        latency_trend=trend(totals) if told else None,
        open_files_trend=trend([sample.open_files for sample in steady]) if told else None,
        threads_trend=trend([sample.threads for sample in steady]) if told else None,
        second_half=None if halves is None else 1 / halves.ratio,
        second_half_low=None if halves is None else 1 / halves.interval.high,
        second_half_high=None if halves is None else 1 / halves.interval.low,
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
    return Trend(
        per_clip=found.seconds_per_run,
        low=found.interval.low,
        high=found.interval.high,
        confidence=found.interval.confidence,
    )


def soak_markdown(record: Record) -> str:
    """Return the verdict, trends and what ran, as Markdown. Raises ValueError for a record of another kind."""
    soak = record.soak
    if soak is None:
        raise ValueError("this is not the record of a soak")
    row = record.rows[0]
    lines = [f"## Soak: {soak.verdict}", "", *(f"- {reason}" for reason in soak.reasons)]
    lines += [""] if soak.reasons else []
    lines.append(
        f"| {soak.made} of {soak.asked} clips made, {soak.failed} failed | each clip adds | 99% interval | limit |"
    )
    lines.append("|---|---:|---:|---:|")
    lines.append(_trend_line("resident memory, MB", soak.memory_trend, 4, f"{soak.limits['memory_mb_per_clip']:g}"))
    lines.append(_trend_line("seconds", soak.latency_trend, 6, ""))
    lines.append(_trend_line("open files", soak.open_files_trend, 3, "0"))
    lines.append(_trend_line("threads", soak.threads_trend, 3, "0"))
    lines.append("")
    if soak.second_half is not None:
        lines.append(
            f"Later clips took {soak.second_half:.3f} times as long as earlier ones (99% interval {soak.second_half_low:.3f}"
            f" to {soak.second_half_high:.3f}; at most {soak.limits['latency_second_half']:g} allowed)."
        )
    lines.append(f"{skipped_sentence(soak)} {_memory_told(soak)}".rstrip())
    lines.append(f"{row.name}: {row.engine.version}, {row.engine.threads} threads; {record.seconds:.0f} s in all.")
    return "\n".join(lines)


def _trend_line(name: str, found: Trend | None, digits: int, limit: str) -> str:
    if found is None:
        return f"| {name} | too few clips | | {limit} |"
    return f"| {name} | {found.per_clip:+.{digits}f} | {found.low:+.{digits}f} to {found.high:+.{digits}f} | {limit} |"


def _memory_told(soak: Soak) -> str:
    seen = [count for count in soak.resident_bytes if count is not None]
    after = [count for count in soak.resident_bytes[soak.skipped :] if count is not None]
    if not seen or not after:
        return ""
    return (
        f"Memory: {seen[0] / _MEGABYTE:.1f} MB after the first clip, {after[0] / _MEGABYTE:.1f} after them, "
        f"{after[-1] / _MEGABYTE:.1f} at the end, {max(seen) / _MEGABYTE:.1f} at most."
    )
