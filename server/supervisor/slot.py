"""A place for one worker: what runs in it, what it is at, and since when."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ...jobs.worker_process import WorkerProcess


@dataclass
class Slot:
    """process: None where none runs. answers: whether it knows its bundles. ready: whether it would begin a job. job, film: what it
    makes. stage_since: when its stage last moved, time.monotonic. bytes: of memory, as it last said. model: the bundle in its
    memory. used: when it last had work. deaths: in a row, without a job done between.
    """

    number: int
    process: WorkerProcess | None = None
    answers: bool = False
    ready: bool = False
    job: str | None = None
    film: str | None = None
    claiming: bool = False
    stage: str = ""
    stage_at: tuple[str, int] = ("", 0)
    stage_since: float = field(default_factory=time.monotonic)
    bytes: int | None = None
    model: str | None = None
    used: float = field(default_factory=time.monotonic)
    deaths: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether it could begin something now."""
        return self.ready and self.job is None and self.film is None and not self.claiming

    def move(self, stage: str, step: int) -> None:
        """Note how far it is; only what changes counts, since a driver that is stuck may still be told of."""
        if (stage, step) != self.stage_at:
            self.stage, self.stage_at, self.stage_since = stage, (stage, step), time.monotonic()

    def rest(self) -> None:
        """Note that it has nothing to do."""
        self.job = self.film = None
        self.stage, self.stage_at = "", ("", 0)
        self.used = self.stage_since = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """Return what may be told of it."""
        return {"ready": self.ready, "job": self.job, "film": self.film, "stage": self.stage, "bytes": self.bytes}
