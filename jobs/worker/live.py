"""A film without end, sent picture by picture for as long as somebody asks for more."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...core.errors import UsageError
from ...runtime.video.jpeg import jpeg_bytes
from ..settings import JobSettings
from .models import Models, open_request

_LOOK = 0.25
_MOST_CREDIT = 1000


class LiveFilm:
    """One stream of a reel. Pictures are sent while there is credit; without any for `patience` seconds it ends."""

    def __init__(self, models: Models, tell: Callable[..., None], command: dict[str, Any]) -> None:
        self.id = str(command["film"])
        self._models, self._tell = models, tell
        self._model = str(command["model"])
        self._settings = JobSettings.from_json(command["settings"])
        self._credit = int(command["credit"])
        self._patience = float(command["patience"])
        self._until = time.monotonic() + float(command["seconds"])
        self._changed = threading.Condition()
        self._stopped = False
        self._prompt: str | None = None

    def steer(self, name: str, command: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked of the film from another thread. Raises PromptError for words that the model does not take."""
        if name == "prompt":
            prompt = str(command["prompt"])
            self._models.check_prompt(self._model, prompt)
            with self._changed:
                self._prompt = prompt
                self._changed.notify_all()
        elif name == "credit":
            with self._changed:
                self._credit = min(_MOST_CREDIT, self._credit + int(command["pictures"]))
                self._changed.notify_all()
        else:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
        return {}

    def run(self) -> dict[str, Any]:
        """Send pictures until the film is stopped; return how many those were, and why it ended. Raises EdgereelError."""
        manifest = self._models.bundle(self._model).manifest
        if manifest.stream is None:
            raise UsageError(f"the model {self._model} makes clips, not streams")
        asked = replace(open_request(manifest, self._settings, None), frames=None)
        reel = self._models.reel(self._model)
        given = {name: getattr(asked, name) for name in ("seed", "size", "recipe", "decoder", "guidance", "steps")}
        sent, shown = 0, ""
        with reel.stream(asked.prompt, **given) as stream:
            request = stream.request
            fps = float(request.fps)
            width, height = request.shown_size
            self._tell("film", film=self.id, width=width, height=height, fps=fps)
            while (reason := self._wait()) is None:
                with self._changed:
                    prompt, self._prompt = self._prompt, None
                    self._credit -= 1
                if prompt is not None:
                    stream.prompt = prompt
                picture = next(stream)
                jpeg = base64.b64encode(jpeg_bytes(picture)).decode("ascii")
                changed = stream.shown_prompt if stream.shown_prompt != shown else None
                shown = stream.shown_prompt
                self._tell("picture", film=self.id, number=sent, jpeg=jpeg, prompt=changed)
                sent += 1
        return {"pictures": sent, "reason": reason}

    def _wait(self) -> str | None:
        """Wait for credit; return why the film ends, None where it goes on."""
        patient_until = time.monotonic() + self._patience
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if now >= self._until:
                    return "time"
                if self._credit > 0:
                    return None
                if now >= patient_until:
                    return "no credit"
                self._changed.wait(_LOOK)
        return "stopped"
