"""Gives jobs to workers, notes what becomes of them, and starts workers again that died."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from ...core.errors import OutputError
from ...jobs.files import VideosFolder
from ...jobs.job import CANCELLED, IN_PROGRESS, QUEUED, Job
from ...jobs.store import JobStore
from ...jobs.worker_process import CommandRefused, WorkerDied, WorkerProcess
from ..configuration import Configuration
from ..events import Hub
from ..videos import video_object
from .plan import open_command, plan_workers, start_worker
from .progress import JobProgress
from .slot import Slot

_LOG = logging.getLogger("edgereel.server")
_LONGEST_PAUSE = 30.0
_WANTED_SECONDS = 5.0
_TOLD_IN_QUEUE = 10
"""How many in front of the queue are told that they moved up."""
ERROR_CODES = {
    "Cancelled": CANCELLED,
    "PromptError": "invalid_prompt",
    "GeometryError": "invalid_size",
    "UsageError": "invalid_value",
    "OutOfMemory": "out_of_memory",
    "PlanError": "out_of_memory",
    "OutputError": "output_failed",
    "StoreFull": "disk_full",
    "BundleError": "bundle_failed",
}


class Supervisor:
    """Owns the workers. on_begin(id), on_stage(stage, seconds), on_end(job), on_death(): told for measurement.

    models: what workers said of theirs, empty before the first is ready.
    """

    def __init__(
        self,
        configuration: Configuration,
        store: JobStore,
        videos: VideosFolder,
        hub: Hub,
        lock_descriptor: int | None = None,
    ) -> None:
        """lock_descriptor: of the data folder's lock, which workers hold too for as long as they may write there."""
        self.configuration, self.store, self.videos, self.hub = configuration, store, videos, hub
        self.models: list[dict[str, Any]] = []
        self.progress: dict[str, JobProgress] = {}
        self.slots: list[Slot] = []
        self.known = asyncio.Event()
        self.failure: str | None = None
        self.on_end: Callable[[Job], object] = lambda job: None
        self.on_death: Callable[[], object] = lambda: None
        self.on_begin: Callable[[str], object] = lambda id: None
        self.on_stage: Callable[[str, float], object] = lambda stage, seconds: None
        self.on_film: dict[str, Callable[[dict[str, Any]], object]] = {}
        self.plan = plan_workers(configuration)
        self._keep_open = () if lock_descriptor is None else (lock_descriptor,)
        self._changed = asyncio.Condition()
        self._changes = 0
        self._wanted_at = -_WANTED_SECONDS
        self._stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()

    # What jobs look like.

    def object_of(self, job: Job) -> dict[str, Any]:
        """Return a job as the HTTP interface shows it."""
        position = self.store.position(job.number) if job.status == QUEUED else None
        return video_object(job, self.progress.get(job.id), position, self.configuration.limits.keep_seconds)

    def publish(self, job: Job) -> None:
        """Tell everybody who listens what a job is now."""
        self.hub.publish("video", job.id, self.object_of(job), last=job.is_finished)

    def model(self, name: str) -> dict[str, Any] | None:
        """Return what is known of a model."""
        return next((model for model in self.models if model["name"] == name), None)

    # What is done to jobs.

    async def recover(self) -> None:
        """Take up what an earlier server left: clips that are whole are completed, others are begun again."""
        for job in self.store.unfinished():
            files = self.videos.of(job.id)
            facts = files.read_record()
            if facts is not None:
                await asyncio.to_thread(self.store.complete, job.id, {**job.facts, **facts}, files.bytes())
            elif job.status == IN_PROGRESS:
                await asyncio.to_thread(self.store.interrupted, job.id, "the server was ended in its middle")
        await asyncio.to_thread(self.videos.clean, self.store.ids())

    async def wake(self) -> None:
        """Have workers look whether there is something to do."""
        async with self._changed:
            self._changes += 1
            self._changed.notify_all()

    async def cancel(self, id: str) -> Job | None:
        """End a job; return it, None where it is not there or has ended. Its worker stops within a step."""
        job = await asyncio.to_thread(self.store.fail, id, CANCELLED, "it was cancelled")
        if job is not None:
            self._stop(id)
            self._finish(job)
        return job

    async def delete(self, id: str) -> bool:
        """Forget a job, ending it where it runs, and remove its files. Return whether it was there."""
        deleted = await asyncio.to_thread(self.store.delete, id)
        if deleted:
            self._stop(id)
            self.progress.pop(id, None)
            self.hub.publish("deleted", id, {"id": id}, last=True)
            if not any(slot.job == id for slot in self.slots):
                await asyncio.to_thread(self.videos.remove, id)
        return deleted

    def _stop(self, id: str) -> None:
        for slot in self.slots:
            if slot.job == id and slot.process is not None:
                slot.process.tell("cancel", job=id)

    def _finish(self, job: Job) -> None:
        self.progress.pop(job.id, None)
        self.publish(job)
        self.on_end(job)
        reason = "" if job.error_code is None else f", {job.error_code}"
        _LOG.info("%s: %s%s", job.id, job.status, reason)

    def _publish_queue(self) -> None:
        """Tell those who wait in front that they moved up."""
        waiting = [job for job in self.store.unfinished() if job.status == QUEUED]
        for position, job in enumerate(waiting[:_TOLD_IN_QUEUE]):
            data = video_object(job, None, position, self.configuration.limits.keep_seconds)
            self.hub.publish("video", job.id, data)

    # Workers.

    def start(self, first: WorkerProcess | None = None) -> None:
        """Begin. first: a worker that was started already; others start as there is work for them."""
        self.slots = [Slot(number) for number in range(self.plan.workers)]
        for slot in self.slots:
            self._spawn(self._keep(slot, first if slot.number == 0 else None))

    async def stop(self, seconds: float) -> None:
        """End: running jobs may finish in that time; then they are put back, to be taken up by the next server."""
        self._stopping = True
        await self.wake()
        # Those that begin before they notice are put back, too.
        until = time.monotonic() + seconds
        while any(slot.job for slot in self.slots) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for slot in self.slots:
            if slot.process is not None:
                job = slot.job
                slot.process.close()
                if not await asyncio.to_thread(slot.process.wait, 2.0):
                    slot.process.kill("the server stops")
                    await asyncio.to_thread(slot.process.wait, 5.0)
                if job is not None:
                    await asyncio.to_thread(self.store.requeue, job, uncounted=True)
        for task in self._tasks:
            task.cancel()

    async def check(
        self, model: str, settings: dict[str, Any], picture: str | None, seconds: float
    ) -> dict[str, Any] | None:
        """Return what settings come to, None where no worker could say in time. Raises CommandRefused."""
        for slot in self.slots:
            if slot.answers and slot.process is not None and slot.process.is_running:
                asked = slot.process.request("check", model=model, settings=settings, picture=picture)
                with contextlib.suppress(WorkerDied, asyncio.TimeoutError):
                    return dict((await asyncio.wait_for(asked, seconds))["facts"])
        return None

    def take_slot(self, film: str) -> Slot | None:
        """Return an idle worker for a film, None where there is none; `give_back` it."""
        for slot in self.slots:
            if slot.is_idle:
                slot.film = film
                return slot
        self._wanted_at = time.monotonic()  # a worker that has not been started is, for who asks again
        return None

    async def give_back(self, slot: Slot) -> None:
        """Say that a film is over."""
        slot.rest()
        await self.wake()

    async def unload(self) -> int:
        """Have idle workers let go of their bundles; return how many did."""
        idle = [slot for slot in self.slots if slot.is_idle and slot.process is not None]
        for slot in idle:
            assert slot.process is not None
            with contextlib.suppress(WorkerDied):
                await slot.process.request("unload")
        return len(idle)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, slot: Slot, process: WorkerProcess | None) -> None:
        """Keep a worker in a slot for as long as the server runs."""
        while not self._stopping:
            if slot.number > 0 and process is None:
                await self._wait_for(lambda: self._stopping or self._is_pressed())
                if self._stopping:
                    return
            try:
                process = process or start_worker(self.plan, slot.number, self._keep_open)
                ended = asyncio.Event()
                process.attach(lambda event: self._hear(slot, event), ended.set)
                slot.process, slot.stage_since = process, time.monotonic()
                slot.move("start", 0)
                await self._open(slot, process)
                await self._serve(slot, process)
            except (WorkerDied, CommandRefused) as error:
                if not self._stopping:
                    _LOG.warning("worker %d: %s", slot.number, error)
                    self.failure = str(error)
                    self.on_death()
                    slot.deaths += 1
            except Exception:
                _LOG.exception("worker %d: the server made a mistake", slot.number)
                slot.deaths += 1
            if process is not None:
                process.kill("it is of no use any more")
            slot.process, slot.answers, slot.ready, slot.bytes, slot.model = None, False, False, None, None
            slot.rest()
            process = None
            if slot.deaths > 1 and not self._stopping:
                await asyncio.sleep(min(_LONGEST_PAUSE, 2.0 ** (slot.deaths - 2)))

    async def _open(self, slot: Slot, process: WorkerProcess) -> None:
        await process.request("open", **open_command(self.configuration, self.plan))
        slot.ready, self.failure = True, None
        slot.rest()

    async def _serve(self, slot: Slot, process: WorkerProcess) -> None:
        """Give a worker one job after the other until it ends. Raises WorkerDied."""
        while process.is_running and not self._stopping:
            job = await self._next(slot, process)
            if job is not None:
                await self._make(slot, process, job)
        if not self._stopping:
            raise WorkerDied(process.how_it_ended())

    async def _next(self, slot: Slot, process: WorkerProcess) -> Job | None:
        """Return the next job for a worker, None where it should be looked whether to go on."""
        seen = self._changes
        if slot.film is None and self.store.counts()[QUEUED]:
            slot.claiming = True
            try:
                job = await asyncio.to_thread(self.store.claim)
                slot.job = None if job is None else job.id
            except OutputError as error:
                _LOG.error("%s", error)
                await asyncio.sleep(1.0)
                return None
            finally:
                slot.claiming = False
            if job is not None:
                return job
        await self._wait_change(seen)
        return None

    async def _make(self, slot: Slot, process: WorkerProcess, job: Job) -> None:
        """Have a worker make a job, and note what became of it. Raises WorkerDied once that is noted."""
        slot.job = job.id
        slot.move("begin", 0)
        slot.stage_since = time.monotonic()
        self.progress[job.id] = JobProgress("open", 0, 1)
        self.on_begin(job.id)
        self.publish(job)
        self._publish_queue()
        files, configuration = self.videos.of(job.id), self.configuration
        try:
            if not job.facts:  # it was taken in before there was a worker to check it
                picture = str(files.picture) if job.request.get("picture") else None
                found = await process.request("check", model=job.model, settings=job.request, picture=picture)
                noted = await asyncio.to_thread(self.store.note, job.id, found["facts"])
                job = job if noted is None else noted
                self.publish(job)
            answer = await process.request(
                "make",
                job=job.id,
                model=job.model,
                settings=job.request,
                folder=str(files.folder),
                mark=configuration.mark,
                private=configuration.private,
                keep_latents=configuration.keep_latents,
            )
            facts = {**job.facts, **answer["facts"]}
            for stage, seconds in facts.pop("seconds", {}).items():
                self.on_stage(stage, seconds)
            ended = await asyncio.to_thread(self.store.complete, job.id, facts, int(answer["bytes"]))
            slot.deaths = 0
        except CommandRefused as error:
            code = "disk_full" if "No space left" in str(error) else ERROR_CODES.get(error.kind, "failed")
            ended = await asyncio.to_thread(self.store.fail, job.id, code, str(error))
            slot.deaths = 0
        except WorkerDied as error:
            ended = None
            if not self._stopping:
                ended = await asyncio.to_thread(self.store.interrupted, job.id, str(error))
            await self._ended(job.id, ended)
            raise
        finally:
            slot.rest()
        await self._ended(job.id, ended)

    async def _ended(self, id: str, job: Job | None) -> None:
        """Tell what became of a job that ran. job: None where it had been cancelled or deleted meanwhile."""
        if job is None:
            if self.store.get(id) is None:
                await asyncio.to_thread(self.videos.remove, id)
        elif job.is_finished:
            self._finish(job)
        else:
            self.progress.pop(id, None)
            self.publish(job)
        await self.wake()

    def _is_pressed(self) -> bool:
        """Whether jobs or films wait although all workers have something to do."""
        wanted = time.monotonic() - self._wanted_at < _WANTED_SECONDS or self.store.counts()[QUEUED] > 0
        return wanted and not any(slot.is_idle for slot in self.slots)

    async def _wait_for(self, ready: Callable[[], bool]) -> None:
        while not ready():
            await self._wait_change(self._changes)

    async def _wait_change(self, seen: int) -> None:
        """Wait until something changes, a second at most. seen: how many changes were seen before it was looked."""
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._changes != seen), 1.0)

    def _hear(self, slot: Slot, event: dict[str, Any]) -> None:
        """Take what a worker tells by itself."""
        kind = event["event"]
        if kind == "beat":
            slot.bytes, slot.model = event.get("rss"), event.get("model")
        elif kind == "ready":
            self.models, slot.answers = list(event["models"]), True
            self.known.set()
        elif kind == "progress" and event["job"] == slot.job:
            slot.move(str(event["stage"]), int(event["step"]))
            self._show(event)
        elif kind == "preview" and event["job"] == slot.job:
            self._show_preview(event)
        elif kind in ("film", "picture") and event["film"] == slot.film:
            slot.move("live", int(event.get("number", 0)))
            if (listener := self.on_film.get(event["film"])) is not None:
                listener(event)

    def _show(self, event: dict[str, Any]) -> None:
        progress, job = self.progress.get(event["job"]), self.store.get(event["job"])
        if progress is not None and job is not None and job.status == IN_PROGRESS:
            progress.move(str(event["stage"]), int(event["step"]), int(event["total"]))
            self.publish(job)

    def _show_preview(self, event: dict[str, Any]) -> None:
        progress = self.progress.get(event["job"])
        if progress is not None:
            progress.preview = base64.b64decode(event["jpeg"])
            progress.previews += 1
            url = f"/v1/videos/{event['job']}/preview?n={progress.previews}"
            data = {"id": event["job"], "url": url, "step": event["step"], "total": progress.total}
            self.hub.publish("preview", event["job"], data)
