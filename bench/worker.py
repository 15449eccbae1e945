"""`python -m edgereel.bench.worker`: keeps a bundle open in a process of its own and makes clips on command.

Commands come as lines of JSON on stdin, each is answered by one line on stdout: `{"ok": true, ...}`, or `{"ok": false,
"error": MESSAGE}`. The first is `open`; then `make` (a clip's times), `watch` (clips with the process's memory sampled),
`frames` (a clip's pictures into a .npy file); the end of stdin is the end. Embeddings are not cached, so that `text` is the
text encoder's time; every clip is written as an MP4 file into a temporary folder.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import EdgereelError, UsageError, brief
from ..runtime.reel import Reel, describe_engine, load
from .stages import OnStage, make_clip

MOST_CLIPS = 10_000


class Worker:
    """One opened bundle and the settings its clips are made with."""

    def __init__(self, folder: Path) -> None:
        """folder: where the clips' files go."""
        self._output = folder / "clip.mp4"
        self._reel: Reel | None = None
        self._settings: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises EdgereelError, and KeyError or TypeError for one that is none."""
        actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "make": self._make,
            "watch": self._watch,
            "frames": self._frames,
        }
        if request["do"] not in actions:
            raise UsageError(f"a worker does {', '.join(actions)}, not {request['do']!r}")
        return actions[request["do"]](request)

    def close(self) -> None:
        """Release the bundle."""
        if self._reel is not None:
            self._reel.close()

    @property
    def reel(self) -> Reel:
        """The opened bundle. Raises UsageError before `open`."""
        if self._reel is None:
            raise UsageError("this worker has nothing open: the first command is open")
        return self._reel

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        self.close()
        self._reel = load(request["bundle"], request["engine"], request["threads"], cache=False)
        settings = dict(request["settings"])
        self._settings = {**settings, "size": tuple(settings["size"])}
        return {"stages": {"open": time.perf_counter() - started}}

    def _make(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"clip": self._clip(request["prompt"], request["seed"]), "engine": engine_facts(self.reel)}

    def _clip(self, prompt: str, seed: int, on_stage: OnStage = lambda stage: None) -> dict[str, Any]:
        _, times = make_clip(self.reel, prompt, self._output, on_stage, seed=seed, **self._settings)
        return times.to_json()

    def _frames(self, request: dict[str, Any]) -> dict[str, Any]:
        video = self.reel.generate(request["prompt"], seed=request["seed"], **self._settings)
        np.save(request["output"], np.stack(list(video)))
        return {}

    def _watch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make clips for at least so many and so long while memory is sampled."""
        from .resources.memory import MemorySampler

        reel, prompts = self.reel, request["prompts"]
        done, started = 0, time.perf_counter()
        with MemorySampler(device=reel.graphs.engine.device == "gpu") as sampler:
            while done < MOST_CLIPS and (done < request["clips"] or time.perf_counter() - started < request["seconds"]):
                self._clip(prompts[done % len(prompts)], done % len(prompts), sampler.enter)
                done += 1
            seconds = time.perf_counter() - started
        return {"clips": done, "seconds": seconds, "memory": sampler.to_json()}


def engine_facts(reel: Reel) -> dict[str, Any]:
    """Return what really runs, in the words of record.EngineFacts."""
    described, reports = describe_engine(reel), list(reel.report().values())
    described.pop("not_lowered", None)
    sources = {report.lowered for report in reports}
    builds = {report.build for report in reports if report.build}
    return {
        **described,
        "lowered": "built" if "built" in sources else ", ".join(sorted(sources)),
        "build": "built" if "built" in builds else ", ".join(sorted(builds)),
        "build_seconds": sum(report.build_seconds for report in reports),
    }


def serve(commands: IO[str], answers: IO[str], folder: Path) -> None:
    """Answer every command until they end."""
    worker = Worker(folder)
    try:
        for line in commands:
            try:
                answer = {"ok": True, **worker.answer(json.loads(line))}
            except EdgereelError as error:
                answer = {"ok": False, "error": str(error)}
            except MemoryError as error:
                answer = {"ok": False, "error": f"not enough memory ({brief(error)})"}
            except (KeyError, TypeError, ValueError, OSError) as error:
                answer = {"ok": False, "error": f"{type(error).__name__}: {brief(error)}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        worker.close()


def main() -> None:
    """Serve on the process's own pipes; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="edgereel-bench-") as folder, answers:
        serve(sys.stdin, answers, Path(folder))


if __name__ == "__main__":
    main()
