"""A bundle through MLPerf's load generator, as MLPerf Inference's text-to-video task defines its scenarios.

The test runs in a process of its own, with the bundle opened in it (bench/load/loadgen_worker.py). What the load generator calls
a query begins with a prompt and ends with the bytes of a finished MP4 file; nothing is cached between queries.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ...core.errors import Cancelled, EdgereelError, EngineError, UsageError, require_packages
from ...core.files import output_errors
from ...core.processes import python_command
from ...core.progress import Progress, report_progress
from ...runtime.request import Request
from ..contenders.base import RowPlan
from ..contenders.process import WorkerProcess
from ..contenders.stages import ClipTimes, times_from_json
from ..grid import plan_one
from ..records.record import UNCACHED, EngineFacts, Mlperf, Record
from ..resources.machine import begin_measurement
from ..rows import RowMeasurement, row_of
from ..scores import FEWEST_FRAMES, can_be_scored, default_prompts
from .loadgen_log import LoadgenLog, read_log, reasons_invalid

SCENARIOS: dict[str, Literal["SingleStream", "Offline"]] = {"singlestream": "SingleStream", "offline": "Offline"}
TASK_PROMPTS = 248
"""Prompts in the task's data set: the number of the built-in captions that are used in their place."""
CHECKED_SAMPLES = 50
"""How many samples of the data set MLPerf's checker wants the library to hold at least."""
TASK_SIZE, TASK_FRAMES, TASK_STEPS = (1280, 720), 81, 20
_MOST_SECONDS, _MOST_QUERIES = 30 * 86400.0, 10_000_000
_LOGS = {"PerformanceOnly": "performance", "AccuracyOnly": "accuracy"}
_DETAIL_LOG = "mlperf_log_detail.txt"


@dataclass(frozen=True)
class LoadTest:
    """What is asked of the load generator. min_seconds, min_queries: None for what the task asks."""

    scenario: Literal["SingleStream", "Offline"]
    prompts: list[str]
    folder: Path
    min_seconds: float | None
    min_queries: int | None


@dataclass
class LoadOutcome:
    """What one test in one mode left. task: what the task asks for; failure: why it did not come to its end, else empty."""

    clips: list[ClipTimes] = field(default_factory=list)
    facts: EngineFacts | None = None
    task: dict[str, Any] = field(default_factory=dict)
    log: LoadgenLog = field(default_factory=LoadgenLog)
    accuracy: dict[str, Any] | None = None
    failure: str = ""
    interrupted: bool = False


def run_mlperf(
    bundle: Path | None,
    scenario: str,
    folder: Path,
    *,
    engine: str = "auto",
    prompts: Sequence[str] | None = None,
    threads: int | None = None,
    memory: str | None = None,
    min_seconds: float | None = None,
    min_queries: int | None = None,
    accuracy: bool = False,
    command: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Record:
    """Return the record of a test; `record.mlperf` has the verdict. Logs go into folders inside `folder`, which is there.

    bundle: None for the built-in one. scenario: a key of SCENARIOS. prompts: the library of samples, sample n has seed n;
    None for as many captions that the built-in model never saw as the task has prompts. min_seconds, min_queries: None for
    what the task asks. accuracy: after the performance test make every clip once more, keep it, and score it where it is the
    built-in model's. on_progress: the stages `queries` and `accuracy`.

    Ctrl-C, a crash of the load generator and a clip that fails end it: what was completed is in the record, which is partial
    and not valid; where that is nothing, Cancelled or EngineError is raised. Raises BundleError, GeometryError, PromptError,
    UsageError, OutputError before the test, and MissingExtraError without the load generator.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"--scenario {scenario}: choose {' or '.join(SCENARIOS)}")
    require_packages(("mlperf_loadgen",), "mlperf", "MLPerf's load generator")
    if min_seconds is not None and not 0 < min_seconds <= _MOST_SECONDS:
        raise UsageError(f"--min-duration {min_seconds:g}: choose more than 0 and at most {_MOST_SECONDS:.0f} seconds")
    if min_queries is not None and not 1 <= min_queries <= _MOST_QUERIES:
        raise UsageError(f"--min-queries {min_queries}: choose from 1 to {_MOST_QUERIES}")
    chosen = list(prompts) if prompts is not None else default_prompts(TASK_PROMPTS)
    plan = plan_one(bundle, engine, chosen, threads, memory, on_progress)
    test = LoadTest(SCENARIOS[scenario], chosen, folder, min_seconds, min_queries)
    facts = begin_measurement()
    outcome = run_mode(plan, test, "PerformanceOnly", False, on_progress)
    if outcome.failure and not outcome.clips:
        with suppress(OSError):  # not empty: the load generator wrote its logs
            (folder / _LOGS["PerformanceOnly"]).rmdir()
        raise Cancelled(outcome.failure) if outcome.interrupted else EngineError(outcome.failure)
    kept, note = None, "not asked for: --accuracy makes every clip once more and keeps it"
    if accuracy and not outcome.failure:
        scored = prompts is None and can_be_scored(plan.bundle) and plan.request.frames >= FEWEST_FRAMES
        kept = run_mode(plan, test, "AccuracyOnly", scored, on_progress)
        note = _accuracy_note(kept, scored)
    failures = [each.failure for each in (outcome, kept) if each is not None and each.failure]
    row = RowMeasurement(plan, warm=outcome.clips, facts=outcome.facts, failures=failures)
    return Record(
        **facts(),
        kind="mlperf",
        partial=bool(failures),
        command=list(command),
        rows=[row_of(row, chosen)],
        mlperf=result_of(plan, test, outcome, kept, note),
        notes=[UNCACHED],
    )


def run_mode(plan: RowPlan, test: LoadTest, mode: str, scored: bool, on_progress: Progress | None) -> LoadOutcome:
    """Return what one test left, whether it came to its end or not. Raises OutputError where the logs have no place."""
    folder = test.folder / _LOGS[mode]
    keep = folder / "clips" if mode == "AccuracyOnly" else None
    with output_errors(folder):
        folder.mkdir(exist_ok=True)
        (folder / _DETAIL_LOG).unlink(missing_ok=True)  # of an earlier test: it must not be taken for this one's
        if keep is not None:
            keep.mkdir(exist_ok=True)
    outcome = LoadOutcome()
    request = {
        **plan.opening(),
        **{"prompts": test.prompts, "scenario": test.scenario, "mode": mode},
        **{"folder": str(folder.resolve()), "keep": None if keep is None else str(keep.resolve()), "score": scored},
        **{"min_seconds": test.min_seconds, "min_queries": test.min_queries},
    }
    process = WorkerProcess(python_command("edgereel.bench.load.loadgen_worker"))
    try:
        process.request(do="begin", **request)
        _follow(process, outcome, test, mode, on_progress)
    except (KeyboardInterrupt, Cancelled):
        outcome.failure, outcome.interrupted = "interrupted", True
    except EdgereelError as error:
        outcome.failure = str(error)
    finally:
        process.kill()  # also at its end: there is nothing left in it to be finished
    outcome.log = read_log(folder / _DETAIL_LOG)
    return outcome


def _follow(
    process: WorkerProcess, outcome: LoadOutcome, test: LoadTest, mode: str, on_progress: Progress | None
) -> None:
    """Take news into the outcome until the test has ended."""
    stage = "queries" if mode == "PerformanceOnly" else "accuracy"
    begun: float | None = None
    while True:
        news = process.request(do="news")
        outcome.clips += [times_from_json(clip) for clip in news["clips"]]
        outcome.task = news.get("task", outcome.task)
        outcome.accuracy = news.get("accuracy", outcome.accuracy)
        if "engine" in news:
            try:
                outcome.facts = EngineFacts.model_validate(news["engine"])
            except ValidationError as error:
                raise EngineError("the test's process does not tell what runs it") from error
        if news["ended"]:
            report_progress(on_progress, stage, len(outcome.clips), len(outcome.clips))
            return
        if begun is None and news.get("begun"):
            begun = time.perf_counter()
        if begun is not None:
            elapsed = time.perf_counter() - begun
            total = _expected(outcome, test, elapsed) if mode == "PerformanceOnly" else len(test.prompts)
            report_progress(on_progress, stage, len(outcome.clips), max(total, len(outcome.clips) + 1))


def _expected(outcome: LoadOutcome, test: LoadTest, elapsed: float) -> int:
    """Return how many queries the test will have, judged by its pace so far."""
    task = outcome.task
    seconds = test.min_seconds or task.get("min_duration_ms", 0) / 1000
    queries = test.min_queries or int(task.get("min_query_count", 0))
    return max(queries, int(len(outcome.clips) * seconds / max(elapsed, 1e-3)))


def _accuracy_note(outcome: LoadOutcome, scored: bool) -> str:
    if outcome.failure:
        return f"the accuracy test did not come to its end: {outcome.failure}"
    if not scored:
        return (
            "the clips were made and kept, and not scored: MLPerf's six VBench dimensions need models that are not "
            "here, and the demo's own scorer reads only the demo's captions and clips of five frames or more"
        )
    return (
        "these figures are the demo's own scorer's, the share of clips that show what was asked for; they are not "
        "MLPerf's, which are the mean of six VBench dimensions"
    )


def result_of(plan: RowPlan, test: LoadTest, outcome: LoadOutcome, kept: LoadOutcome | None, note: str) -> Mlperf:
    """Return the verdict and figures of a test, from what the load generator logged."""
    log = outcome.log
    reasons = [f"{outcome.failure} after {len(outcome.clips)} clips"] if outcome.failure else reasons_invalid(log)
    nanoseconds = log.number("early_stopping_latency_ss")
    tells = test.scenario == "SingleStream" and not outcome.failure and nanoseconds
    rate = log.number("result_samples_per_second")
    if rate is None:
        rate = log.number("result_qps_with_loadgen_overhead")
    return Mlperf(
        scenario=test.scenario,
        modes=["PerformanceOnly", *(["AccuracyOnly"] if kept is not None else [])],
        valid=not reasons,
        reasons=reasons,
        short_of_task=short_of_task(outcome, test),
        division_reasons=division_reasons(plan, plan.request),
        loadgen=str(log.values.get("loadgen_version", "unknown")),
        settings=log.part("effective_"),
        results={**log.part("result_"), **log.part("early_stopping_")},
        samples=len(outcome.clips),
        p90_seconds=nanoseconds / 1e9 if tells and nanoseconds is not None else None,
        samples_per_second=rate,
        logs=[_LOGS["PerformanceOnly"], *([_LOGS["AccuracyOnly"]] if kept is not None else [])],
        accuracy=None if kept is None else kept.accuracy,
        accuracy_note=note,
    )


def short_of_task(outcome: LoadOutcome, test: LoadTest) -> list[str]:
    """Return in words where this test asked for less than the task does."""
    task, found = outcome.task, []
    seconds, queries = task.get("min_duration_ms", 0) / 1000, task.get("min_query_count", 0)
    if test.min_seconds is not None and test.min_seconds < seconds:
        found.append(f"a minimum duration of {test.min_seconds:g} s was asked for, and the task asks for {seconds:g} s")
    if test.min_queries is not None and test.min_queries < queries:
        found.append(f"at least {test.min_queries} queries were asked for, and the task asks for {queries}")
    if len(test.prompts) < CHECKED_SAMPLES:
        found.append(f"there are {len(test.prompts)} prompts, and MLPerf's checker wants at least {CHECKED_SAMPLES}")
    return found


def division_reasons(plan: RowPlan, request: Request) -> list[str]:
    """Return why this is MLPerf's open division: where model or settings differ from the reference's."""
    manifest = plan.bundle.manifest
    found = [f"the model is {manifest.name}, not shown to be the reference's Wan2.2-T2V-A14B"]
    recipe = manifest.recipe(request.recipe)
    if "distil" in manifest.origin.lower() or (recipe is not None and recipe.is_fixed):
        found.append(f"it is distilled, which the closed division does not allow: {request.steps} steps")
    if request.steps != TASK_STEPS:
        found.append(f"steps: {request.steps}, not {TASK_STEPS}")
    if (request.width, request.height) != TASK_SIZE:
        found.append(f"size: {request.width}x{request.height}, not {TASK_SIZE[0]}x{TASK_SIZE[1]}")
    if request.frames != TASK_FRAMES:
        found.append(f"frames: {request.frames}, not {TASK_FRAMES}")
    found.append("prompts: not MLPerf's selection from VBench")
    return found
