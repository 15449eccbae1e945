"""A generated clip: its latents are kept, its frames are decoded whenever they are asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..core.progress import Progress, report_progress
from ..core.version import __version__
from ..media.label import Label
from ..provenance.claim import Origin
from ..provenance.marks import Marks
from .clip_decoder import ClipDecoder
from .decoding.frame_check import FrameCheck
from .request import OpenRequest, Request
from .video.output import Output


class Video:
    """Frames as a stream, uint8 [H, W, 3]; every iteration decodes anew, with memory that does not grow with length.

    latents: float32 [1, C, F, H, W], the sampled clip in normalised units, after those of the clip that it continues. noise:
    of their shape, what the decoder takes beside them, None where it takes none. request: the settings it was made with.
    decoder: what decodes it, for as long as its reel is open. inputs: the files that went into it, which marks name.
    """

    def __init__(
        self,
        decoder: ClipDecoder,
        request: Request,
        latents: NDArray[np.float32],
        noise: NDArray[np.float32] | None,
        continue_it: Callable[[Video, OpenRequest, float | None, Progress | None], Video],
    ) -> None:
        """continue_it: samples what follows a clip."""
        self.latents = latents
        self.noise = noise
        self.request = request
        self.inputs: tuple[Path, ...] = ()
        self._decoder = decoder
        self._continue = continue_it

    def __len__(self) -> int:
        return self.request.frames - self.request.overlap

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return iter(self.request.cut(self.made_pictures()))

    def made_pictures(self, on_progress: Progress | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures as the model made them, before their shape is cut out. on_progress: see save."""
        pictures = self._decoder.pictures(self.latents, self._size, on_progress, self.request.decoder, self.noise)
        return islice(pictures, self.request.overlap, None)

    def continue_(
        self, prompt: str, seconds: float | None = None, *, on_progress: Progress | None = None, **settings: Any
    ) -> Video:
        """Sample what follows this clip; the video is of the new pictures alone.

        seconds: of them, to the nearest length that the model can do; None fills a clip of the bundle's own length. settings:
        those of Reel.generate but for `size`, `frames`, `fps`, `latents` and pictures; without a seed it is this clip's, plus 1.
        Raises UsageError where the bundle continues no clips, and what Reel.generate raises.
        """
        more = self._continue(self, OpenRequest.of(prompt, settings), seconds, on_progress)
        more.inputs = self.inputs
        return more

    @property
    def _size(self) -> tuple[int, int, int]:
        return self.request.width, self.request.height, self.request.frames

    def settings(self, *, private: bool = False) -> dict[str, Any]:
        """Return what the clip was made with and by; private leaves both prompts out."""
        settings = self.request.settings()
        if private:
            del settings["prompt"], settings["negative_prompt"]
        return told_settings(self._decoder.bundle.manifest, settings, self._decoder.facts())

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
        output = output.marked(marks, label, *self.request.shown_size)
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
            for done, picture in enumerate(self.request.cut(self.made_pictures(on_progress)), start=1):
                check.add(picture)
                yield picture
                report_progress(on_progress, "decode", done, len(self))
            check.finish()

        if not self._decoder.facts():  # the metadata say what ran
            self._decoder.open_first(self._size, self.request.decoder)
        metadata = file_metadata(None if private else self.request.prompt, self.settings(private=private))
        started, decoding = time.perf_counter(), self._decoder.seconds
        origin = Origin(self.settings(private=True), self.inputs)
        written = output.write(counted(), metadata, len(self), origin)
        self._decoder.add_time("encode", started + self._decoder.seconds - decoding)
        return written.marks


def told_settings(manifest: Manifest, settings: dict[str, Any], ran: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says it was made with and by. ran: see Reel.facts."""
    made_by = {"edgereel": __version__, "bundle": manifest.name, "bundle_digest": manifest.digest}
    return {"ai_generated": True, **made_by, **settings, "ran": ran}


def file_metadata(prompt: str | None, settings: dict[str, Any]) -> dict[str, str]:
    """Return a file's metadata. prompt: its title, None for one that does not tell it. settings: see told_settings."""
    return {
        "title": "AI-generated video" if prompt is None else prompt,
        "description": "AI-generated video",
        "genre": "AI-generated",
        "comment": json.dumps(settings, ensure_ascii=False),
    }
