"""Where a job's files lie, and which of them say that it is done.

`videos/ID/`: video.mp4, thumbnail.jpg, spritesheet.jpg, latents.safetensors, and last, once those are on the disk, record.json.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import read_plain, remove, sweep, synchronise_folder, write_text
from .job import is_id

VARIANTS = {"video": "video.mp4", "thumbnail": "thumbnail.jpg", "spritesheet": "spritesheet.jpg"}
MEDIA_TYPES = {"video": "video/mp4", "thumbnail": "image/jpeg", "spritesheet": "image/jpeg"}
_LARGEST_RECORD = 2**20


@dataclass(frozen=True)
class JobFiles:
    """The files of one job."""

    folder: Path

    @property
    def video(self) -> Path:
        """The clip."""
        return self.folder / VARIANTS["video"]

    @property
    def latents(self) -> Path:
        """What was sampled, to be decoded again."""
        return self.folder / "latents.safetensors"

    @property
    def picture(self) -> Path:
        """The picture that the clip begins with."""
        return self.folder / "input"

    @property
    def record(self) -> Path:
        """What the clip is, written last."""
        return self.folder / "record.json"

    def variant(self, name: str) -> Path | None:
        """Return the path of a variant that is there as a regular file of one name, None otherwise; links are not followed."""
        path = self.folder / VARIANTS[name]
        try:
            information = path.lstat()
            folder = self.folder.lstat()
        except OSError:
            return None
        whole = stat.S_ISREG(information.st_mode) and information.st_nlink == 1 and stat.S_ISDIR(folder.st_mode)
        return path if whole else None

    def write_record(self, facts: dict[str, Any]) -> int:
        """Say that the clip is whole, and return the bytes of all files. Raises OutputError."""
        synchronise_folder(self.folder)
        write_text(self.record, json.dumps({**facts, "video_bytes": self.video.stat().st_size}))
        synchronise_folder(self.folder)
        synchronise_folder(self.folder.parent)
        return self.bytes()

    def read_record(self) -> dict[str, Any] | None:
        """Return what the clip is, None where it is not whole."""
        try:
            facts = json.loads(read_plain(self.record, _LARGEST_RECORD))
            size = self.video.lstat().st_size
        except (OSError, ValueError):
            return None
        if not isinstance(facts, dict) or facts.pop("video_bytes", None) != size or self.variant("video") is None:
            return None
        return facts

    def bytes(self) -> int:
        """Return the bytes of all files."""
        total = 0
        for entry in os.scandir(self.folder):
            total += entry.stat(follow_symlinks=False).st_size
        return total


class VideosFolder:
    """The folder that all jobs' files are in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, id: str) -> JobFiles:
        """Return a job's files. Raises ValueError for what is no name of a job."""
        if not is_id(id):
            raise ValueError(f"{id!r} is no job")
        return JobFiles(self.folder / id)

    def remove(self, id: str) -> None:
        """Remove a job's files."""
        remove(self.of(id).folder)

    def clean(self, ids: set[str]) -> int:
        """Remove files of no job, and what killed processes left half written; return how many folders went."""
        removed = 0
        for entry in list(os.scandir(self.folder)):
            if is_id(entry.name) and entry.name not in ids:
                remove(Path(entry.path))
                removed += 1
            elif is_id(entry.name) and entry.is_dir(follow_symlinks=False):
                sweep(Path(entry.path))
        sweep(self.folder)
        return removed
