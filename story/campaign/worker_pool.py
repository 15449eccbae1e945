"""Rows handed to workers that may end at any moment: none is lost, and none is told of twice."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ...core.errors import EngineError
from ...core.files import remove, sweep, temporary_beside
from ...core.progress import Progress, report_progress
from ...jobs.job import MOST_STARTS
from .executor import RowResult
from .row_job import RowJob

_ASKED_EVERY = 0.5
"""Seconds after which the caller is asked whether to go on."""
_PATIENCE = 600.0
"""Seconds for which no worker may be there at all: large bundles take minutes to be read and checked."""


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker at a place did.

    `ready`: it has opened the bundle, and takes rows. `refused`: it cannot, and never will; text says why. `made`: facts are
    make_row's, and the file is there. `failed`: that row cannot be made. `died`: it is no more, whatever it was doing.
    """

    place: int
    kind: Literal["ready", "refused", "made", "failed", "died"]
    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Workers(Protocol):
    """Workers by place, 0 and up, each of which makes one row at a time."""

    def start(self, place: int) -> None:
        """Begin a worker; `ready`, `refused` or `died` will be told of it."""

    def make(self, place: int, job: RowJob, part: Path) -> None:
        """Have a worker that is ready make a row; `made`, `failed` or `died` will be told of it."""

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """Return what has happened, after at most that time."""

    def close(self) -> None:
        """End all workers at once."""


class WorkerPool:
    """Gives rows to workers, those of a dead one to another. A row in which workers died three times is failed.

    on_note: told why workers are not used.
    """

    def __init__(
        self, workers: Workers, count: int, folder: Path, on_note: Callable[[str], object] | None = None
    ) -> None:
        self._workers, self._count, self._folder, self._on_note = workers, count, folder, on_note
        self._busy: dict[int, tuple[RowJob, Path]] = {}
        self._idle: set[int] = set()
        self._given_up: set[int] = set()
        self._deaths: Counter[str] = Counter()
        self._failed_starts: Counter[int] = Counter()

    def results(self, jobs: Sequence[RowJob], on_progress: Progress | None) -> Generator[RowResult, None, None]:
        """See Executor. on_progress is told of `workers`: how many are there."""
        queue = _Queue(jobs, self._count)
        used = time.monotonic()
        try:
            for place in range(self._count):
                self._workers.start(place)
            while queue or self._busy:
                self._hand_out(queue)
                report_progress(on_progress, "workers", len(self._busy) + len(self._idle), self._count)
                for event in self._workers.wait(_ASKED_EVERY):
                    result = self._hear(event, queue)
                    if result is not None:
                        try:
                            yield result
                        finally:
                            remove(result.part)
                if self._busy or self._idle:
                    used = time.monotonic()
                elif time.monotonic() - used > _PATIENCE:
                    raise EngineError(f"no worker was there for {_PATIENCE / 60:.0f} minutes: nothing can be made")
        finally:
            self._workers.close()
            for _, part in self._busy.values():
                remove(part)
            sweep(self._folder)  # what those who were ended had not written to its end

    def _hand_out(self, queue: _Queue) -> None:
        for place in sorted(self._idle):
            job = queue.take(place)
            if job is None:
                return
            self._idle.remove(place)
            part = temporary_beside(self._folder / job.name)
            self._busy[place] = (job, part)
            self._workers.make(place, job, part)

    def _hear(self, event: WorkerEvent, queue: _Queue) -> RowResult | None:
        """Note what happened, and return what became of a row, if something did. Raises EngineError where no worker is left."""
        if event.kind == "died":
            return self._bury(event, queue)
        if event.kind == "refused":
            self._give_up(event)
            return None
        self._idle.add(event.place)
        self._failed_starts[event.place] = 0
        if event.kind == "ready":
            return None
        job, part = self._busy.pop(event.place)
        tries = self._deaths[job.name] + 1
        if event.kind == "failed":
            return RowResult(job, part, error=event.text, tries=tries)
        return RowResult(job, part, event.facts, tries=tries)

    def _bury(self, event: WorkerEvent, queue: _Queue) -> RowResult | None:
        """Take a dead worker's row from it, and put another worker in its place."""
        result = None
        self._idle.discard(event.place)
        if event.place in self._busy:
            job, part = self._busy.pop(event.place)
            remove(part)
            sweep(self._folder)  # what it had not written to its end
            self._deaths[job.name] += 1
            if self._deaths[job.name] < MOST_STARTS:
                queue.put_back(job)
            else:
                error = f"{MOST_STARTS} workers ended while they made it, the last so: {event.text}"
                result = RowResult(job, part, error=error, tries=MOST_STARTS)
        else:
            self._failed_starts[event.place] += 1
        if self._failed_starts[event.place] >= MOST_STARTS:
            self._give_up(event)
        elif queue or self._busy:
            self._workers.start(event.place)
        return result

    def _give_up(self, event: WorkerEvent) -> None:
        self._given_up.add(event.place)
        if len(self._given_up) == self._count:
            raise EngineError(event.text)
        if self._on_note is not None:
            self._on_note(f"one worker less: {event.text}")


class _Queue:
    """Rows in order. Each place has a run of its own, so that neighbours, which share plans and prompts, stay together."""

    def __init__(self, jobs: Sequence[RowJob], places: int) -> None:
        size = -(-len(jobs) // places)
        self._runs = [deque(jobs[place * size : (place + 1) * size]) for place in range(places)]
        self._again: deque[RowJob] = deque()

    def __len__(self) -> int:
        return len(self._again) + sum(map(len, self._runs))

    def take(self, place: int) -> RowJob | None:
        """Return the next row for a place: one that was begun before, of its own run, or the end of the longest."""
        if self._again:
            return self._again.popleft()
        if self._runs[place]:
            return self._runs[place].popleft()
        longest = max(self._runs, key=len)
        return longest.pop() if longest else None

    def put_back(self, job: RowJob) -> None:
        """Have a row made again."""
        self._again.append(job)
