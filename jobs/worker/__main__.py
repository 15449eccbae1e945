"""`python -m edgereel.jobs.worker`: makes videos on command; `protocol.py` has the language.

The first command is `open`. Reels run in the main thread. Commands are read in another, which answers `check` at once and hands
the rest on; a third says every second that the process is alive. The end of stdin ends the process at once: whatever is half
made is under a name that nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from pathlib import Path
from typing import Any

from ...core.errors import EdgereelError, UsageError, brief
from ..protocol import Answers, commands
from ..settings import JobSettings
from .clip import ClipJob, ClipMaker, files_of
from .live import LiveFilm
from .models import Models, facts_of

_BEAT_EVERY = 1.0


class Worker:
    """Answers commands."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._models: Models | None = None
        self._maker: ClipMaker | None = None
        self._film: LiveFilm | None = None
        self._lock = threading.Lock()
        self._current: str | None = None
        self._cancelled: set[str] = set()

    def read(self) -> None:
        """Take commands until they end; then end the process."""
        for command in commands():
            number, name = command.get("n"), command["do"]
            try:
                if name == "check":
                    self._answers.answer(number, **self._check(command))
                elif name == "cancel":
                    self._cancel(str(command["job"]))
                elif name in ("prompt", "credit", "stop"):
                    self._steer(name, command)
                else:
                    self._tasks.put(command)
            except Exception as error:
                self._refuse(number, error)
        os._exit(0)

    def beat(self) -> None:
        """Say every second that the process is alive, and what memory it holds."""
        pause = threading.Event()
        while not pause.wait(_BEAT_EVERY):
            self._answers.event("beat", rss=resident_bytes(), model=self._models.warm if self._models else None)

    def run(self) -> None:
        """Do one command after the other."""
        while True:
            command = self._tasks.get()
            number = command.get("n")
            try:
                self._answers.answer(number, **self._do(command))
            except Exception as error:
                self._refuse(number, error)

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        name = command["do"]
        if name == "open":
            self._open(command)
            return {}
        if self._models is None or self._maker is None:
            raise UsageError("this worker has nothing open: the first command is open")
        if name == "make":
            return self._make(command)
        if name == "live":
            return self._live(command)
        if name == "unload":
            self._models.unload()
            return {}
        raise UsageError(f"a worker does open, check, make, cancel, live, unload, not {name!r}")

    def _open(self, command: dict[str, Any]) -> None:
        self._models = Models(command["models"], command["engine"], command["threads"], command["memory"])
        self._maker = ClipMaker(self._models, self._answers.event)
        self._answers.event("ready", models=self._models.describe(), device=self._models.device)
        if command.get("warm"):
            with contextlib.suppress(EdgereelError):  # the first job tells
                warm_up(self._models, next(iter(self._models.bundles)))

    def _make(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._maker is not None
        id = str(command["job"])
        settings = JobSettings.from_json(command["settings"])
        files = files_of(command["folder"])
        job = ClipJob(
            id, command["model"], settings, files, command["mark"], command["private"], command["keep_latents"]
        )
        with self._lock:
            self._current = id
        try:
            return self._maker.make(job, lambda: id in self._cancelled)
        finally:
            with self._lock:
                self._current = None
                self._cancelled.discard(id)

    def _cancel(self, id: str) -> None:
        with self._lock:
            self._cancelled.add(id)  # its command may not have been begun
            if self._current == id and self._models is not None:
                self._models.stop()

    def _check(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._models is None:
            raise UsageError("this worker has nothing open: the first command is open")
        settings = JobSettings.from_json(command["settings"])
        picture = command.get("picture")
        request = self._models.complete(command["model"], settings, None if picture is None else Path(picture))
        return {"facts": facts_of(request)}

    def _live(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._models is not None
        film = LiveFilm(self._models, self._answers.event, command)
        self._film = film
        try:
            return film.run()
        finally:
            self._film = None

    def _steer(self, name: str, command: dict[str, Any]) -> None:
        film = self._film
        if film is None or film.id != command.get("film"):
            raise UsageError("there is no such film")
        self._answers.answer(command.get("n"), **film.steer(name, command))

    def _refuse(self, number: Any, error: Exception) -> None:
        kind = type(error).__name__
        if isinstance(error, EdgereelError):
            self._answers.refuse(number, str(error), kind)
        elif isinstance(error, MemoryError):
            self._answers.refuse(number, f"not enough memory ({brief(error)})", "OutOfMemory")
        else:
            self._answers.refuse(number, f"{kind}: {brief(error)}", kind)


def warm_up(models: Models, name: str) -> None:
    """Open a bundle's graphs for its own size, so that the first job need not wait for that. Raises EdgereelError."""
    reel = models.reel(name)
    defaults = reel.bundle.manifest.defaults
    plan = reel.plan(defaults.width, defaults.height, defaults.frames)
    with reel.graphs.lock:
        reel.graphs.hold_to(plan)
        for graph in reel.bundle.manifest.roles.graphs():
            component = plan.components.get(graph)
            if component is None or component.placement == "resident":
                reel.graphs.sessions(graph)


def resident_bytes() -> int | None:
    """Return the memory that this process holds now, None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def main() -> None:
    """Serve on the process's own pipes."""
    worker = Worker(Answers())
    for work in (worker.read, worker.beat):
        threading.Thread(target=work, daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()
