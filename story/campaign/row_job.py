"""One row as whoever makes it is told of it, and making it: in this process, in another, or on another machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...core.progress import Progress, report_progress
from ...jobs.settings import JobSettings
from ...jobs.worker.models import open_request
from ...media.label import Label
from ...provenance.claim import Origin
from ...provenance.marks import Marks
from ...runtime.clip import Video, file_metadata
from ...runtime.decoding.frame_check import FrameCheck
from ...runtime.pictures.fit import fit_picture
from ...runtime.reel import Reel
from ...runtime.video.output import Output, format_of
from .rows import Row


@dataclass(frozen=True)
class RowJob:
    """What to make, as plain data. No key travels: who signs does that to the finished file.

    settings: the job's, as JobSettings.to_json gives them. format: a key of output.SUFFIXES. shown: (width, height) of the
    pictures. crf: see Mp4Sink. private: prompts are not written. label: a Label's fields. maker: see Payload; None for no
    watermark.
    """

    name: str
    settings: dict[str, Any]
    format: str
    shown: tuple[int, int]
    crf: int
    private: bool = False
    label: dict[str, Any] | None = None
    maker: int | None = None

    @staticmethod
    def of(row: Row, suffix: str, marks: Marks | None, label: Label | None, private: bool) -> RowJob:
        """Return the job of a row. Raises UsageError for somebody else's watermark, whose graphs other machines lack."""
        if marks is not None and marks.marker is not None:
            raise UsageError("a campaign lays edgereel's own watermark: leave --marker out")
        return RowJob(
            row.name,
            row.settings.to_json(),
            format_of(f"row{suffix}"),
            row.size.shown,
            row.size.crf,
            private,
            None if label is None else asdict(label),
            marks.maker if marks is not None and marks.watermark else None,
        )

    @staticmethod
    def from_json(data: dict[str, Any]) -> RowJob:
        """Return what `to_json` gave."""
        return RowJob(**{**data, "shown": tuple(data["shown"])})

    def to_json(self) -> dict[str, Any]:
        """Return the job as JSON holds it."""
        return asdict(self)


def make_row(job: RowJob, reel: Reel, path: Path, on_progress: Progress | None = None) -> dict[str, Any]:
    """Write a row's file, without a signature, and return what is known of it, as JSON holds it.

    That is `settings`, those that it was made with, prompts left out; `watermark`; and `seconds`. path: of any suffix. Raises
    EdgereelError, Cancelled.
    """
    started = time.perf_counter()
    video = reel.make(open_request(reel.bundle.manifest, JobSettings.from_json(job.settings), None), on_progress)
    pictures = _pictures(video, job.shown, on_progress)
    first = next(pictures)  # what ran is known only then, and is told in the file
    metadata = file_metadata(
        None if job.private else video.request.prompt,
        video.settings(private=job.private),
    )
    settings = video.settings(private=True)
    output = Output(
        path,
        path,
        job.format,
        video.request.fps,
        None if job.maker is None else Marks(watermark=True, identity=None, maker=job.maker),
        None if job.label is None else Label(**job.label),
        crf=job.crf,
    )
    marks = output.write(chain([first], pictures), metadata, len(video), Origin(settings)).marks
    return {
        "settings": settings,
        "watermark": None if marks is None else marks["watermark"],
        "seconds": round(time.perf_counter() - started, 4),
    }


def _pictures(video: Video, shown: tuple[int, int], on_progress: Progress | None) -> Iterator[NDArray[np.uint8]]:
    """Yield a clip's pictures in the size that is shown. Raises EngineError where they show nothing."""
    check = FrameCheck()
    for done, picture in enumerate(video, start=1):
        check.add(picture)
        report_progress(on_progress, "decode", done, len(video))
        yield fit_picture(picture, *shown)
    check.finish()
