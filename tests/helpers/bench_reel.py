"""A reel whose graphs are Python functions that take as long as they are told, and note how long they really took."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edgereel.bundle.reader import open_bundle
from edgereel.engines import EngineOptions
from edgereel.engines.fake import FakeEngine
from edgereel.runtime.reel import Reel
from helpers.small_bundle import write_small_bundle

CHANNELS, SCALE, WIDTH, HEIGHT = 2, 8, 32, 16


class SlowGraphs:
    """Sleeps by graph; slept: how long each sleep of a graph really took, in order."""

    def __init__(self, delays: dict[str, float]) -> None:
        self.delays = delays
        self.slept: dict[str, list[float]] = defaultdict(list)
        self.generator = np.random.default_rng(0)

    def sleep(self, name: str) -> None:
        started = time.perf_counter()
        time.sleep(self.delays.get(name, 0.0))
        self.slept[name].append(time.perf_counter() - started)

    def text_encoder(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.sleep("text_encoder")
        return {"prompt_embeds": np.zeros((1, inputs["input_ids"].shape[1], 3), np.float32)}

    def denoiser(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.sleep("denoiser")
        return {"prediction": np.zeros_like(inputs["latents"])}

    def decoder_first(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.sleep("decoder_first")
        return {"frames": self._frames(1), "state_00": np.zeros(1, np.float32)}

    def decoder_next(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.sleep("decoder_next")
        return {"frames": self._frames(4), "state_00_next": np.zeros(1, np.float32)}

    def _frames(self, count: int) -> Any:
        return self.generator.uniform(-1, 1, (1, 3, count, HEIGHT, WIDTH)).astype(np.float32)

    def open(self, folder: Path) -> Reel:
        """Return the small bundle of tests opened on these graphs."""
        names = ("text_encoder", "denoiser", "decoder_first", "decoder_next")
        bundle = write_small_bundle(folder / "small.reel")
        engine = FakeEngine({name: getattr(self, name) for name in names})
        return Reel(open_bundle(bundle), engine, EngineOptions(threads=1))
