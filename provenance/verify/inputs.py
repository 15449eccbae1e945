"""What is known of a file that goes into a clip: its hash, and the marks that it carries already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import EdgereelError, UsageError, one_line
from ...core.files import sha256_of
from .report import examine


def marks_on(path: Path) -> dict[str, Any]:
    """Return a file's SHA-256 and type, and the marks found on it; `generated` is true or left out, never false.

    A picture that a model made stays marked so in what is made of it. Raises UsageError where the file is gone.
    """
    try:
        with path.open("rb") as file:
            digest = sha256_of(file)
    except OSError as error:
        raise UsageError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from error
    try:
        report = examine(path)
    except EdgereelError:
        return {"sha256": digest}
    found: dict[str, Any] = {"sha256": digest, "type": report.kind}
    if report.generated:
        found["generated"] = True
    if report.metadata.source_type is not None:
        found["digital_source_type"] = report.metadata.source_type
    if report.signature.state not in ("none", "unchecked"):
        found["signature"] = report.signature.state
    if report.signature.intact and report.signature.id is not None:
        found["id"] = report.signature.id
    if report.watermark.payload is not None:
        found["watermark"] = str(report.watermark.payload)
    return found
