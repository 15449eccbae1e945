"""A training run's folder: resumable state, a log of figures, and a clock that ends a piece in time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch


class RunFolder:
    """Keeps one stage's state on disk so that it may be stopped at any moment and go on from there.

    stop_after: seconds of wall clock after which `out_of_time` turns true (None: never).
    """

    def __init__(self, folder: Path, stop_after: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._end = None if stop_after is None else time.monotonic() + stop_after

    def out_of_time(self) -> bool:
        """Tell whether this piece's time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def save(self, stage: str, state: dict[str, Any]) -> None:
        """Replace the stage's state; a crash while writing leaves the former one."""
        temporary = self.folder / f"{stage}.part"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / f"{stage}.state")

    def load(self, stage: str) -> dict[str, Any] | None:
        """Return the stage's last saved state, or None at its first start."""
        path = self.folder / f"{stage}.state"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def log(self, stage: str, **figures: float) -> None:
        """Append figures to the stage's curve and print them."""
        with (self.folder / f"{stage}.jsonl").open("a") as lines:
            lines.write(json.dumps(figures) + "\n")
        print(stage, "  ".join(f"{name} {value:.5g}" for name, value in figures.items()), flush=True)
