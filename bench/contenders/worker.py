"""`python -m edgereel.bench.contenders.worker`: keeps a bundle open in a process of its own and makes clips on command.

bench/contenders/protocol.py has the language. Embeddings are not cached, so that `text` is the text encoder's time; every clip is
written as an MP4 file into a temporary folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...runtime.clip import Video
from ...runtime.reel import Reel, load
from .protocol import ClipMaker, ClipWorker, OnStage, serve_pipes
from .stages import ClipTimes, make_clip


class ReelMaker(ClipMaker):
    """One opened bundle and the settings its clips are made with."""

    def __init__(self) -> None:
        self._reel: Reel | None = None
        self._settings: dict[str, Any] = {}

    @property
    def reel(self) -> Reel:
        """The opened bundle. Raises UsageError before `open`."""
        if self._reel is None:
            raise UsageError("this worker has nothing open: the first command is open")
        return self._reel

    def open(self, request: dict[str, Any]) -> dict[str, float]:
        """See ClipMaker.open: request has `bundle`, `engine`, `threads`, `settings`."""
        started = time.perf_counter()
        self.close()
        self._reel = self._load(request)
        self.uses_gpu = self._reel.graphs.engine.device == "gpu"
        settings = dict(request["settings"])
        self._settings = {**settings, "size": tuple(settings["size"])}
        return {"open": time.perf_counter() - started}

    def _load(self, request: dict[str, Any]) -> Reel:
        memory = request.get("memory")
        return load(request["bundle"], request["engine"], request["threads"], cache=False, memory=memory)

    def clip(
        self, prompt: str, seed: int, output: Path, on_stage: OnStage = lambda stage: None
    ) -> tuple[Video, ClipTimes]:
        """Write a clip's MP4 file and return it with its times."""
        return make_clip(self.reel, prompt, output, on_stage, seed=seed, **self._settings)

    def make(self, prompt: str, seed: int, output: Path, on_stage: OnStage) -> dict[str, Any]:
        """See ClipMaker.make."""
        return self.clip(prompt, seed, output, on_stage)[1].to_json()

    def frames(self, prompt: str, seed: int) -> NDArray[np.uint8]:
        """See ClipMaker.frames."""
        return np.stack(list(self.reel.generate(prompt, seed=seed, **self._settings)))

    def facts(self) -> dict[str, Any]:
        """See ClipMaker.facts."""
        described, reports = self.reel.facts(), list(self.reel.report().values())
        described.pop("not_lowered", None)
        sources = {report.lowered for report in reports}
        builds = {report.build for report in reports if report.build}
        return {
            **described,
            "lowered": "built" if "built" in sources else ", ".join(sorted(sources)),
            "build": "built" if "built" in builds else ", ".join(sorted(builds)),
            "build_seconds": sum(report.build_seconds for report in reports),
        }

    def close(self) -> None:
        """Release the bundle."""
        if self._reel is not None:
            self._reel.close()


if __name__ == "__main__":
    serve_pipes(lambda folder: ClipWorker(ReelMaker(), folder))
