"""Measure bundles on engines: every row in a process of its own, in turns, warm and cold, with what that takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..core.errors import Cancelled, EdgereelError, UsageError, require_packages
from ..core.machine import free_host_memory
from ..core.progress import Progress, report_progress
from ..engines import get_engine
from ..runtime.memory.work import count_work, precision_of
from . import scores
from .contenders.base import Contender, Peer, RowPlan
from .contenders.stages import ClipTimes, cold_times
from .grid import bundle_facts, plan_rows, references
from .records.record import MachineLimits, Record, Row, RowComparison
from .resources.conditions import ConditionsWatch
from .resources.limits import measure_limits
from .resources.machine import begin_measurement
from .resources.nvml import Nvml
from .resources.power import PowerMeter, find_source
from .rows import RowMeasurement, compare_in_turns, row_of
from .stats.statistics import runs_needed
from .stats.turns import ROUNDS, interleave

Item = TypeVar("Item")
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
class BenchOptions:
    """How much is measured. min_runs: warm clips of each row, None for a choice by their length. cold: fresh processes."""

    prompts: list[str]
    min_runs: int | None = None
    min_seconds: float = 0.0
    cold: int = COLD_RUNS
    quality: bool = False
    threads: int | None = None
    peers: Mapping[str, Peer] = field(default_factory=dict)
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
    peers: Mapping[str, Peer] | None = None,
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
    facts = begin_measurement()
    chosen = list(prompts) if prompts is not None else scores.default_prompts(DEFAULT_PROMPTS)
    options = BenchOptions(chosen, min_runs, min_seconds, cold, quality, threads, peers or {}, on_progress)
    plans = plan_rows(bundles, engines, steps, sizes, frames, chosen, threads, peers, on_progress)
    bench = Bench(plans, options)
    interrupted = bench.measure()
    return Record(
        **facts(),
        partial=interrupted,
        command=list(command),
        limits=bench.limits.get(plans[0].engine),
        rows=bench.rows(interrupted),
        comparisons=bench.comparisons(),
        notes=bench.notes,
    )


class Bench:
    """One measurement under way. limits: by engine. turns: of each group that took turns, each row's clips by its name."""

    def __init__(self, plans: Sequence[RowPlan], options: BenchOptions) -> None:
        self.options = options
        self.measured = [RowMeasurement(plan) for plan in plans]
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
        first = self.measured[0].plan.engine
        return [
            row_of(row, self.options.prompts, self.limits.get(row.plan.engine), row.plan.engine != first)
            for row in reached
        ]

    def comparisons(self) -> list[RowComparison]:
        """Return how rows compare with their references; one that failed is not compared."""
        failed = {row.plan.name for row in self.measured if row.failures}
        found = [each for turns in self.turns for each in compare_in_turns(turns, self.references)]
        return [each for each in found if not failed & {each.first, each.second}]

    def _each(self, stage: str, items: Sequence[Item]) -> Iterator[Item]:
        """Give one item after the other, and tell how far the stage is."""
        for done, item in enumerate(items):
            report_progress(self.options.on_progress, stage, done, len(items))
            yield item
        if items:
            report_progress(self.options.on_progress, stage, len(items), len(items))

    def _measure_limits(self) -> None:
        for row in self.measured:
            try:
                row.work = count_work(row.plan.bundle, row.plan.request)
            except EdgereelError as error:
                if (note := f"Work was not counted: {error}") not in self.notes:
                    self.notes.append(note)
        for name in self._each("limits", list(dict.fromkeys(row.plan.engine for row in self.measured))):
            roles = [row.plan.bundle.manifest.roles for row in self.measured if row.plan.engine == name]
            graphs = [graph for role in roles for graph in role.graphs().values()]
            int8 = any(precision_of(graph.quantization) == "int8" for graph in graphs)
            self.limits[name] = measure_limits(get_engine(name), self.options.threads, int8)

    def _groups(self) -> list[list[RowMeasurement]]:
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

    def _measure_group(self, group: Sequence[RowMeasurement]) -> None:
        contenders: dict[str, Contender] = {}
        try:
            for row in self._each("open", group):
                with row.failing():
                    contenders[row.plan.name] = self._contender(row.plan)
                    row.open(contenders[row.plan.name], self.options.prompts)
                    self._look(row, contenders[row.plan.name])
            alive = [row for row in group if not row.failures]
            if not alive:
                return
            gpu = any(get_engine(row.plan.engine).device == "gpu" for row in alive)
            with ConditionsWatch(nvml=self._nvml if gpu else None) as watch:
                clips = self._take_turns(alive, contenders)
            for row in alive:
                if row.warm is clips[row.plan.name]:
                    row.conditions = watch.result()
            for row in self._each("resources", [row for row in alive if not row.failures]):
                self._watch(row, contenders[row.plan.name])
        finally:
            for contender in contenders.values():
                contender.close()

    def _look(self, row: RowMeasurement, contender: Contender) -> None:
        """Have a few clips made to compare their pictures. Raises EngineError where a peer makes others than edgereel does."""
        if row.clips or len(self.measured) < 2:
            return
        compared = range(min(scores.COMPARED_CLIPS, len(self.options.prompts)))
        row.clips = [contender.frames(*self._prompt(number)) for number in compared]
        row.psnr = scores.mean_psnr(self.measured[0].clips, row.clips)
        if row.reference is not None:
            row.psnr_to_reference = scores.mean_psnr(row.reference.clips, row.clips)
        if row.plan.contender != Contender.kind:
            same = replace(row.plan, contender=Contender.kind)
            own = next(each for each in self.measured if replace(each.plan, name=same.name) == same)
            row.psnr_to_edgereel = scores.mean_psnr(own.clips, row.clips)
            if contender.must_match:
                row.check_against(own)

    def _take_turns(
        self, rows: Sequence[RowMeasurement], contenders: Mapping[str, Contender]
    ) -> dict[str, list[ClipTimes]]:
        clips: dict[str, list[ClipTimes]] = {row.plan.name: [] for row in rows}
        for row in rows:
            row.warm = row.warm or clips[row.plan.name]
        self.turns.append(clips)
        runs = self._runs(rows)
        done, total = 0, runs * len(rows)

        def take(row: RowMeasurement) -> None:
            made = clips[row.plan.name]
            if not row.failures:
                with row.failing():
                    made.append(contenders[row.plan.name].make(*self._prompt(len(made))))

        def on_turn(*_: object) -> None:
            nonlocal done
            done += 1
            report_progress(self.options.on_progress, "warm", min(done, total), total)

        report_progress(self.options.on_progress, "warm", 0, total)
        turns = {row.plan.name: partial(take, row) for row in rows}
        if interleave(turns, runs, self.options.min_seconds * len(rows), on_turn=on_turn).partial:
            raise Cancelled("interrupted")
        return clips

    def _prompt(self, number: int) -> tuple[str, int]:
        """Return the prompt and the seed of a row's n-th clip, counted from 0."""
        place = number % len(self.options.prompts)
        return self.options.prompts[place], place

    def _runs(self, rows: Sequence[RowMeasurement]) -> int:
        """Return how many warm clips each row makes at least, an even number where they take turns."""
        slowest, together = max(row.first for row in rows), sum(row.first for row in rows)
        if self.options.min_runs is not None:
            runs = self.options.min_runs
        elif slowest < QUICK:
            runs = runs_needed(90)
        else:
            runs = max(FEWEST_RUNS, min(ROUNDS, int(PATIENCE * len(rows) / together)))
        return runs + runs % 2 if len(rows) > 1 else runs

    def _watch(self, row: RowMeasurement, contender: Contender) -> None:
        """Have clips made that are not timed: for memory and power, for the scorer."""
        with row.failing():
            if row.readings is None:
                gpu = get_engine(row.plan.engine).device == "gpu"
                with PowerMeter(find_source(gpu, nvml=self._nvml)) as meter:
                    clips = WATCHED_CLIPS if row.first < QUICK else 1
                    row.readings = contender.watch(self.options.prompts, clips, WATCHED_SECONDS)
                row.power = meter.result(row.readings.clips)
                row.facts, row.installed_bytes = contender.facts(), contender.installed_bytes()
            if self.options.quality and row.scores is None and scores.can_be_scored(row.plan.bundle):
                row.scores = self._score(row, contender)

    def _score(self, row: RowMeasurement, contender: Contender) -> dict[str, float]:
        before = self.measured.index(row) * scores.SCORED_CLIPS
        total = len(self.measured) * scores.SCORED_CLIPS

        def on_clip(done: int) -> None:
            report_progress(self.options.on_progress, "quality", before + done, total)

        on_clip(0)
        return scores.scored(contender.frames, on_clip=on_clip)

    def _measure_cold(self) -> None:
        turns = [row for row in self.measured if not row.failures] * self.options.cold
        self.notes += [_COLD] if turns else []
        for row in self._each("cold", turns):
            if not row.failures:
                with row.failing():
                    row.cold.append(self._cold_clip(row))

    def _cold_clip(self, row: RowMeasurement) -> ClipTimes:
        contender = self._contender(row.plan)
        try:
            started = time.perf_counter()
            opening = contender.start()
            clip = contender.make(*self._prompt(len(row.cold)))
            return cold_times(time.perf_counter() - started, opening, clip)
        finally:
            contender.close()

    def _contender(self, plan: RowPlan) -> Contender:
        return Contender(plan) if plan.contender == Contender.kind else self.options.peers[plan.contender].make(plan)


def _needed_bytes(row: RowMeasurement) -> int:
    """Return about how much memory a row's process holds."""
    return _PROCESS_BYTES + int(_HELD * bundle_facts(row.plan.bundle).bytes)
