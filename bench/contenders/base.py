"""Who takes part in a measurement: edgereel on one of its engines, or a peer that makes the same clip.

A peer is a file of its own beside this one with a class of this seam; where it speaks the language of `serving.py`,
`ProcessContender` is all but the command that starts it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ...bundle.reader import Bundle
from ...core.errors import EngineError
from ...core.interrupts import temporary_folder
from ...core.processes import python_command
from ...runtime.request import Request
from ..records.record import EngineFacts
from ..resources.installed import installed_bytes
from .process import WorkerProcess
from .stages import ClipTimes, times_from_json

Clip = NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """What a contender is to make, again and again. request: all settings but prompt and seed, completed and checked.

    engine: the name of edgereel's. threads: CPU threads, None for all cores. memory: as of `load`, None for what is free.
    """

    bundle: Bundle
    engine: str
    request: Request
    threads: int | None = None
    memory: int | str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the settings as Reel.generate takes them, beside prompt and seed."""
        request = self.request
        return {
            "steps": request.steps,
            "size": (request.width, request.height),
            "frames": request.frames,
            "fps": request.fps,
            "recipe": request.recipe,
        }


@dataclass(frozen=True)
class Watched:
    """Clips made while memory was sampled. Peaks in bytes by stage; timeline: (seconds, bytes of the process).

    stages: (seconds, the stage that begins then).
    """

    clips: int
    seconds: float
    host: dict[str, int] = field(default_factory=dict)
    device: dict[str, int] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    stages: list[tuple[float, str]] = field(default_factory=list)
    bytes_read: int | None = None


class Contender(ABC):
    """Makes one kind of clip in a process of its own. Every method may raise EngineError where that process fails.

    name: unique among those that take part. kind: `edgereel`, or the peer's name. must_match: its clips are to be those of
    edgereel's row at the same settings, and without that its times are not believed.
    """

    name: str
    kind: str
    must_match: bool = False

    @abstractmethod
    def start(self) -> dict[str, float]:
        """Start the process and open what it needs; return seconds by stage, those that it can tell apart from starting."""

    @abstractmethod
    def make(self, prompt: str, seed: int) -> ClipTimes:
        """Make one clip's file and return its times."""

    @abstractmethod
    def frames(self, prompt: str, seed: int) -> Clip:
        """Return a clip's pictures, uint8 [frames, H, W, 3], for comparing contenders' outputs."""

    @abstractmethod
    def facts(self) -> EngineFacts:
        """Return what really runs, known from the first clip on."""

    @abstractmethod
    def watch(self, prompts: Sequence[str], clips: int, seconds: float) -> Watched | None:
        """Make at least so many clips, for at least so long, with memory sampled; prompt n has seed n. None: it cannot."""

    def installed_bytes(self) -> int | None:
        """Return the size of all files of the packages that it needs; None where that cannot be told."""
        return None

    @abstractmethod
    def close(self) -> None:
        """End the process, also in the middle of a clip; nothing where there is none."""


class ProcessContender(Contender):
    """A contender whose process speaks the language of bench/contenders/serving.py. Derived classes say what to start and open."""

    packages: tuple[str, ...] = ()
    """The packages that it needs, without those that they need."""

    def __init__(self, name: str, job: Job) -> None:
        self.name = name
        self.job = job
        self._process: WorkerProcess | None = None
        self._facts: EngineFacts | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that starts the process."""

    @property
    def pid(self) -> int | None:
        """The number of the process; None where there is none."""
        return None if self._process is None else self._process.pid

    @abstractmethod
    def opening(self) -> dict[str, Any]:
        """Return the request `open`, without its name."""

    def environment(self) -> dict[str, str]:
        """Return what is added to the process's environment."""
        return {}

    def start(self) -> dict[str, float]:
        """See Contender.start."""
        self.close()
        self._process = WorkerProcess(self.command(), self.environment())
        stages = self._process.request(do="open", **self.opening()).get("stages")
        return dict(stages) if isinstance(stages, Mapping) else {}

    def make(self, prompt: str, seed: int) -> ClipTimes:
        """See Contender.make."""
        answer = self._ask(do="make", prompt=prompt, seed=seed)
        try:
            self._facts = EngineFacts.model_validate(answer["engine"])
        except (KeyError, ValidationError) as error:
            raise EngineError(f"{self.name} does not tell what runs it") from error
        return times_from_json(answer.get("clip", {}))

    def frames(self, prompt: str, seed: int) -> Clip:
        """See Contender.frames."""
        with temporary_folder("edgereel-bench-") as folder:
            path = folder / "frames.npy"
            self._ask(do="frames", prompt=prompt, seed=seed, output=str(path))
            try:
                clip: Clip = np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise EngineError(f"{self.name} gave no pictures to compare") from error
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
            raise EngineError(f"{self.name} gave {clip.dtype} {list(clip.shape)} in the place of pictures")
        return clip

    def facts(self) -> EngineFacts:
        """See Contender.facts."""
        return self._facts or unknown_facts(self.job)

    def watch(self, prompts: Sequence[str], clips: int, seconds: float) -> Watched | None:
        """See Contender.watch."""
        answer = self._ask(do="watch", prompts=list(prompts), clips=clips, seconds=seconds)
        try:
            memory = answer["memory"]
            timeline = [(float(moment), int(count)) for moment, count in memory["timeline"]]
            stages = [(float(moment), str(stage)) for moment, stage in memory.get("stages", [])]
            bytes_read = None if memory["bytes_read"] is None else int(memory["bytes_read"])
            host, device = dict(memory["host"]), dict(memory["device"])
            return Watched(int(answer["clips"]), float(answer["seconds"]), host, device, timeline, stages, bytes_read)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.name} does not tell of its memory") from error

    def installed_bytes(self) -> int | None:
        """See Contender.installed_bytes."""
        return installed_bytes(self.packages) if self.packages else None

    def close(self) -> None:
        """See Contender.close."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _ask(self, **request: Any) -> dict[str, Any]:
        if self._process is None:
            raise EngineError(f"{self.name} has not been started")
        return self._process.request(**request)


class EdgereelContender(ProcessContender):
    """edgereel itself: a bundle on one of its engines."""

    kind = "edgereel"
    packages: tuple[str, ...] = (
        *("numpy", "tokenizers", "av", "pydantic", "platformdirs", "typer", "rich", "ftfy", "safetensors"),
        *("onnxruntime", "onnx"),
    )

    def command(self) -> list[str]:
        """See ProcessContender.command."""
        return python_command("edgereel.bench.contenders.worker")

    def opening(self) -> dict[str, Any]:
        """See ProcessContender.opening."""
        job = self.job
        bundle = str(job.bundle.folder)
        opening = {"bundle": bundle, "engine": job.engine, "threads": job.threads, "memory": job.memory}
        return {**opening, "settings": job.settings()}


PeerFactory = Callable[[str, Job], Contender]
"""Makes a peer's contender of a row's name and what it is to make: for `run_bench(peers=...)`."""


class CheckpointPeer(ABC):
    """A PeerFactory whose contenders run a checkpoint in the place of a bundle's graphs.

    It has a row beside the first bundle only: beside another precision of the same model it would be the same row again.
    """

    @abstractmethod
    def __call__(self, name: str, job: Job) -> Contender:
        """Return the contender of that name."""


def unknown_facts(job: Job) -> EngineFacts:
    """Return the facts of a contender that never made a clip: which engine was asked for."""
    return EngineFacts(
        engine=job.engine, version="unknown", provider=[], precision=[], threads=job.threads or 0, lowered=""
    )
