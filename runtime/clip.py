"""A generated clip: its latents are kept, its frames are decoded whenever they are asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import OutOfMemory
from ..core.progress import Progress, report_progress
from .decoding.decoder import decode_frames
from .decoding.frame_check import FrameCheck
from .decoding.tiling import decode_tiled
from .memory.sizes import DECODER, DECODER_GRAPHS
from .request import Request
from .video.output import check_fps, check_output, write_output

if TYPE_CHECKING:
    from .reel import Reel


class Video:
    """Frames as a stream, uint8 [H, W, 3]; every iteration decodes anew, with memory that does not grow with length.

    latents: float32 [1, C, F, H, W], the sampled clip in normalised units. request: the settings it was made with.
    """

    def __init__(self, reel: Reel, request: Request, latents: NDArray[np.float32]) -> None:
        self.latents = latents
        self.request = request
        self._reel = reel

    def __len__(self) -> int:
        return self.request.frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self._pictures(None)

    def _pictures(self, on_progress: Progress | None) -> Iterator[NDArray[np.uint8]]:
        self._reel.plan(self.request.width, self.request.height, self.request.frames)
        shown = 0
        while True:
            pictures = self._decode(on_progress)
            try:
                for _ in range(shown):  # memory ran out in the middle: those before are with the caller already
                    next(pictures)
                while True:
                    started = time.perf_counter()
                    picture = next(pictures, None)
                    self._reel.add_time("decode", started)
                    if picture is None:
                        return
                    yield picture
                    shown += 1
            except OutOfMemory as error:
                self._reel.graphs.step_down(DECODER, error)

    def _decode(self, on_progress: Progress | None) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures, decoded as the memory plan says; on_progress is told of tiles."""
        first, following = (self._reel.graphs.sessions(name) for name in DECODER_GRAPHS)
        plan, geometry = self._reel.graphs.plan, self._reel.bundle.manifest.latent
        if plan is None or plan.tile is None:
            yield from decode_frames(first[None], following[None], self.latents, geometry)
            return
        front = (first["front"], following["front"]) if "front" in first else None
        yield from decode_tiled(
            front,
            (first["rear"], following["rear"]),
            self.latents,
            geometry,
            plan.tile,
            on_tile=lambda done, total: report_progress(on_progress, "tiles", done, total),
        )

    def settings(self, *, private: bool = False) -> dict[str, Any]:
        """Return what the clip was made with and by; private leaves both prompts out."""
        from ..core.version import __version__
        from .reel import describe_engine

        settings = self.request.settings()
        if private:
            del settings["prompt"], settings["negative_prompt"]
        manifest = self._reel.bundle.manifest
        return {
            "ai_generated": True,
            "edgereel": __version__,
            "bundle": manifest.name,
            "bundle_digest": manifest.digest,
            **settings,
            "ran": describe_engine(self._reel),
        }

    def save(self, path: str | Path, *, private: bool = False, on_progress: Progress | None = None) -> Path:
        """Decode and write the clip: .mp4 (H.264, yuv420p), .gif or .webp (lossless) by suffix, without one a folder of PNGs.

        What is there already is replaced when the new output is complete: a file, or a folder that holds nothing but
        the PNGs of an earlier clip. The settings and the note that the clip is AI-generated go into the metadata;
        private leaves the prompts out. on_progress is told of `decode`, and of `tiles` before it where pictures are decoded in
        tiles. Raises EngineError where the frames are all alike, UsageError for another suffix or a speed that the format cannot
        show, OutputError where it cannot be written, Cancelled where on_progress returns False.
        """
        check_fps(path, self.request.fps)
        path = check_output(path)

        def counted() -> Iterator[NDArray[np.uint8]]:
            report_progress(on_progress, "decode", 0, len(self))
            check = FrameCheck()
            for done, picture in enumerate(self._pictures(on_progress), start=1):
                check.add(picture)
                yield picture
                report_progress(on_progress, "decode", done, len(self))
            check.finish()

        if not self._reel.report():  # the metadata say what ran
            self._reel.plan(self.request.width, self.request.height, self.request.frames)
            with suppress(OutOfMemory):
                self._reel.graphs.sessions(DECODER_GRAPHS[0])
        metadata = {
            "title": "AI-generated video" if private else self.request.prompt,
            "description": "AI-generated video",
            "genre": "AI-generated",
            "comment": json.dumps(self.settings(private=private), ensure_ascii=False),
        }
        started = time.perf_counter()
        decoding = self._reel.timings.get("decode", 0.0)
        write_output(path, counted(), self.request.fps, metadata, len(self))
        decoding = self._reel.timings.get("decode", 0.0) - decoding
        self._reel.add_time("encode", started + decoding)
        return path
