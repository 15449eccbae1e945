"""What becomes of jobs, seen from outside: by the server's events where it tells any, else by asking again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .client import ServerError, VideoClient

ENDED = ("completed", "failed")
_NO_EVENTS = "no_events"


@dataclass
class Seen:
    """One job. Times are time.perf_counter; None for what was not seen.

    states: as they were told, each once. video: what it was when it was last told of.
    """

    begun: float | None = None
    previewed: float | None = None
    ended: float | None = None
    states: list[str] = field(default_factory=list)
    video: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """What it was last said to be."""
        return self.states[-1] if self.states else ""


class JobWatch:
    """Follows the jobs of a server while the block runs.

    by_events: whether the server tells events. resumed: how often their stream broke and was taken up. disordered: events whose
    number was not above that of the one before.
    """

    def __init__(self, client: VideoClient, every: float = 0.1) -> None:
        """every: seconds between two questions, where there are no events."""
        self._client, self._every = client, every
        self._changed = threading.Condition()
        self._jobs: dict[str, Seen] = {}
        self._asked: dict[str, None] = {}
        self._stopped = threading.Event()
        self._ready = threading.Event()
        self.by_events = True
        self.resumed = 0
        self.disordered = 0
        self._thread = threading.Thread(target=self._run, name="job watch", daemon=True)

    def __enter__(self) -> JobWatch:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._client.hang_up()
        self._thread.join()

    def follow(self, id: str, video: dict[str, Any]) -> None:
        """Follow a job that the server has taken, as it was answered."""
        with self._changed:
            self._asked[id] = None
        self._note(id, video)

    def job(self, id: str) -> Seen:
        """Return what was seen of a job."""
        with self._changed:
            return self._jobs.setdefault(id, Seen())

    def unfinished(self) -> list[str]:
        """Return the followed jobs that have not ended."""
        with self._changed:
            return [id for id in self._asked if id not in self._jobs or self._jobs[id].ended is None]

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is seen, so long at most; return whether it was."""
        with self._changed:
            return self._changed.wait_for(until, seconds)

    def _run(self) -> None:
        last: str | None = None
        while not self._stopped.is_set() and self.by_events:
            try:
                for id, kind, data in self._client.events(last):
                    self._ready.set()
                    if self._stopped.is_set():
                        return
                    if kind == "opened":
                        continue
                    if last is not None and _number(id) < _number(last):
                        self.disordered += 1
                    last = id or last
                    self._take(kind, data)
                self._ready.set()
                self.resumed += 1
            except ServerError as error:
                if error.code == _NO_EVENTS and error.status not in (429, 503):
                    self.by_events = False
                elif not self._stopped.is_set():
                    self.resumed += 1
                    self._stopped.wait(0.2)
            self._ready.set()
        while not self._stopped.wait(self._every):
            self._ask()

    def _ask(self) -> None:
        for id in self.unfinished():
            try:
                video, _ = self._client.video(id)
            except ServerError as error:
                if error.status != 404:
                    continue
                video = {"status": "failed", "error": {"code": "gone"}}
            self._note(id, video)

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        id = str(data.get("id"))
        if kind == "preview":
            with self._changed:
                job = self._jobs.setdefault(id, Seen())
                job.previewed = job.previewed or time.perf_counter()
                self._changed.notify_all()
        elif kind == "deleted":
            self._note(id, {"status": "failed", "error": {"code": "deleted"}})
        else:
            self._note(id, data)

    def _note(self, id: str, video: dict[str, Any]) -> None:
        now, status = time.perf_counter(), str(video.get("status"))
        with self._changed:
            job = self._jobs.setdefault(id, Seen())
            if job.ended is not None:
                return
            if status not in job.states and not (status == "queued" and job.states):
                job.states.append(status)
            if status == "in_progress" and job.begun is None:
                job.begun = now
            if status in ENDED:
                job.ended = now
            job.video = video
            self._changed.notify_all()


def _number(id: str) -> int:
    """Return the rising part of an event's id."""
    digits = id.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else 0
