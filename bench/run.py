"""Measure bundles on engines: every row in a process of its own, in turns, warm and cold, with what that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ..core.errors import Cancelled, UsageError, require_packages
from ..core.machine import free_host_memory
from ..core.progress import Progress, report_progress
from ..engines import get_engine
from . import scores as pictures
from .contenders.base import Contender, EdgereelContender, PeerFactory
from .contenders.stages import ClipTimes, cold_times
from .grid import Plan, bundle_facts, plan_rows, references
from .records.record import Comparison, MachineLimits, Record, Row
from .resources.conditions import ConditionsWatch
from .resources.limits import measure_limits, precision_of, work_or_reason
from .resources.machine import find_machine, find_versions
from .resources.nvml import Nvml
from .resources.power import PowerMeter, find_source
from .rows import Measured, row_of
from .stats.repeat import measure
from .stats.statistics import runs_needed
from .stats.turns import ROUNDS, interleave
from .summaries import compare_in_turns

DEFAULT_PROMPTS = 8
COLD_RUNS = 5
QUICK = 0.5
"""Clips that take less than so many seconds are made often enough for a 90th percentile where nothing else is asked for."""
PATIENCE = 60.0
"""Seconds that the warm clips of a row may take, about, where nothing else is asked for and clips are not quick."""
FEWEST_RUNS = 8  # from which a comparison at 99% is possible
WATCHED_CLIPS, WATCHED_SECONDS = 5, 1.5
_COLD = "Cold clips are made by fresh processes that import edgereel as a library, their files in the system's cache."
_PROCESS_BYTES = 300 * 2**20
_HELD = 1.5  # bytes of memory for each byte of a bundle, about


@dataclass(frozen=True)
class Options:
    """How much is measured. min_runs: warm clips of each row, None for a choice by their length. cold: fresh processes."""

    prompts: list[str]
    min_runs: int | None = None
    min_seconds: float = 0.0
    cold: int = COLD_RUNS
    quality: bool = False
    threads: int | None = None
    peers: Mapping[str, PeerFactory] = field(default_factory=dict)
    on_progress: Progress | None = None


def run_bench(
    bundles: Sequence[Path | None] = (None,),
    engines: Sequence[str] = ("auto",),
    prompts: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int] | None] = (None,),
    frames: Sequence[int | None] = (None,),
    *,
    min_runs: int | None = None,
    min_seconds: float = 0.0,
    cold: int = COLD_RUNS,
    threads: int | None = None,
    quality: bool = False,
    peers: Mapping[str, PeerFactory] | None = None,
    command: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Record:
    """Return the record of every bundle on every engine at every number of steps, size and length.

    None among bundles is the built-in one, among sizes and frames the bundle's default; steps: see grid.default_steps.
    min_runs, min_seconds: warm clips of each row; where min_runs is None there are 64 of clips under half a second (what a
    90th percentile needs), else about a minute's worth, at least 8. cold: fresh processes for each row, 0 for none.
    quality: score fresh clips. peers: who takes part beside edgereel, by name. on_progress: stages `limits`, `open`, `warm`,
    `resources`, `quality`, `cold`.

    Ctrl-C, or on_progress answering False, ends it: the record of what was measured until then is partial; where that is
    nothing, Cancelled or KeyboardInterrupt is passed on. A contender that fails is told in its row. Raises BundleError,
    GeometryError, PromptError, UsageError before anything is measured, MissingExtraError without psutil.
    """
    require_packages(("psutil",), "bench", "measuring")
    if (min_runs is not None and min_runs < 1) or not min_seconds >= 0 or cold < 0:
        raise UsageError("measuring needs at least 1 run, 0 seconds and 0 cold starts")
    started, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    chosen = list(prompts) if prompts is not None else pictures.default_prompts(DEFAULT_PROMPTS)
    taking_part = dict(peers or {})
    options = Options(chosen, min_runs, min_seconds, cold, quality, threads, taking_part, on_progress)
    plans = plan_rows(bundles, engines, steps, sizes, frames, chosen, threads, taking_part, on_progress)
    bench = Bench(plans, options)
    partial = bench.measure()
    return Record(
        partial=partial,
        started=started,
        seconds=time.perf_counter() - clock,
        command=list(command),
        machine=find_machine(),
        versions=find_versions(),
        limits=bench.limits.get(plans[0].job.engine),
        rows=bench.rows(partial),
        comparisons=bench.comparisons(),
        notes=bench.notes,
    )


class Bench:
    """One measurement under way. limits: by engine. turns: of each group that took turns, each row's clips by its name."""

    def __init__(self, plans: Sequence[Plan], options: Options) -> None:
        self.options = options
        self.measured = [Measured(plan) for plan in plans]
        self.references = references(plans)
        for row in self.measured[1:]:
            row.reference = next(each for each in self.measured if each.plan.name == self.references[row.plan.name])
        self.limits: dict[str, MachineLimits] = {}
        self.turns: list[dict[str, list[ClipTimes]]] = []
        self.notes = ["Embeddings of prompts are not cached: the stage text is the text encoder's time."]
        self._nvml = Nvml.open()

    def measure(self) -> bool:
        """Measure everything; return whether it was interrupted before its end. Raises what that was where nothing is there."""
        try:
            self._measure_limits()
            for group in self._groups():
                self._measure_group(group)
            self._measure_cold()
        except (KeyboardInterrupt, Cancelled):
            if not any(row.warm or row.cold for row in self.measured):
                raise
            return True
        finally:
            if self._nvml is not None:
                self._nvml.close()
        return False

    def rows(self, partial: bool) -> list[Row]:
        """Return what was measured, row by row; of a partial measurement, the rows that it came to."""
        reached = [row for row in self.measured if row.warm or row.cold or row.failures or not partial]
        first = self.measured[0].plan.job.engine
        return [
            row_of(row, self.options.prompts, self.limits.get(row.plan.job.engine), row.plan.job.engine != first)
            for row in reached
        ]

    def comparisons(self) -> list[Comparison]:
        """Return how rows compare with their references; one that failed is not compared."""
        failed = {row.plan.name for row in self.measured if row.failures}
        found = [each for turns in self.turns for each in compare_in_turns(turns, self.references)]
        return [each for each in found if not failed & {each.first, each.second}]

    def _measure_limits(self) -> None:
        engines = list(dict.fromkeys(row.plan.job.engine for row in self.measured))
        for done, name in enumerate(engines):
            report_progress(self.options.on_progress, "limits", done, len(engines))
            roles = [row.plan.job.bundle.manifest.roles for row in self.measured if row.plan.job.engine == name]
            graphs = [graph for role in roles for graph in role.graphs().values()]
            int8 = any(precision_of(graph.quantization) == "int8" for graph in graphs)
            self.limits[name] = measure_limits(get_engine(name), self.options.threads, int8)
        for row in self.measured:
            row.work, reason = work_or_reason(row.plan.job.bundle, row.plan.job.request)
            if reason and (note := f"Work was not counted: {reason}") not in self.notes:
                self.notes.append(note)
        report_progress(self.options.on_progress, "limits", len(engines), len(engines))

    def _groups(self) -> list[list[Measured]]:
        """Return the rows that take turns: all where their processes fit into memory together, else each with its reference."""
        free = free_host_memory()
        if free is None or sum(map(_needed_bytes, self.measured)) <= free:
            return [self.measured]
        pairs = [[row.reference, row] for row in self.measured if row.reference is not None]
        if pairs and max(sum(map(_needed_bytes, pair)) for pair in pairs) <= free:
            return pairs
        self.notes.append(
            "No two rows fit into memory together: they were measured one after the other and not compared."
        )
        return [[row] for row in self.measured]

    def _measure_group(self, group: Sequence[Measured]) -> None:
        contenders: dict[str, Contender] = {}
        try:
            for done, row in enumerate(group):
                report_progress(self.options.on_progress, "open", done, len(group))
                with row.failing():
                    contenders[row.plan.name] = self._contender(row.plan)
                    row.open(contenders[row.plan.name], self.options.prompts)
                    self._look(row, contenders[row.plan.name])
            report_progress(self.options.on_progress, "open", len(group), len(group))
            alive = [row for row in group if not row.failures]
            if not alive:
                return
            gpu = any(get_engine(row.plan.job.engine).device == "gpu" for row in alive)
            with ConditionsWatch(nvml=self._nvml if gpu else None) as watch:
                clips = self._take_turns(alive, contenders)
            for row in alive:
                if row.warm is clips[row.plan.name]:
                    row.conditions = watch.result()
            alive = [row for row in alive if not row.failures]
            for done, row in enumerate(alive):
                report_progress(self.options.on_progress, "resources", done, len(alive))
                self._watch(row, contenders[row.plan.name])
            report_progress(self.options.on_progress, "resources", len(alive), len(alive))
        finally:
            for contender in contenders.values():
                contender.close()

    def _look(self, row: Measured, contender: Contender) -> None:
        """Have a few clips made to compare their pictures. Raises EngineError where a peer makes others than edgereel does."""
        if row.clips or len(self.measured) < 2:
            return
        prompts = self.options.prompts[: pictures.COMPARED_CLIPS]
        row.clips = [contender.frames(prompt, place) for place, prompt in enumerate(prompts)]
        row.psnr = pictures.mean_psnr(self.measured[0].clips, row.clips)
        if row.reference is not None:
            row.psnr_to_reference = pictures.mean_psnr(row.reference.clips, row.clips)
        if row.plan.contender != EdgereelContender.kind:
            own = next(each for each in self.measured if each.plan.job is row.plan.job)
            row.psnr_to_edgereel = pictures.mean_psnr(own.clips, row.clips)
            if contender.must_match:
                row.check_against(own)

    def _take_turns(self, rows: Sequence[Measured], contenders: Mapping[str, Contender]) -> dict[str, list[ClipTimes]]:
        clips: dict[str, list[ClipTimes]] = {row.plan.name: [] for row in rows}
        for row in rows:
            row.warm = row.warm or clips[row.plan.name]
        self.turns.append(clips)
        runs = self._runs(rows)
        done, total = 0, runs * len(rows)

        def turn_of(row: Measured) -> Callable[[], None]:
            def run() -> None:
                made = clips[row.plan.name]
                if not row.failures:
                    with row.failing():
                        place = len(made) % len(self.options.prompts)
                        made.append(contenders[row.plan.name].make(self.options.prompts[place], place))

            return run

        def on_turn(*_: object) -> None:
            nonlocal done
            done += 1
            report_progress(self.options.on_progress, "warm", min(done, total), total)

        report_progress(self.options.on_progress, "warm", 0, total)
        turns = {row.plan.name: turn_of(row) for row in rows}
        seconds = self.options.min_seconds
        if len(rows) == 1:
            partial = measure(turns[rows[0].plan.name], runs, seconds, warm_ups=0, on_sample=on_turn).partial
        else:
            partial = interleave(turns, runs, seconds * len(rows), warm_ups=0, on_turn=on_turn).partial
        if partial:
            raise Cancelled("interrupted")
        return clips

    def _runs(self, rows: Sequence[Measured]) -> int:
        """Return how many warm clips each row makes at least, an even number where they take turns."""
        slowest, together = max(row.first for row in rows), sum(row.first for row in rows)
        if self.options.min_runs is not None:
            runs = self.options.min_runs
        elif slowest < QUICK:
            runs = runs_needed(90)
        else:
            runs = max(FEWEST_RUNS, min(ROUNDS, int(PATIENCE * len(rows) / together)))
        return runs + runs % 2 if len(rows) > 1 else runs

    def _watch(self, row: Measured, contender: Contender) -> None:
        """Have clips made that are not timed: for memory and power, for the scorer."""
        prompts = self.options.prompts
        with row.failing():
            if row.watched is None:
                gpu = get_engine(row.plan.job.engine).device == "gpu"
                with PowerMeter(find_source(gpu, nvml=self._nvml)) as meter:
                    clips = WATCHED_CLIPS if row.first < QUICK else 1
                    row.watched = contender.watch(prompts, clips, WATCHED_SECONDS)
                if row.watched is not None:
                    row.power = meter.result(row.watched.clips)
                row.facts, row.installed_bytes = contender.facts(), contender.installed_bytes()
            if self.options.quality and row.scores is None and pictures.can_be_scored(row.plan.job.bundle):
                row.scores = self._score(row, contender)

    def _score(self, row: Measured, contender: Contender) -> dict[str, float]:
        before = self.measured.index(row) * pictures.SCORED_CLIPS
        total = len(self.measured) * pictures.SCORED_CLIPS

        def on_clip(done: int) -> None:
            report_progress(self.options.on_progress, "quality", before + done, total)

        on_clip(0)
        return pictures.scored(contender.frames, on_clip=on_clip)

    def _measure_cold(self) -> None:
        rows = [row for row in self.measured if not row.failures]
        total = self.options.cold * len(rows)
        self.notes += [_COLD] if total else []
        for done in range(total):
            report_progress(self.options.on_progress, "cold", done, total)
            row = rows[done % len(rows)]
            if not row.failures:
                with row.failing():
                    place = len(row.cold) % len(self.options.prompts)
                    row.cold.append(self._cold_clip(row.plan, self.options.prompts[place], place))
        if total:
            report_progress(self.options.on_progress, "cold", total, total)

    def _cold_clip(self, plan: Plan, prompt: str, seed: int) -> ClipTimes:
        contender = self._contender(plan)
        try:
            started = time.perf_counter()
            opening = contender.start()
            clip = contender.make(prompt, seed)
            return cold_times(time.perf_counter() - started, opening, clip)
        finally:
            contender.close()

    def _contender(self, plan: Plan) -> Contender:
        if plan.contender == EdgereelContender.kind:
            return EdgereelContender(plan.name, plan.job)
        return self.options.peers[plan.contender](plan.name, plan.job)


def _needed_bytes(row: Measured) -> int:
    """Return about how much memory a row's process holds."""
    return _PROCESS_BYTES + int(_HELD * bundle_facts(row.plan.job.bundle).bytes)
