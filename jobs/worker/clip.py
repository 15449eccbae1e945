"""One job made into files: sampled or taken up from its kept latents, decoded, marked, and said to be whole last."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import Cancelled, EdgereelError, GeometryError, UsageError
from ...core.files import remove, sweep
from ...provenance.keys import keys_folder
from ...provenance.marks import Marks
from ...runtime.clip import Video
from ...runtime.latents_file import read_video, write_latents
from ...runtime.reel import Reel
from ...runtime.video.jpeg import jpeg_bytes
from ...runtime.video.output import Output
from ..files import JobFiles
from ..settings import JobSettings
from .models import Models, facts_of, open_request
from .stills import write_stills

_TOLD_EVERY = 0.2
"""Seconds between two pictures or tiles that are told of; every step of the denoiser is."""
_SHARE_OF_PREVIEWS = 0.2
"""How much of the time previews may take."""
AUTOMATIC = "auto"
"""Marks: a watermark where pictures are large enough for one, a signature where this device has a key."""


@dataclass(frozen=True)
class ClipJob:
    """What to make, and how. private: prompts are not written into files. keep_latents: once the clip is whole."""

    id: str
    model: str
    settings: JobSettings
    files: JobFiles
    mark: str = AUTOMATIC
    private: bool = False
    keep_latents: bool = False


class ClipMaker:
    """Makes one job after the other with the warm reel.

    tell(event, facts) is called from this thread with `progress` and `preview`.
    """

    def __init__(self, models: Models, tell: Callable[..., None]) -> None:
        self._models, self._tell = models, tell
        self.stage: tuple[str, int] = ("", 0)
        self._told = 0.0

    def make(self, job: ClipJob, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Return the finished clip's facts. Nothing is made again that is there whole. Raises EdgereelError, Cancelled."""
        if (facts := job.files.read_record()) is not None:
            return {"facts": facts, "bytes": job.files.bytes()}
        job.files.folder.mkdir(exist_ok=True)
        sweep(job.files.folder)

        def on_progress(stage: str, done: int, total: int) -> bool:
            if cancelled():
                return False
            if self.stage != (stage, done):
                whole = stage == "denoise" or done in (0, total)
                self.stage = (stage, done)
                if whole or time.monotonic() - self._told >= _TOLD_EVERY:
                    self._told = time.monotonic()
                    self._tell("progress", job=job.id, stage=stage, step=done, total=total)
            return True

        self.stage = ("", 0)
        on_progress("open", 0, 1)
        if cancelled():
            raise Cancelled("cancelled")
        started = time.perf_counter()
        reel = self._models.reel(job.model, on_progress)
        before = dict(reel.timings)
        reel.on_clean = _Preview(reel, job, self._tell, lambda: self.stage)
        try:
            video = self._kept(job, reel) or self._sample(job, reel, on_progress)
        finally:
            reel.on_clean = None
        marks = marks_of(job.mark, *video.request.shown_size)
        output = Output.check(job.files.video).at(video.request.fps)
        output = output.marked(marks, None, *video.request.shown_size)
        marked = video.write(output, private=job.private, on_progress=on_progress)
        on_progress("stills", 0, 1)
        write_stills(
            job.files.video,
            len(video),
            job.files.folder / "thumbnail.jpg",
            job.files.folder / "spritesheet.jpg",
        )
        if not job.keep_latents:
            remove(job.files.latents)
        seconds = {stage: round(total - before.get(stage, 0.0), 4) for stage, total in reel.timings.items()}
        facts = {
            **facts_of(video.request),
            "provenance": None if marked is None else {key: marked[key] for key in ("signed", "watermark")},
            "seconds": {**seconds, "total": round(time.perf_counter() - started, 4)},
        }
        return {"facts": facts, "bytes": job.files.write_record(facts)}

    def _kept(self, job: ClipJob, reel: Reel) -> Video | None:
        """Return the clip of the job's kept latents, None where there are none that can be used."""
        if not job.files.latents.exists():
            return None
        try:
            return read_video(job.files.latents, reel)
        except EdgereelError:
            remove(job.files.latents)
            return None

    def _sample(self, job: ClipJob, reel: Reel, on_progress: Callable[[str, int, int], bool]) -> Video:
        picture = job.files.picture if job.settings.picture else None
        video = reel.make(open_request(reel.bundle.manifest, job.settings, picture), on_progress)
        write_latents(job.files.latents, video, reel.bundle, private=job.private)
        return video


class _Preview:
    """Shows what a clip would be if it ended now, for as long as that takes little of the time."""

    def __init__(
        self, reel: Reel, job: ClipJob, tell: Callable[..., None], stage: Callable[[], tuple[str, int]]
    ) -> None:
        self._reel, self._job, self._tell, self._stage = reel, job, tell, stage
        self._spent = 0.0
        self._started = time.perf_counter()

    def __call__(self, latents: NDArray[np.float32], chunk: int) -> None:
        started = time.perf_counter()
        # Only a clip's first frame can be decoded by itself.
        if chunk or self._spent > _SHARE_OF_PREVIEWS * (started - self._started):
            return
        picture = self._reel.decoder.first_picture(latents, self._reel.bundle.manifest.preview_decoder)
        if picture is not None:
            encoded = base64.b64encode(jpeg_bytes(picture)).decode("ascii")
            self._tell("preview", job=self._job.id, step=self._stage()[1] + 1, jpeg=encoded)
        self._spent += time.perf_counter() - started


def marks_of(kind: str, width: int, height: int) -> Marks | None:
    """Return the marks of a word of provenance.marks.KINDS, or of `auto`: those that this device and size can have."""
    if kind != AUTOMATIC:
        return Marks.choose(kind)
    signed = (keys_folder() / "key.pem").exists()
    try:
        marks = Marks.choose("all" if signed else "watermark")
    except UsageError:  # the key is damaged, or the clock is wrong: the watermark needs neither
        signed, marks = False, Marks.choose("watermark")
    assert marks is not None
    try:
        marks.check("mp4", width, height)
    except GeometryError:
        return Marks.choose("signature") if signed else None
    return marks


def files_of(folder: str | Path) -> JobFiles:
    """Return the files of a job whose folder was told."""
    return JobFiles(Path(folder))
