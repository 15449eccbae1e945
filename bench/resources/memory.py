"""The memory of the process that makes clips, sampled from a thread of its own, by stage and over time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...core.errors import require_packages
from .nvml import Nvml
from .watcher import Watcher

INTERVAL = 0.004
"""Seconds between two samples: a decoded frame of the built-in model takes longer."""
POINTS = 500
"""How many points of the timeline are kept at most."""
_SAMPLES = 50_000
_MARKS = 2000
MemoryPoint = tuple[float, int]


class MemorySampler(Watcher):
    """Samples this process's memory while the block runs; `enter` says which stage a sample belongs to.

    Raises MissingExtraError where psutil is not installed.
    """

    def __init__(self, device: bool = False, interval: float = INTERVAL) -> None:
        """device: sample GPU memory too, where the driver tells it. interval: seconds."""
        require_packages(("psutil",), "bench", "measuring")
        import psutil

        super().__init__(interval)
        self._process = psutil.Process()
        self._nvml = Nvml.open() if device else None
        self._stage = ""
        self._host: dict[str, int] = {}
        self._device: dict[str, int] = {}
        self._timeline: list[MemoryPoint] = []
        self._marks: list[tuple[float, str]] = []
        # Held from the reading to its entry: a stage must not begin between them and be given what the last one held.
        self._reading = threading.Lock()
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._nvml is not None:
            self._nvml.close()

    def look(self) -> None:
        """Take one reading now, for the stage that is under way."""
        with self._reading:
            self._sample()

    def enter(self, stage: str) -> None:
        """Count what is sampled from now on as this stage's; the moment itself is sampled for both."""
        with self._reading:
            self._sample()
            if stage != self._stage and len(self._marks) < _MARKS:
                self._marks.append((time.perf_counter() - self._started, stage))
            self._stage = stage
            self._sample()

    def to_json(self) -> dict[str, Any]:
        """Return peaks by stage in bytes, the thinned timeline of (seconds, bytes), stages as they began, and bytes read so far."""
        return {
            "host": self._host,
            "device": self._device,
            "timeline": thinned(self._timeline),
            "stages": self._marks,
            "bytes_read": self._bytes_read(),
        }

    def _sample(self) -> None:
        resident, stage = int(self._process.memory_info().rss), self._stage
        self._host[stage] = max(self._host.get(stage, 0), resident)
        if len(self._timeline) < _SAMPLES:
            self._timeline.append((time.perf_counter() - self._started, resident))
        if self._nvml is not None and (used := self._nvml.process_memory(os.getpid())) is not None:
            self._device[stage] = max(self._device.get(stage, 0), used)

    def _bytes_read(self) -> int | None:
        """Return what the process made the disks read; None where the system does not tell. The file cache is not a disk."""
        if not hasattr(self._process, "io_counters"):
            return None
        try:
            return int(self._process.io_counters().read_bytes)
        except Exception:  # psutil's errors have no place in the signature of what is a nicety
            return None


def thinned(timeline: Sequence[MemoryPoint], most: int = POINTS) -> list[MemoryPoint]:
    """Return at most so many points of a timeline: of equal stretches, each one's highest; first and last stay."""
    ordered = sorted(timeline)
    if len(ordered) <= most:
        return ordered
    inner, stretches = ordered[1:-1], most - 2
    edges = [len(inner) * index // stretches for index in range(stretches + 1)]
    highest = [max(inner[low:high], key=lambda point: point[1]) for low, high in pairwise(edges)]
    return [ordered[0], *highest, ordered[-1]]
