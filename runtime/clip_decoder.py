"""Decoding a reel's clips: the opened decoder, the plan that it is held to, and the facts that a clip's metadata tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..bundle.reader import Bundle
from ..core.errors import OutOfMemory
from ..core.progress import Progress, report_progress
from .decoding.decoder import decode_frames
from .decoding.tiling import decode_tiled
from .decoding.windows import Inputs, decode_clip, decode_windowed
from .memory.plan import MemoryPlan
from .memory.shapes import window_of
from .memory.sizes import DECODER, Uses, decoder_graphs, streaming_graphs
from .open_graphs import OpenGraphs
from .sampling.noise import NoiseSource


@dataclass
class ClipDecoder:
    """What turns the latents of a bundle's clips into pictures.

    plan_of(width, height, frames, on_progress, uses): the memory plan of a clip's size; see Reel.plan. add_time: see
    Reel.add_time. facts: what ran so far, for a clip's metadata. seconds: spent decoding so far.
    """

    bundle: Bundle
    graphs: OpenGraphs
    plan_of: Callable[[int, int, int, Progress | None, Uses], MemoryPlan]
    add_time: Callable[[str, float], None]
    facts: Callable[[], dict[str, Any]]
    seconds: float = 0.0

    def pictures(
        self,
        latents: NDArray[np.float32],
        size: tuple[int, int, int],
        on_progress: Progress | None,
        decoder: str | None = None,
        noise: NDArray[np.float32] | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures, uint8 [H, W, 3], of latents [1, C, F, H, W] (normalised units) as they are decoded.

        size: the clip's width, height and frames. decoder: its name, None for the default one. noise: see decoder_noise.
        on_progress is told of tiles. Other clips may be made or decoded between two pictures. Raises EngineError, PlanError
        where the plan does not fit, Cancelled.
        """
        self.graphs.begin()
        plan = self.plan_of(*size, None, Uses(decoder))
        shown = 0
        while True:
            with self.graphs.lock:
                self.graphs.hold_to(plan)
                pictures = self._decode(latents, noise, on_progress, plan.sizes.uses)
            try:
                for _ in range(shown):  # memory ran out in the middle: those before are with the caller already
                    self._next(pictures, plan)
                while (picture := self._next(pictures, plan)) is not None:
                    yield picture
                    shown += 1
                return
            except OutOfMemory as error:
                with self.graphs.lock:
                    self.graphs.hold_to(plan)
                    self.graphs.step_down(DECODER, error)

    def first_picture(self, latents: NDArray[np.float32], decoder: str | None = None) -> NDArray[np.uint8] | None:
        """Return the first picture, uint8 [H, W, 3], of latents [1, C, F, H, W] of a clip that is being sampled.

        None where it would cost another graph its place: only a decoder that takes latents frame by frame, and that the plan
        keeps open, whole, beside the denoiser, is asked. The first is the only frame that can be decoded by itself.
        Raises EngineError, Cancelled.
        """
        with self.graphs.lock:
            plan, names = self.graphs.plan, decoder_graphs(self.bundle.manifest, Uses(decoder))
            if plan is None or plan.tile is not None or len(names) != 2:
                return None
            beside = [*self.bundle.manifest.roles.denoiser_names(), DECODER]
            if any(plan.components[name].placement != "resident" for name in beside):
                return None
            try:
                first = self.graphs.session(names[0])
                return next(decode_frames(first, first, latents[:, :, :1], self.bundle.manifest.latent), None)
            except OutOfMemory:
                return None

    def open_first(self, size: tuple[int, int, int], decoder: str | None = None) -> None:
        """Open the decoder's first graph, as far as memory allows, so that `facts` has something to tell."""
        with self.graphs.lock:
            uses = Uses(decoder)
            self.graphs.hold_to(self.plan_of(*size, None, uses))
            with suppress(OutOfMemory):
                self.graphs.sessions(decoder_graphs(self.bundle.manifest, uses)[0])

    def _next(self, pictures: Iterator[NDArray[np.uint8]], plan: MemoryPlan) -> NDArray[np.uint8] | None:
        """Return the next picture, None after the last; the time that takes is decoding's."""
        with self.graphs.lock:
            self.graphs.hold_to(plan)
            started = time.perf_counter()
            picture = next(pictures, None)
            self.seconds += time.perf_counter() - started
            self.add_time("decode", started)
        return picture

    def _decode(
        self,
        latents: NDArray[np.float32],
        noise: NDArray[np.float32] | None,
        on_progress: Progress | None,
        uses: Uses,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures, decoded as the memory plan says."""
        names = decoder_graphs(self.bundle.manifest, uses)
        if len(names) == 1:
            inputs = {"latents": latents, "noise": noise}
            yield from self._decode_whole(names[0], {key: each for key, each in inputs.items() if each is not None})
            return
        first, following = (self.graphs.sessions(name) for name in streaming_graphs(self.bundle.manifest, uses))
        plan, geometry = self.graphs.plan, self.bundle.manifest.latent
        if plan is None or plan.tile is None:
            yield from decode_frames(first[None], following[None], latents, geometry)
            return
        front = (first["front"], following["front"]) if "front" in first else None
        yield from decode_tiled(
            front,
            (first["rear"], following["rear"]),
            latents,
            geometry,
            plan.tile,
            on_tile=lambda done, total: report_progress(on_progress, "tiles", done, total),
        )

    def _decode_whole(self, name: str, inputs: Inputs) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures of a decoder that takes the clip at once, in windows where the memory plan says so."""
        sessions, plan, geometry = self.graphs.sessions(name), self.graphs.plan, self.bundle.manifest.latent
        if plan is None or plan.window is None:
            yield from decode_clip(sessions[None], inputs, geometry)
            return
        window = window_of(self.bundle.path(self.bundle.manifest.roles.graphs()[name].file))
        yield from decode_windowed(sessions["front"], sessions["rear"], inputs, geometry, window, plan.window)


def decoder_noise(
    manifest: Manifest, decoder: str | None, shape: tuple[int, ...], source: NoiseSource
) -> NDArray[np.float32] | None:
    """Return the noise that a decoder takes beside latents of a shape, drawn after all that sampling took; None for none."""
    name = decoder_graphs(manifest, Uses(decoder))[0]
    return source.draw(shape) if "noise" in manifest.roles.graphs()[name].inputs else None
