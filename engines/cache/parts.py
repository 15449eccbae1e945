"""What the user's cache folder holds in all, part by part, for the command line to show and to clear."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from ...core import paths
from ...core.errors import EngineError, UsageError, one_line
from .engines import EngineCache
from .files import count, delete

ENGINES: Final = "engines"
OURS: Final = frozenset({ENGINES, "lowered", "embeddings", "costs", "timings"})
"""The folders that edgereel makes. EDGEREEL_CACHE may name a folder with other things in it: these are never cleared."""


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
    return [CachePart(path.name, path, *count(path.resolve()), path.name in OURS) for path in folders]


def clear_part(name: str) -> int:
    """Delete what a part holds and return the bytes freed; engines that are in use or being built stay.

    Raises UsageError where edgereel has no such part, EngineError where it cannot be written.
    """
    if name not in OURS:
        raise UsageError(f"there is no part {one_line(name)!r} of the cache: choose from {', '.join(sorted(OURS))}")
    if name == ENGINES:
        return EngineCache().remove()
    folder = paths.cache_folder() / name
    before, _ = count(folder.resolve())
    try:
        for path in folder.iterdir():
            delete(path)
    except FileNotFoundError:
        pass  # there is none, or another process cleared it
    except OSError as error:
        raise EngineError(f"cannot clear {one_line(folder)}: {one_line(error.strerror or error)}") from error
    return before - count(folder.resolve())[0]
