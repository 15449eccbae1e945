"""What was sampled before, under a hash of all that decides it: no scene is made twice.

`store/ab/KEY/` in the user's data folder has `latents.safetensors` and `record.json`, which was written last. The key is made
of inputs alone: what is decoded from them changes with the number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import OutputError, UsageError
from ...core.files import output_errors, read_plain, write_text
from ...core.paths import home_folder
from ...core.version import __version__
from ...runtime.clip import Video
from ...runtime.latents_file import read_video, write_latents
from ...runtime.reel import Reel
from ...runtime.request import Request

_LARGEST_RECORD = 2**20


def scene_key(digest: str, request: Request, numerics: Mapping[str, str], continues: str | None) -> str:
    """Return the key of a clip: a hash of its bundle, settings, engine and release, and of the clip that it goes on from."""
    facts = {
        "release": __version__,
        "bundle_digest": digest,
        "settings": request.settings(),
        "numerics": dict(numerics),
        "continues": continues,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Store:
    """The user's store of latents; see above. folder: None for the user's."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raise UsageError where there is no home folder to have it in."""
        self.folder = home_folder() / "store" if folder is None else folder

    def __contains__(self, key: str) -> bool:
        return (self._place(key) / "record.json").is_file()

    def put(self, key: str, video: Video, reel: Reel, record: dict[str, Any], *, private: bool = False) -> None:
        """Keep a clip, whole or not at all. record: what else is told of it. Raises OutputError."""
        place = self._place(key)
        with output_errors(place):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.folder, place):
                os.chmod(folder, 0o700)  # prompts are in it
        write_latents(place / "latents.safetensors", video, reel.bundle, private=private)
        write_text(place / "record.json", json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")

    def get(self, key: str, reel: Reel) -> Video | None:
        """Return the clip of a key, None where there is none or it is damaged, which takes it out of the store."""
        if key not in self:
            return None
        try:
            return read_video(self._place(key) / "latents.safetensors", reel)
        except UsageError:
            self.discard(key)
            return None

    def record(self, key: str) -> dict[str, Any] | None:
        """Return what is told of a clip, None where there is none or it cannot be read."""
        try:
            record = json.loads(read_plain(self._place(key) / "record.json", _LARGEST_RECORD))
        except (OSError, ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None

    def discard(self, key: str) -> None:
        """Take a clip out of the store."""
        with contextlib.suppress(OSError):
            (self._place(key) / "record.json").unlink()

    def _place(self, key: str) -> Path:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise OutputError(f"{key[:80]!r} is no key")
        return self.folder / key[:2] / key
