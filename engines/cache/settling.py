"""A built engine brought to the disk; and one that is built for this run only, where its cache cannot be used."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ...core.errors import EngineError, brief, one_line
from ...core.files import sha256_of
from ...core.interrupts import interrupts_wait
from .entry import CachedEngine
from .files import no_room, samples_of, sync_file
from .lock import open_shared

Build = Callable[[Path], None]
"""Writes an engine to a path that does not exist."""


def build_elsewhere(build: Build) -> CachedEngine:
    """Build into a temporary folder that goes when the engine is closed. Raises EngineError where there is no room either."""
    try:
        with interrupts_wait():  # between making it and knowing what to remove
            temporary = tempfile.TemporaryDirectory(prefix="edgereel-engine-", ignore_cleanup_errors=True)
    except OSError as error:
        raise EngineError(f"there is no folder to build an engine in: {brief(error)}; free some room") from error
    path = Path(temporary.name) / "engine"
    try:
        started = time.perf_counter()
        build(path)
        seconds = time.perf_counter() - started
        settle(path)
        with open_shared(path) as file:
            return CachedEngine(path, file, "built", seconds, temporary)
    except BaseException as error:
        temporary.cleanup()
        if isinstance(error, Exception) and no_room(error) is not None:
            message = (
                f"there is no room for the engine in {one_line(path.parent.parent)} either: free some, or set TMPDIR"
            )
            raise EngineError(message) from error
        raise


def settle(path: Path) -> tuple[str, str, int, int]:
    """Bring a built engine to the disk; return its sha256, samples, time and size as a Description has them.

    Raises EngineError where there is none, OSError.
    """
    if not os.path.lexists(path) or not stat.S_ISREG(path.lstat().st_mode):
        raise EngineError("the builder wrote no engine")
    sync_file(path)
    with open_shared(path) as file:
        found, sampled, sha256 = os.fstat(file.fileno()), samples_of(file), sha256_of(file)
    if not found.st_size:
        raise EngineError("the builder wrote an empty engine")
    return sha256, sampled, found.st_mtime_ns, found.st_size
