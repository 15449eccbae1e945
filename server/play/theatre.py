"""What the answers to a story's page are made with: the process that plays it, who visits, films that were made."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from ...jobs.worker_process import WorkerProcess

_MOST_SHOWS = 20


@dataclass
class Theatre:
    """One of each. films: a folder. idle_seconds: after which who chooses nothing has gone, None for never.

    note: told of a line for who runs it. opening: told how far opening the model is. facts: of the story, as it was read last.
    on_visit: by visit, told of its events.
    """

    process: WorkerProcess
    films: Path
    idle_seconds: float | None
    note: Callable[[str], object]
    opening: Callable[[str, int, int], object]
    facts: dict[str, Any] = field(default_factory=dict)
    on_visit: dict[str, Callable[[dict[str, Any]], object]] = field(default_factory=dict)
    is_closing: asyncio.Event = field(default_factory=asyncio.Event)
    _sounds: OrderedDict[int, list[str]] = field(default_factory=OrderedDict)

    def hear(self, event: dict[str, Any]) -> None:
        """Hand on what the process tells."""
        if event["event"] == "show":
            self.show(event)
        elif event["event"] == "note":
            self.note(str(event["text"]))
        elif event["event"] == "opening":
            self.opening(str(event["stage"]), int(event["done"]), int(event["total"]))
        elif (listener := self.on_visit.get(str(event.get("visit")))) is not None:
            listener(event)

    def show(self, told: dict[str, Any]) -> None:
        """Take the facts of a story that was read, and the files that are heard in it."""
        self.facts = told["facts"]
        self._sounds[int(told["facts"]["show"])] = told["sounds"]
        while len(self._sounds) > _MOST_SHOWS:
            self._sounds.popitem(last=False)

    def sound(self, show: int, number: int) -> str | None:
        """Return the path of a sound, None where there is none."""
        sounds = self._sounds.get(show, [])
        return sounds[number] if 0 <= number < len(sounds) else None

    def new_film(self) -> Path:
        """Return the path of a film that is to be made; its name cannot be guessed."""
        return self.films / f"{secrets.token_hex(16)}.mp4"

    def remove_film(self, film: Path) -> None:
        """Remove a film, and what lies beside it."""
        for path in self.films.glob(f"{film.stem}.*"):
            with contextlib.suppress(OSError):
                path.unlink()


def theatre_of(connection: HTTPConnection) -> Theatre:
    """Return the theatre of the application that a request came to."""
    found: Theatre = connection.app.state.theatre
    return found
