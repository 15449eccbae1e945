"""What the user's cache folder holds in all, part by part, for the command line to show and to clear."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Final, NamedTuple

from ...core import paths
from ...core.errors import EngineError, UsageError, one_line
from ...core.files import sweep
from .engines import EngineCache
from .files import begins_with, count, delete
from .store import is_entry

ENGINES: Final = "engines"
OURS: Final = frozenset(
    {ENGINES, "lowered", "embeddings", "costs", "pictures", "pieces", "speech", "timings", "matplotlib"}
)
"""The folders that edgereel makes. EDGEREEL_CACHE may name a folder with other things in it: these are never cleared."""


_EMBEDDING: Final = re.compile(r"[0-9a-f]{64}\.embedding")
_EMBEDDING_BEGINS: Final = b"edgereel embed "
_SCENE: Final = re.compile(r"[0-9a-f]{64}\.(mkv|mp4|wav)")
_SCENE_BEGINS: Final = (bytes.fromhex("1a45dfa3"), bytes.fromhex("00000020") + b"ftyp", b"RIFF")


class CachePart(NamedTuple):
    """A folder in the cache folder: bytes and number of all files in it. ours: whether `clear_part` may clear it."""

    name: str
    path: Path
    bytes: int
    files: int
    ours: bool


def cache_parts() -> list[CachePart]:
    """Return the folders directly in the user's cache folder, sorted by name; none where it is missing or unreadable."""
    try:
        folders = sorted(path for path in paths.cache_folder().iterdir() if path.is_dir())
    except OSError:
        return []
    return [CachePart(path.name, path, *count(path.resolve()), _is_ours(path)) for path in folders]


def clear_part(name: str) -> int:
    """Delete what edgereel has written into a part and return the bytes freed; engines in use or being built stay.

    Only files that are ours for certain go, by their names and how they begin: EDGEREEL_CACHE may name a folder that another
    program has an `embeddings/` in. A part that is a link is another folder, and is left alone.

    Raises UsageError where edgereel has no such part or it is a link, EngineError where it cannot be written.
    """
    if name not in OURS:
        raise UsageError(f"there is no part {one_line(name)!r} of the cache: choose from {', '.join(sorted(OURS))}")
    folder = paths.cache_folder() / name
    freed = 0
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise UsageError(f"{one_line(folder)} is no folder of edgereel's but a link or file: nothing was removed")
        if name == ENGINES:
            return EngineCache().remove()
        sweep(folder)
        for path in sorted(folder.iterdir()):
            if is_entry(path) or _is_embedding(path) or _is_scene(path):
                size, _ = count(path)
                delete(path)
                freed += size
    except FileNotFoundError:
        pass  # there is none, or another process cleared it
    except OSError as error:
        raise EngineError(f"cannot clear {one_line(folder)}: {one_line(error.strerror or error)}") from error
    return freed


def _is_ours(folder: Path) -> bool:
    """Return whether a folder in the cache folder is one of edgereel's, and no link to another one."""
    return folder.name in OURS and folder.is_dir() and not folder.is_symlink()


def _is_embedding(path: Path) -> bool:
    """Return whether a file is an embedding that runtime/text/embedding_cache.py wrote: by its name, its kind and how it begins."""
    return bool(_EMBEDDING.fullmatch(path.name)) and begins_with(path, _EMBEDDING_BEGINS)


def _is_scene(path: Path) -> bool:
    """Return whether a file is of a story: what picture_cache.py, pieces.py or speech.py of story/film/ wrote."""
    return bool(_SCENE.fullmatch(path.name)) and any(begins_with(path, each) for each in _SCENE_BEGINS)
