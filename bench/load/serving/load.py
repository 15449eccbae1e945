"""Jobs offered to a server: by clients that each wait for theirs, or at a rate that waits for nobody."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ....core.errors import Cancelled, UsageError
from ....core.progress import Progress, report_progress
from .client import ServerError, VideoClient
from .watch import ENDED, JobWatch

MOST_CLIENTS = 128
_PROBE_EVERY = 0.1
_READ_EVERY = 1.0
_BEGINS_WITHIN = 0.3
"""Seconds after which a job that has not begun waits for a worker."""
_RUNNING = "edgereel_process_resident_memory_bytes"


@dataclass(frozen=True)
class Offer:
    """What is offered. clients: how many that each wait for their job; rate: instead, jobs a second, Poisson, of this seed.

    fields: of every request, beside prompt and seed, which counts up from 0. patience: seconds that a job may take.
    """

    prompts: Sequence[str]
    jobs: int
    clients: int | None = 1
    rate: float | None = None
    seed: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    patience: float = 600.0

    def check(self) -> Offer:
        """Return the offer itself. Raises UsageError."""
        if not 1 <= self.jobs <= 1_000_000:
            raise UsageError(f"--jobs {self.jobs}: choose from 1 to 1000000")
        if (self.clients is None) == (self.rate is None):
            raise UsageError("give --clients or --rate")
        if self.clients is not None and not 1 <= self.clients <= MOST_CLIENTS:
            raise UsageError(f"--clients {self.clients}: choose from 1 to {MOST_CLIENTS}")
        if self.rate is not None and not 0.001 <= self.rate <= 1000:
            raise UsageError(f"--rate {self.rate:g}: choose from 0.001 to 1000")
        return self

    def describe(self) -> str:
        """Return in words how jobs come."""
        if self.rate is None:
            return f"{self.clients} clients" if self.clients != 1 else "one client"
        return f"{self.rate:g} jobs a second, Poisson, seed {self.seed}"


@dataclass
class Seconds:
    """What was timed, by kind, and what failed. memory: bytes of the process that answers, once a second."""

    begun: float = 0.0
    ended: float = 0.0
    asked: int = 0
    completed: int = 0
    pictures: int = 0
    video_seconds: float = 0.0
    bytes: int = 0
    post: list[float] = field(default_factory=list)
    get: list[float] = field(default_factory=list)
    queue_wait: list[float] = field(default_factory=list)
    first_preview: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    told: int = 0
    partial: bool = False


class Load:
    """One offer under way."""

    def __init__(self, client: VideoClient, watch: JobWatch, offer: Offer, on_progress: Progress | None = None) -> None:
        self._client, self._watch, self._offer, self._on_progress = client, watch, offer, on_progress
        self._seconds = Seconds()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self) -> Seconds:
        """Offer everything, wait for what becomes of it, and return what was timed; interrupted, of what was done until then."""
        work = self._come if self._offer.rate is not None else self._wait_for_each
        helpers = [threading.Thread(target=each, daemon=True) for each in (self._probe, self._read_memory)]
        for helper in helpers:
            helper.start()
        self._seconds.begun = time.perf_counter()
        try:
            work()
        except (Cancelled, KeyboardInterrupt):
            self._seconds.partial = True
        finally:
            self._stopped.set()
        for helper in helpers:
            helper.join()
        return self._seconds

    def _wait_for_each(self) -> None:
        """Have clients ask for one job after the other."""
        numbers = iter(range(self._offer.jobs))

        def ask() -> None:
            while not self._stopped.is_set():
                with self._lock:
                    number = next(numbers, None)
                if number is None:
                    return
                self._one(number, time.perf_counter())

        assert self._offer.clients is not None
        self._in_threads([ask] * self._offer.clients)

    def _come(self) -> None:
        """Have jobs come at random times, whatever became of the earlier ones."""
        draw, at = random.Random(self._offer.seed), 0.0
        with ThreadPoolExecutor(MOST_CLIENTS) as pool:
            asked = []
            for number in range(self._offer.jobs):
                assert self._offer.rate is not None
                at += draw.expovariate(self._offer.rate)
                due = self._seconds.begun + at
                while (left := due - time.perf_counter()) > 0:
                    self._tell()
                    time.sleep(min(left, 0.5))
                asked.append(pool.submit(self._one, number, due))
            try:
                while not all(each.done() for each in asked):
                    self._tell()
                    time.sleep(0.1)
            except BaseException:
                self._stopped.set()
                raise
            for each in asked:
                each.result()

    def _in_threads(self, works: Sequence[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(len(works)) as pool:
            running = [pool.submit(work) for work in works]
            try:
                while not all(each.done() for each in running):
                    self._tell()
                    time.sleep(0.1)
            except BaseException:
                self._stopped.set()
                raise
            for each in running:
                each.result()

    def _tell(self) -> None:
        report_progress(self._on_progress, "jobs", len(self._seconds.total), self._offer.jobs)

    def _one(self, number: int, due: float) -> None:
        """Ask for one job, wait for its end, and fetch its file. due: when it was to be asked for."""
        offer, seconds = self._offer, self._seconds
        fields = {"prompt": offer.prompts[number % len(offer.prompts)], "seed": number, **offer.fields}
        with self._lock:
            seconds.asked += 1
        begun = time.perf_counter()
        try:
            video, took = self._client.create(fields)
            accepted = time.perf_counter()
            self._watch.follow(video["id"], video)
            job = self._watch.job(video["id"])
            until = time.perf_counter() + offer.patience
            while not self._watch.wait(lambda: job.ended is not None, 0.5):
                if self._stopped.is_set():
                    return
                if time.perf_counter() > until:
                    raise ServerError("it took too long", code="too_long")
            if job.status != "completed":
                code = (job.video.get("error") or {}).get("code")
                raise ServerError("it failed", code=str(code or "failed"))
            size = len(self._client.content(video["id"]))
        except ServerError as error:
            with self._lock:
                seconds.failures[error.code] += 1
            return
        with self._lock:
            seconds.completed += 1
            seconds.ended = max(seconds.ended, time.perf_counter())
            seconds.post.append(took)
            seconds.total.append(time.perf_counter() - due)
            seconds.bytes += size
            frames, fps = job.video.get("num_frames"), job.video.get("fps")
            if isinstance(frames, int) and isinstance(fps, int | float) and fps > 0:
                seconds.pictures += frames
                seconds.video_seconds += frames / fps
            if job.begun is not None:
                seconds.queue_wait.append(max(0.0, job.begun - accepted))
            if job.previewed is not None:
                seconds.first_preview.append(job.previewed - begun)
            seconds.told += job.states == ["queued", "in_progress", "completed"]

    def _probe(self) -> None:
        """Time what a page asks for while jobs are made."""
        turn = 0
        while not self._stopped.wait(_PROBE_EVERY):
            if ids := self._watch.unfinished():
                turn += 1
                with suppress(ServerError):
                    self._seconds.get.append(self._client.video(ids[turn % len(ids)])[1])

    def _read_memory(self) -> None:
        while True:
            held = server_bytes(self._client)
            if held is None:
                return
            self._seconds.memory.append(held)
            if self._stopped.wait(_READ_EVERY):
                return


def server_bytes(client: VideoClient) -> int | None:
    """Return the memory of the process that answers, None where the server does not tell."""
    with suppress(ServerError):
        for line in client.request("GET", "/metrics").check().body.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name == _RUNNING and value.isdigit():
                return int(value)
    return None


def try_cancelling(
    client: VideoClient, watch: JobWatch, offer: Offer, trials: int, on_progress: Progress | None = None
) -> tuple[list[float], list[float]]:
    """Return the seconds until cancels were answered, and until another job began in the cancelled one's place.

    A trial fills the workers until a job waits, cancels the one that began last, and looks when another begins. It is left out
    where a job ended by itself meanwhile. Raises ServerError.
    """
    answered, freed = [], []
    for trial in range(trials):
        report_progress(on_progress, "cancels", trial, trials)
        ids: list[str] = []
        try:
            ids = _fill(client, watch, offer)
            running = [id for id in ids if watch.job(id).status == "in_progress"]
            waiting = [id for id in ids if watch.job(id).status == "queued"]
            if not running or not waiting:
                continue
            last = max(running, key=lambda id: watch.job(id).begun or 0.0)
            others = [id for id in running if id != last]
            begun = time.perf_counter()
            answered.append(client.cancel(last))
            watch.wait(lambda w=waiting: any(watch.job(id).begun is not None for id in w), offer.patience)  # type: ignore[misc]
            starts = [at for id in waiting if (at := watch.job(id).begun) is not None]
            if starts and not any((watch.job(id).ended or begun + 1e9) < min(starts) for id in others):
                freed.append(max(0.0, min(starts) - begun))
        finally:
            for id in ids:
                if watch.job(id).status not in ENDED:
                    with suppress(ServerError):
                        client.cancel(id)
    return answered, freed


def _fill(client: VideoClient, watch: JobWatch, offer: Offer) -> list[str]:
    """Ask for jobs until one of them waits while others run; return all. Raises ServerError."""
    ids: list[str] = []
    for number in range(MOST_CLIENTS):
        prompt = offer.prompts[number % len(offer.prompts)]
        video, _ = client.create({"prompt": prompt, "seed": number, **offer.fields})
        ids.append(video["id"])
        watch.follow(video["id"], video)
        if watch.wait(lambda id=video["id"]: watch.job(id).begun is not None, _BEGINS_WITHIN):  # type: ignore[misc]
            continue
        if any(watch.job(id).status == "in_progress" for id in ids):
            return ids
    return ids
