"""Workers of a campaign that are processes on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from ...core.errors import EngineError
from ...jobs.worker_process import CommandRefused, WorkerDied, WorkerProcess
from .row_job import RowJob
from .worker import MODULE, Opening
from .worker_pool import WorkerEvent


class ProcessWorkers:
    """See Workers. A row's file is written where it belongs, by the worker itself."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._environment = {} if opening.threads is None else {"OMP_NUM_THREADS": str(opening.threads)}
        self._loop = asyncio.new_event_loop()
        self._processes: dict[int, WorkerProcess] = {}
        self._tasks: set[asyncio.Task[WorkerEvent]] = set()

    def start(self, place: int) -> None:
        """See Workers."""
        self._tasks.add(self._loop.create_task(self._open(place)))

    def make(self, place: int, job: RowJob, part: Path) -> None:
        """See Workers."""
        work = self._processes[place].request("make", job=job.to_json(), part=str(part))
        self._tasks.add(self._loop.create_task(self._told(place, "failed", work)))

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """See Workers."""
        if not self._tasks:
            time.sleep(seconds)
            return []
        waited = asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        done, self._tasks = self._loop.run_until_complete(waited)
        return [task.result() for task in done]

    def close(self) -> None:
        """See Workers."""
        for process in self._processes.values():
            process.kill("the campaign is over")
            process.wait(5.0)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks))
        self._loop.close()

    async def _open(self, place: int) -> WorkerEvent:
        try:
            process = WorkerProcess(self._environment, module=MODULE)
        except EngineError as error:
            return WorkerEvent(place, "died", str(error))
        self._processes[place] = process
        process.attach(lambda event: None, lambda: None)
        return await self._told(place, "refused", process.request("open", opening=self._opening._asdict()))

    async def _told(self, place: int, otherwise: Any, work: Coroutine[Any, Any, dict[str, Any]]) -> WorkerEvent:
        """Return what became of a command. otherwise: what a refusal of it is."""
        try:
            answer = await work
        except CommandRefused as error:
            return WorkerEvent(place, otherwise, str(error))
        except WorkerDied as error:
            return WorkerEvent(place, "died", str(error))
        if "row" in answer:
            return WorkerEvent(place, "made", facts=answer["row"])
        return WorkerEvent(place, "ready")
