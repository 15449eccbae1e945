"""Workers of a campaign that are actors of Ray, on this machine or on the nodes of a cluster.

Ray starts them, tells that one is dead, and carries rows there and files back, as bytes: a path means nothing on another machine.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import EdgereelError, EngineError, OutputError, brief, one_line
from ...core.interrupts import temporary_folder
from ...core.version import __version__
from .row_job import RowJob
from .worker import MOST_WORKERS, Opening, RowMaker
from .worker_pool import WorkerEvent

_LARGEST_FILE = 2**30
_WITHOUT_GPU = ("cpu", "openvino")


class RowActor:
    """What runs on a node. Answers are plain: (kind, text, facts, the file's bytes), as in WorkerEvent."""

    def __init__(self, opening: dict[str, Any]) -> None:
        logging.getLogger("edgereel").setLevel(logging.ERROR)
        self._opening = Opening(**opening)
        self._maker: RowMaker | None = None

    def open(self) -> tuple[str, str, dict[str, Any], bytes]:
        """Open the bundle."""
        try:
            self._maker = RowMaker(self._opening)
        except EdgereelError as error:
            return "refused", f"on {platform.node()}: {error}", {}, b""
        return "ready", "", {}, b""

    def make(self, job: dict[str, Any]) -> tuple[str, str, dict[str, Any], bytes]:
        """Make a row."""
        assert self._maker is not None
        try:
            with temporary_folder("edgereel-row-") as folder:
                part = folder / "row"
                made = self._maker.make(job, part)
                if part.stat().st_size > _LARGEST_FILE:
                    raise OutputError(f"the file is larger than the {_LARGEST_FILE >> 20} MiB that are sent")
                return "made", "", made, part.read_bytes()
        except (EdgereelError, OSError) as error:
            return "failed", f"on {platform.node()}: {error}", {}, b""


class _Call(NamedTuple):
    """What an actor was asked, and where its answer's file goes."""

    place: int
    part: Path | None = None


class RayWorkers:
    """See Workers. Ray must be connected. check: called when a worker has begun; what it raises ends the campaign."""

    def __init__(self, opening: Opening, check: Callable[[], None] | None = None) -> None:
        import ray

        self._ray, self._opening, self._check = ray, opening, check
        needs: dict[str, Any] = {"num_cpus": opening.threads or 1, "scheduling_strategy": "SPREAD"}
        if _uses_gpu(opening.engine):
            needs["num_gpus"] = 1
        # A dead actor is not started again by Ray: the row that it had is to be counted, and may go to another.
        self._class = ray.remote(max_restarts=0, max_task_retries=0, **needs)(RowActor)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}

    def start(self, place: int) -> None:
        """See Workers."""
        with cluster_errors():
            self._actors[place] = self._class.remote(self._opening._asdict())
            self._calls[self._actors[place].open.remote()] = _Call(place)

    def make(self, place: int, job: RowJob, part: Path) -> None:
        """See Workers."""
        with cluster_errors():
            self._calls[self._actors[place].make.remote(job.to_json())] = _Call(place, part)

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """See Workers. Raises EngineError where the cluster does not answer any more."""
        if not self._calls:
            time.sleep(seconds)
            return []
        with cluster_errors():
            done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
            return [self._event(reference, self._calls.pop(reference)) for reference in done]

    def _event(self, reference: Any, call: _Call) -> WorkerEvent:
        errors = self._ray.exceptions
        try:
            kind, text, facts, content = self._ray.get(reference)
        except errors.RayTaskError as error:  # a mistake in the actor; the row is not to be tried again
            told = brief(getattr(error, "cause", None) or error)
            return WorkerEvent(call.place, "refused" if call.part is None else "failed", told)
        except errors.RayError as error:  # the actor, its node, or what it had made is lost
            with contextlib.suppress(Exception):
                self._ray.kill(self._actors[call.place])
            return WorkerEvent(call.place, "died", _cause(error))
        if kind == "ready" and self._check is not None:
            self._check()
        if kind == "made":
            assert call.part is not None
            try:
                call.part.write_bytes(content)
            except OSError as error:
                return WorkerEvent(call.place, "failed", f"cannot write {call.part}: {error.strerror or error}")
        return WorkerEvent(call.place, kind, text, facts)

    def close(self) -> None:
        """See Workers."""
        for actor in self._actors.values():
            with contextlib.suppress(Exception):  # it may be dead, and the cluster gone
                self._ray.kill(actor)


def _cause(error: Exception) -> str:
    """Return why an actor is lost, of a message of many lines: the exception that ended it, else how the message begins."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return one_line(next((line for line in reversed(lines) if re.match(r"[\w.]+Error: ", line)), lines[0])[:200])


@contextlib.contextmanager
def cluster_errors() -> Iterator[None]:
    """Say in one line that the cluster is not there any more, whatever way Ray says it."""
    import ray

    try:
        yield
    except ImportError as error:  # over there, as it takes up our class
        told = f"{one_line(brief(error))}: install edgereel {__version__} on its nodes"
        raise EngineError(f"the Ray cluster cannot make rows: {told}") from error
    except (ConnectionError, ray.exceptions.RayError, RuntimeError) as error:
        raise EngineError(f"the Ray cluster does not answer: {one_line(brief(error))}") from error


def places_in_cluster(threads: int, engine: str) -> int:
    """Return how many workers the cluster has room for, 1 at least. Raises EngineError where it does not answer."""
    import ray

    with cluster_errors():
        there = ray.cluster_resources()
    places = int(there.get("CPU", 0) // threads)
    if _uses_gpu(engine):
        places = min(places, int(there.get("GPU", 0)))
    return min(MOST_WORKERS, max(1, places))


def _uses_gpu(engine: str) -> bool:
    """Tell whether workers get a GPU each: Ray hides GPUs from an actor that asked for none."""
    import ray

    with cluster_errors():
        return engine not in _WITHOUT_GPU and ray.cluster_resources().get("GPU", 0) >= 1
