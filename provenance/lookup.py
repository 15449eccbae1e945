"""Asking the log about a file by all that identifies it: its hash, its signed id, its watermark."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..core.errors import UsageError, one_line
from .log import Log


def look_up(log: Log, wanted: str) -> list[dict[str, Any]]:
    """Return the log's entries of an id, a hash or a file, newest first; all for "". Raises UsageError, OutputError."""
    path = Path(wanted)
    if not wanted or not path.is_file():
        return log.find(wanted)
    from .verify.report import examine

    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise UsageError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from error
    if found := log.find(digest.hexdigest()):
        return found
    report = examine(path)
    ids = [report.signature.id if report.signature.intact else None]
    ids.append(None if report.watermark.payload is None else str(report.watermark.payload))
    return next((found for identity in ids if identity and (found := log.find(identity))), [])
