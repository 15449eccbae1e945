"""The language of a contender's process, and the loop that answers in it.

Commands come as lines of JSON on stdin, each is answered by one line on stdout: `{"ok": true, ...}`, or `{"ok": false,
"error": MESSAGE}`. The first is `open`; then `make` (a clip's times), `watch` (clips with the process's memory sampled),
`frames` (a clip's pictures into a .npy file); the end of stdin is the end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EdgereelError, UsageError, brief

MOST_CLIPS = 10_000
OnStage = Callable[[str], object]
"""Told the name of each stage as it begins; decode and encode may take turns, frame by frame."""


class Worker(Protocol):
    """What a worker's process is kept for."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises EdgereelError, and KeyError or TypeError for one that is none."""

    def close(self) -> None:
        """Let go of everything; there are no more requests."""


class ClipMaker(ABC):
    """What a process keeps open to make clips with. uses_gpu: whether a GPU's memory is to be watched."""

    uses_gpu = False

    @abstractmethod
    def open(self, request: dict[str, Any]) -> dict[str, float]:
        """Open what the request says; return the seconds of each stage of that."""

    @abstractmethod
    def make(self, prompt: str, seed: int, output: Path, on_stage: OnStage) -> dict[str, Any]:
        """Write a clip's MP4 file; return its times as ClipTimes.to_json gives them."""

    @abstractmethod
    def frames(self, prompt: str, seed: int) -> NDArray[np.uint8]:
        """Return a clip's pictures [frames, H, W, 3]."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what really runs, in the words of record.EngineFacts; asked after the first clip."""

    def close(self) -> None:  # noqa: B027  most have nothing to release that the process's end does not
        """Release what is open."""


class ClipWorker:
    """Answers requests with what a maker makes. folder: where the clips' files go."""

    def __init__(self, maker: ClipMaker, folder: Path) -> None:
        self._maker = maker
        self._output = folder / "clip.mp4"
        self._opened = False

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises EdgereelError, and KeyError or TypeError for one that is none."""
        actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "make": self._make,
            "watch": self._watch,
            "frames": self._frames,
        }
        action = request["do"]
        if action not in actions:
            raise UsageError(f"a worker does {', '.join(actions)}, not {action!r}")
        if action != "open" and not self._opened:
            raise UsageError("this worker has nothing open: the first command is open")
        return actions[action](request)

    def close(self) -> None:
        """See Worker."""
        self._maker.close()

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        self._opened = False
        stages = self._maker.open(request)
        self._opened = True
        return {"stages": stages}

    def _make(self, request: dict[str, Any]) -> dict[str, Any]:
        clip = self._maker.make(request["prompt"], request["seed"], self._output, lambda stage: None)
        return {"clip": clip, "engine": self._maker.facts()}

    def _frames(self, request: dict[str, Any]) -> dict[str, Any]:
        np.save(request["output"], self._maker.frames(request["prompt"], request["seed"]))
        return {}

    def _watch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make clips for at least so many and so long while memory is sampled."""
        from ..resources.memory import MemorySampler

        prompts = request["prompts"]
        done, started = 0, time.perf_counter()
        with MemorySampler(device=self._maker.uses_gpu) as sampler:
            while done < MOST_CLIPS and (done < request["clips"] or time.perf_counter() - started < request["seconds"]):
                place = done % len(prompts)
                self._maker.make(prompts[place], place, self._output, sampler.enter)
                done += 1
            seconds = time.perf_counter() - started
        return {"clips": done, "seconds": seconds, "memory": sampler.to_json()}


def serve(commands: IO[str], answers: IO[str], worker: Worker) -> None:
    """Answer every command until they end."""
    try:
        for line in commands:
            try:
                answer = {"ok": True, **worker.answer(json.loads(line))}
            except EdgereelError as error:
                answer = {"ok": False, "error": str(error)}
            except MemoryError as error:
                answer = {"ok": False, "error": f"not enough memory ({brief(error)})"}
            except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
                answer = {"ok": False, "error": f"{type(error).__name__}: {brief(error)}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        worker.close()


def serve_pipes(make: Callable[[Path], Worker]) -> None:
    """Serve on the process's own pipes; whatever libraries print goes to stderr. make: given a folder for files."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="edgereel-bench-") as folder, answers:
        serve(sys.stdin, answers, make(Path(folder)))
