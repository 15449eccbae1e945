"""`python -m edgereel.bench.load.loadgen_worker`: MLPerf's load generator and the system under test, in a process of their own.

It speaks the language of bench/contenders/protocol.py with two commands: `begin` starts one test in a thread of its
own, and `news` is answered, twice a second, with the clips that were completed since, and at the end with how it
went. The load generator calls the opened reel directly, in the thread that opened it: no pipe and no queue is between
them while a query is timed.

The load generator is native code that nothing can stop from within, so after a clip that fails it is left waiting: whoever
asked for news ends the process.
"""

from __future__ import annotations

import array
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...core.errors import EdgereelError, EngineError, UsageError, brief, require_packages
from ...demo.scorer import Reading, read
from ..contenders.protocol import serve_pipes
from ..contenders.stages import ClipTimes
from ..contenders.worker import ReelMaker
from ..scores import figures_of

TASK = "wan-2.2-t2v-a14b"
"""The load generator's name for MLPerf Inference's text-to-video task, under which it has its rules."""
WARM_UP_CLIPS, WARM_UP_SECONDS = 3, 10.0
_WARM_UP_SHARE = 1 / 60  # of the test's duration, up to WARM_UP_SECONDS
_OFFLINE_MARGIN = 1.2
"""An offline test asks for all its clips at once: for so many times what the fastest warm-up promises, so that a machine that
becomes faster does not end before the minimum duration."""
NEWS_SECONDS = 0.5


class LoadgenWorker:
    """One test, in a thread of its own; what that has to tell waits under a lock until somebody asks for news."""

    def __init__(self, folder: Path) -> None:
        """folder: for clips that are not kept."""
        self._folder = folder
        self._lock = threading.Lock()
        self._clips: list[dict[str, Any]] = []
        self._told: dict[str, Any] = {}
        self._error = ""
        self._ended = threading.Event()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """See protocol.Worker. Raises EngineError for what went wrong in the test."""
        if request["do"] == "begin":
            threading.Thread(target=self._run, args=(request,), name="loadgen", daemon=True).start()
            return {}
        if request["do"] == "news":
            return self._news()
        raise UsageError(f"this worker does begin and news, not {request['do']!r}")

    def close(self) -> None:
        """Nothing can be let go of while the load generator runs; the end of the process does it."""

    def _news(self) -> dict[str, Any]:
        ended = self._ended.wait(NEWS_SECONDS)
        with self._lock:
            if self._error:
                raise EngineError(self._error)
            clips, self._clips = self._clips, []
            return {"clips": clips, "ended": ended, **self._told}

    def _run(self, request: dict[str, Any]) -> None:
        maker = ReelMaker()
        try:
            maker.open(request)
            system = SystemUnderTest(maker, request, self._folder, self._completed)
            fastest = system.warm_up(request["min_seconds"])
            self._tell(engine=maker.facts())
            run_loadgen(system.make, len(request["prompts"]), fastest, request, self._tell, self._fail)
            self._tell(accuracy=figures_of(system.readings, len(request["prompts"])) if system.readings else None)
        except EdgereelError as error:
            self._note(str(error))
        except Exception as error:  # a thread has nobody else to tell
            self._note(f"{type(error).__name__}: {brief(error)}")
        finally:
            maker.close()
        self._ended.set()

    def _completed(self, times: ClipTimes) -> None:
        with self._lock:
            self._clips.append(times.to_json())

    def _tell(self, **facts: Any) -> None:
        with self._lock:
            self._told.update(facts)

    def _note(self, error: str) -> None:
        with self._lock:
            self._error = self._error or error

    def _fail(self, error: str) -> NoReturn:
        """Note the error and never return: called by the load generator, which takes no exception."""
        self._note(error)
        while True:
            time.sleep(3600)


class SystemUnderTest:
    """Prompt n of the library, with seed n, to a finished MP4 file. readings: the scorer's, by n, where it was asked for."""

    def __init__(
        self, maker: ReelMaker, request: dict[str, Any], folder: Path, completed: Callable[[ClipTimes], None]
    ) -> None:
        """request: has `prompts`, `keep`, the folder where clips stay, or None, and `score`. folder: for those that do not."""
        self.readings: dict[int, Reading] = {}
        self._maker, self._prompts, self._folder, self._completed = maker, request["prompts"], folder, completed
        self._keep, self._score = request["keep"], request["score"]

    def warm_up(self, test_seconds: float | None) -> float:
        """Make a few clips that are not timed, as MLPerf's rules allow; return the seconds of the fastest.

        test_seconds: how long the test is to take at least, None for what the task asks.
        """
        seconds: list[float] = []
        enough = WARM_UP_SECONDS if test_seconds is None else min(WARM_UP_SECONDS, _WARM_UP_SHARE * test_seconds)
        started = time.perf_counter()
        while len(seconds) < WARM_UP_CLIPS or time.perf_counter() - started < enough:
            number = len(seconds) % len(self._prompts)
            seconds.append(self._maker.clip(self._prompts[number], number, self._folder / "clip.mp4")[1].total)
        return min(seconds[1:])  # the first one opened the graphs

    def make(self, number: int) -> bytes:
        """Make a clip and return the sha256 of its file, which is what the load generator logs of it."""
        path = self._folder / "clip.mp4" if self._keep is None else Path(self._keep) / f"{number:05}.mp4"
        video, times = self._maker.clip(self._prompts[number], number, path)
        self._completed(times)
        if self._score:
            self.readings[number] = read(np.stack(list(video)))
        return hashlib.sha256(path.read_bytes()).digest()


def run_loadgen(
    make: Callable[[int], bytes],
    samples: int,
    fastest: float,
    request: dict[str, Any],
    tell: Callable[..., None],
    fail: Callable[[str], NoReturn],
) -> None:
    """Run one test of the load generator from its beginning to its end.

    make: a sample of the library to its response. fastest: seconds of a clip at best, from which the load generator knows how
    many queries to prepare. request: `scenario`, `mode`, `folder` for the logs, `min_seconds` and `min_queries`, None for
    the task's own. tell: is given `task` (what the task asks for), and `begun` as the test begins. fail: told why a clip
    could not be made; it never returns. Raises MissingExtraError, EngineError.
    """
    require_packages(("mlperf_loadgen",), "mlperf", "MLPerf's load generator")
    import mlperf_loadgen as loadgen

    folder = Path(request["folder"])
    settings, task = settings_for(loadgen, request, samples, fastest)
    tell(task=task)

    def issue(queries: Sequence[Any]) -> None:
        for query in queries:
            try:
                response = array.array("B", make(query.index))
            except BaseException as error:
                fail(f"sample {query.index}: {brief(error)}")
            address, length = response.buffer_info()
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, address, length)])

    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(samples, samples, lambda indices: None, lambda indices: None)
    try:
        tell(begun=True)
        # No audit file: a compliance test is another test.
        loadgen.StartTestWithLogSettings(system, library, settings, logs, str(folder / "audit.config"))
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)


def settings_for(loadgen: Any, request: dict[str, Any], samples: int, fastest: float) -> tuple[Any, dict[str, int]]:
    """Return the load generator's settings for a test, and what the task itself asks for.

    The task's rules are those built into the load generator, which reads them only on its first call in a process.
    """
    user = Path(request["folder"]) / "user.conf"
    user.write_text("", encoding="utf-8")
    settings = loadgen.TestSettings()
    if settings.FromConfig(str(user), TASK, request["scenario"]):
        raise EngineError("MLPerf's load generator has no rules for its text-to-video task: install a newer one")
    user.unlink()
    settings.scenario = getattr(loadgen.TestScenario, request["scenario"])
    settings.mode = getattr(loadgen.TestMode, request["mode"])
    task = {
        "min_duration_ms": int(settings.min_duration_ms),
        "min_query_count": int(settings.min_query_count),
        "performance_sample_count": int(settings.performance_sample_count_override),
    }
    if request["min_seconds"] is not None:
        settings.min_duration_ms = max(1, round(1000 * request["min_seconds"]))
    if request["min_queries"] is not None:
        settings.min_query_count = request["min_queries"]
    if samples < settings.performance_sample_count_override:
        settings.performance_sample_count_override = samples
    settings.single_stream_expected_latency_ns = max(1, int(1e9 * fastest))
    settings.offline_expected_qps = _OFFLINE_MARGIN / fastest
    return settings, task


if __name__ == "__main__":
    serve_pipes(LoadgenWorker)
