"""A training run's folder: resumable state, a log of figures, and a clock that ends a piece in time."""

from __future__ import annotations

import io
import json
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

PIECE = 15 * 2**20


class RunFolder:
    """Keeps one stage's state on disk so that it may be stopped at any moment and go on from there.

    stop_after: seconds of wall clock after which `out_of_time` turns true (None: never).
    """

    def __init__(self, folder: Path, stop_after: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._end = None if stop_after is None else time.monotonic() + stop_after
        self._asked_to_stop = False

    def stop_on_signals(self) -> None:
        """Let ctrl-C and SIGTERM end the piece after the step at hand, its state saved; a second ctrl-C ends it at once."""

        def stop(number: int, _: FrameType | None) -> None:
            self._asked_to_stop = True
            signal.signal(number, signal.default_int_handler)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)

    def out_of_time(self) -> bool:
        """Tell whether this piece's time is over, or somebody asked it to stop."""
        return self._asked_to_stop or (self._end is not None and time.monotonic() >= self._end)

    def save(self, stage: str, state: dict[str, Any]) -> None:
        """Replace the stage's state, in pieces of at most PIECE bytes; a crash while writing leaves the former one."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        fresh = self.folder / f"{stage}.fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for index, start in enumerate(range(0, len(content), PIECE)):
            (fresh / f"{index:03}").write_bytes(content[start : start + PIECE])
        self._put_in_place(stage)

    def _put_in_place(self, stage: str) -> None:
        """Let a complete fresh state take the former one's name; at any moment one of the two is whole."""
        current, fresh, former = (self.folder / f"{stage}.{kind}" for kind in ("state", "fresh", "former"))
        if current.exists():
            shutil.rmtree(former, ignore_errors=True)
            current.rename(former)
        fresh.rename(current)
        shutil.rmtree(former, ignore_errors=True)

    def load(self, stage: str) -> dict[str, Any] | None:
        """Return the stage's last saved state, or None at its first start."""
        for kind in ("state", "former"):
            folder = self.folder / f"{stage}.{kind}"
            if folder.is_dir():
                content = b"".join(piece.read_bytes() for piece in sorted(folder.iterdir()))
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return state
        return None

    def log(self, stage: str, **figures: float) -> None:
        """Append figures to the stage's curve and print them."""
        with (self.folder / f"{stage}.jsonl").open("a") as lines:
            lines.write(json.dumps(figures) + "\n")
        print(stage, "  ".join(f"{name} {value:.5g}" for name, value in figures.items()), flush=True)
