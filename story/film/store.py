"""What was sampled before, under a hash of all that decides it: no scene is made twice.

`store/ab/KEY/` in the user's data folder has `latents.safetensors` and `record.json`, which was written last. The key is made
of inputs alone: what is decoded from them changes with the number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import OutputError, UsageError
from ...core.files import output_errors, read_plain, sha256_of, sweep, write_text
from ...core.paths import home_folder
from ...core.version import __version__
from ...runtime.clip import Video
from ...runtime.latents_file import read_video, write_latents
from ...runtime.reel import Reel
from ...runtime.request import Request

LIMIT = 8 * 2**30
_LARGEST_RECORD = 2**20
_FRESH = 3600
"""Seconds in which what was used is not removed."""
_RECORD, _LATENTS = "record.json", "latents.safetensors"


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
    """The user's store of latents; see above. folder: None for the user's.

    limit: bytes that it may have; those not used for longest go. What `need` named stays, and what was used in the last hour, which
    a film of another process may need; a scene that is gone all the same is made again.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        """Raise UsageError where there is no home folder to have it in."""
        self.folder = home_folder() / "store" if folder is None else folder
        self._limit, self._needed = limit, set[str]()
        self._bytes: int | None = None

    def __contains__(self, key: str) -> bool:
        return (self._place(key) / _RECORD).is_file()

    def put(self, key: str, video: Video, reel: Reel, record: dict[str, Any], *, private: bool = False) -> None:
        """Keep a clip, whole or not at all. record: what else is told of it. Raises OutputError."""
        place = self._place(key)
        with output_errors(place):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.folder, place):
                os.chmod(folder, 0o700)  # prompts are in it
        write_latents(place / _LATENTS, video, reel.bundle, private=private)
        with output_errors(place), (place / _LATENTS).open("rb") as file:
            record = {**record, "key": key, "sha256": sha256_of(file)}
        write_text(place / _RECORD, json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
        if self._bytes is not None:
            self._bytes += _bytes(place)
        self._make_room({key})

    def need(self, keys: Iterable[str]) -> None:
        """Keep these for as long as this store is open, and count them as used now."""
        self._needed |= set(keys)
        for key in self._needed:
            with contextlib.suppress(OSError):
                os.utime(self._place(key) / _RECORD)

    def clear(self) -> int:
        """Take all clips out, and return the bytes freed. Other files in its folder stay."""
        return sum(self._remove(place) for _, _, place in self._entries())

    def _make_room(self, keys: set[str]) -> None:
        """Remove what was not used for longest until the limit is kept to."""
        if self._bytes is not None and self._bytes <= self._limit:
            return
        entries = sorted(self._entries())
        self._bytes = sum(size for _, size, _ in entries)
        newest = time.time() - _FRESH
        for used, _, place in entries:
            if self._bytes <= self._limit or used > newest:
                return
            if place.name not in self._needed | keys:
                self._bytes -= self._remove(place)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return each clip's time of use, bytes and folder; of one that was not finished too."""
        found = []
        with contextlib.suppress(OSError):
            for folder in self.folder.iterdir():
                if not re.fullmatch("[0-9a-f]{2}", folder.name) or folder.is_symlink():
                    continue
                with contextlib.suppress(OSError):
                    for place in folder.iterdir():
                        if re.fullmatch("[0-9a-f]{64}", place.name) and place.is_dir() and not place.is_symlink():
                            record = place / _RECORD
                            used = (record if record.exists() else place).stat().st_mtime
                            found.append((used, _bytes(place), place))
        return found

    def _remove(self, place: Path) -> int:
        """Remove a clip, its record first; return the bytes freed. What is not ours in its folder stays."""
        freed = _bytes(place)
        with contextlib.suppress(OSError):
            for name in (_RECORD, _LATENTS):
                (place / name).unlink(missing_ok=True)
            sweep(place)
            place.rmdir()
            place.parent.rmdir()
        return freed - (_bytes(place) if place.exists() else 0)

    def get(self, key: str, reel: Reel) -> Video | None:
        """Return the clip of a key, None where there is none or it is damaged, which takes it out of the store."""
        if key not in self:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._place(key) / _RECORD)
        try:
            if self._is_whole(key):
                return read_video(self._place(key) / _LATENTS, reel)
        except UsageError:
            pass
        self.discard(key)
        return None

    def _is_whole(self, key: str) -> bool:
        """Tell whether a clip's latents are those that were put there: a changed bit, or another clip, would show in the film."""
        record, path = self.record(key), self._place(key) / _LATENTS
        if record is None or record.get("key", key) != key:
            return False
        try:
            if not path.is_file():  # a pipe would be waited for
                return False
            with path.open("rb") as file:
                return "sha256" not in record or sha256_of(file) == record["sha256"]
        except OSError:
            return False

    def record(self, key: str) -> dict[str, Any] | None:
        """Return what is told of a clip, None where there is none or it cannot be read."""
        try:
            record = json.loads(read_plain(self._place(key) / _RECORD, _LARGEST_RECORD))
        except (OSError, ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None

    def discard(self, key: str) -> None:
        """Take a clip out of the store."""
        with contextlib.suppress(OSError):
            (self._place(key) / _RECORD).unlink()

    def _place(self, key: str) -> Path:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise OutputError(f"{key[:80]!r} is no key")
        return self.folder / key[:2] / key


def _bytes(place: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            total += path.lstat().st_size
    return total
