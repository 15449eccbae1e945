"""Who takes part in a measurement: edgereel on one of its engines, or a peer that makes the same clip.

A peer is a file of its own beside this one with a class derived from `Contender`. Its process speaks the language of
`protocol.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ...bundle.reader import Bundle
from ...core.errors import EngineError
from ...core.interrupts import temporary_folder
from ...core.processes import python_command
from ...quality.metrics import Clip
from ...runtime.request import Request
from ..records.record import EngineFacts
from ..resources.installed import installed_bytes
from .process import WorkerProcess
from .stages import ClipTimes, times_from_json


@dataclass(frozen=True)
class RowPlan:
    """A row to be measured: what a contender makes, again and again.

    name: unique among all rows. contender: `edgereel`, or a peer's name. engine: the name of edgereel's. request: all
    settings but prompt and seed, completed and checked. threads: CPU threads, None for all cores. memory: as of `load`, None
    for what is free.
    """

    name: str
    contender: str
    bundle: Bundle
    engine: str
    request: Request
    threads: int | None = None
    memory: int | str | None = None

    def opening(self) -> dict[str, Any]:
        """Return what a worker needs to open the bundle, and the settings as Reel.generate takes them."""
        request = self.request
        settings = {key: getattr(request, key) for key in ("steps", "frames", "fps", "recipe")}
        opening = {
            "bundle": str(self.bundle.folder),
            "engine": self.engine,
            "threads": self.threads,
            "memory": self.memory,
        }
        return {**opening, "settings": {**settings, "size": (request.width, request.height)}}


@dataclass(frozen=True)
class ResourceReadings:
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


_READINGS = TypeAdapter(ResourceReadings)


class Contender:
    """Makes one kind of clip in a process of its own: edgereel itself, a bundle on one of its engines.

    Peers derive from it and say what else to start and to open. Every method may raise EngineError where the process fails.
    kind: `edgereel`, or the peer's name. must_match: its clips are to be those of edgereel's row at the same settings, and
    without that its times are not believed. packages: those that it needs, without those that they need.
    """

    kind = "edgereel"
    must_match = False
    packages: tuple[str, ...] = (
        *("numpy", "tokenizers", "av", "pydantic", "platformdirs", "typer", "rich", "ftfy", "safetensors"),
        *("onnxruntime", "onnx"),
    )

    def __init__(self, plan: RowPlan) -> None:
        self.plan = plan
        self._process: WorkerProcess | None = None
        self._facts: EngineFacts | None = None

    def command(self) -> list[str]:
        """Return the command that starts the process."""
        return python_command("edgereel.bench.contenders.worker")

    def environment(self) -> dict[str, str]:
        """Return what is added to the process's environment."""
        return {}

    def opening(self) -> dict[str, Any]:
        """Return the request `open`, without its name."""
        return self.plan.opening()

    @property
    def pid(self) -> int | None:
        """The number of the process; None where there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> dict[str, float]:
        """Start the process and open what it needs; return seconds by stage, those that it can tell apart from starting."""
        self.close()
        self._process = WorkerProcess(self.command(), self.environment())
        stages = self._process.request(do="open", **self.opening()).get("stages")
        return dict(stages) if isinstance(stages, Mapping) else {}

    def make(self, prompt: str, seed: int) -> ClipTimes:
        """Make one clip's file and return its times."""
        answer = self._ask(do="make", prompt=prompt, seed=seed)
        try:
            self._facts = EngineFacts.model_validate(answer["engine"])
        except (KeyError, ValidationError) as error:
            raise EngineError(f"{self.plan.name} does not tell what runs it") from error
        return times_from_json(answer.get("clip", {}))

    def frames(self, prompt: str, seed: int) -> Clip:
        """Return a clip's pictures, uint8 [frames, H, W, 3], for comparing contenders' outputs."""
        with temporary_folder("edgereel-bench-") as folder:
            path = folder / "frames.npy"
            self._ask(do="frames", prompt=prompt, seed=seed, output=str(path))
            try:
                clip: Clip = np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise EngineError(f"{self.plan.name} gave no pictures to compare") from error
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
            raise EngineError(f"{self.plan.name} gave {clip.dtype} {list(clip.shape)} instead of pictures")
        return clip

    def facts(self) -> EngineFacts:
        """Return what really runs, known from the first clip on; before, which engine was asked for."""
        threads = self.plan.threads or 0
        asked = EngineFacts(engine=self.plan.engine, version="unknown", provider=[], precision=[], threads=threads)
        return self._facts or asked

    def watch(self, prompts: Sequence[str], clips: int, seconds: float) -> ResourceReadings:
        """Make at least so many clips, for at least so long, with memory sampled; prompt n has seed n."""
        answer = self._ask(do="watch", prompts=list(prompts), clips=clips, seconds=seconds)
        try:
            return _READINGS.validate_python(
                {**answer["memory"], "clips": answer["clips"], "seconds": answer["seconds"]}
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise EngineError(f"{self.plan.name} does not tell of its memory") from error

    def installed_bytes(self) -> int | None:
        """Return the size of all files of the packages that it needs; None where that cannot be told."""
        return installed_bytes(self.packages)

    def close(self) -> None:
        """End the process, also in the middle of a clip; nothing where there is none."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _ask(self, **request: Any) -> dict[str, Any]:
        if self._process is None:
            raise EngineError(f"{self.plan.name} has not been started")
        return self._process.request(**request)


@dataclass(frozen=True)
class Peer:
    """Who takes part beside edgereel. make: returns its contender for a row.

    runs_checkpoint: it runs a checkpoint instead of a bundle's graphs. It then has a row beside the first bundle only: beside
    another precision of the same model it would be the same row again.
    """

    make: Callable[[RowPlan], Contender]
    runs_checkpoint: bool = False
