"""A generated clip: its latents are kept, its frames are decoded whenever they are asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.progress import Progress, report_progress
from ..core.version import __version__
from ..media.label import Label
from ..provenance.marks import Marks
from .clip_decoder import ClipDecoder
from .decoding.frame_check import FrameCheck
from .request import Request
from .video.output import Output


class Video:
    """Frames as a stream, uint8 [H, W, 3]; every iteration decodes anew, with memory that does not grow with length.

    latents: float32 [1, C, F, H, W], the sampled clip in normalised units. request: the settings it was made with. decoder:
    what decodes it, for as long as its reel is open.
    """

    def __init__(self, decoder: ClipDecoder, request: Request, latents: NDArray[np.float32]) -> None:
        self.latents = latents
        self.request = request
        self._decoder = decoder

    def __len__(self) -> int:
        return self.request.frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self._decoder.pictures(self.latents, self._size, None)

    @property
    def _size(self) -> tuple[int, int, int]:
        return self.request.width, self.request.height, self.request.frames

    def settings(self, *, private: bool = False) -> dict[str, Any]:
        """Return what the clip was made with and by; private leaves both prompts out."""
        settings = self.request.settings()
        if private:
            del settings["prompt"], settings["negative_prompt"]
        manifest = self._decoder.bundle.manifest
        return {
            "ai_generated": True,
            "edgereel": __version__,
            "bundle": manifest.name,
            "bundle_digest": manifest.digest,
            **settings,
            "ran": self._decoder.facts(),
        }

    def save(
        self,
        path: str | Path,
        *,
        private: bool = False,
        marks: Marks | None = None,
        label: Label | None = None,
        on_progress: Progress | None = None,
    ) -> Path:
        """Decode and write the clip: .mp4 (H.264, yuv420p), .gif or .webp (lossless) by suffix, without one a folder of PNGs.

        What is there already is replaced when the new output is complete: a file, or a folder that holds nothing but
        the PNGs of an earlier clip. The settings and the note that the clip is AI-generated go into the metadata;
        private leaves the prompts out. marks: a watermark and a signature beside that note, see Marks.choose; label: what is
        written into the pictures. on_progress is told of `decode`, and of `tiles` before it where pictures are decoded in
        tiles. Raises EngineError where the frames are all alike, UsageError for another suffix or a speed that the format cannot
        show, OutputError where it cannot be written, Cancelled where on_progress returns False.
        """
        output = Output.check(path).at(self.request.fps)
        output = output.marked(marks, label, self.request.width, self.request.height)
        self.write(output, private=private, on_progress=on_progress)
        return output.path

    def write(
        self, output: Output, *, private: bool = False, on_progress: Progress | None = None
    ) -> dict[str, Any] | None:
        """Decode and write the clip to an output that was checked at this clip's speed; see `save`.

        Returns what became of its marks, None where it has none.
        """

        def counted() -> Iterator[NDArray[np.uint8]]:
            report_progress(on_progress, "decode", 0, len(self))
            check = FrameCheck()
            for done, picture in enumerate(self._decoder.pictures(self.latents, self._size, on_progress), start=1):
                check.add(picture)
                yield picture
                report_progress(on_progress, "decode", done, len(self))
            check.finish()

        if not self._decoder.facts():  # the metadata say what ran
            self._decoder.open_first(self._size)
        metadata = {
            "title": "AI-generated video" if private else self.request.prompt,
            "description": "AI-generated video",
            "genre": "AI-generated",
            "comment": json.dumps(self.settings(private=private), ensure_ascii=False),
        }
        started, decoding = time.perf_counter(), self._decoder.seconds
        pictures = counted() if output.label is None else output.label.over(counted())
        if output.marks is None:
            output.write(pictures, metadata, len(self))
            record = None
        else:
            marking = output.marks.begin(output.format, self.settings(private=True))
            output.write(marking.over(pictures), metadata, len(self), marking.seal)
            record = marking.record()
        self._decoder.add_time("encode", started + self._decoder.seconds - decoding)
        return record
