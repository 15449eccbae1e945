"""Copying a bundle's files: a chunk at a time, hashed on the way, on the disk when done."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ...core.errors import BundleError, OutputError
from ...core.progress import Progress, report_progress
from ...core.units import format_bytes
from ..manifest import FileRecord
from .sources import Readable, source_errors

CHUNK = 2**22
_ZEROS = bytes(CHUNK)
_MEGABYTE = 10**6
_ROOM = 2**24
"""Bytes that stay free beside what is written: folders and file systems take some themselves."""


class ByteProgress:
    """Tells a caller how many of so many bytes are copied, in megabytes. Raises Cancelled where he answers False."""

    def __init__(self, on_progress: Progress | None, stage: str, total: int) -> None:
        self._on_progress, self._stage, self._total = on_progress, stage, total
        self._done = 0
        self.add(0)

    def add(self, count: int) -> None:
        """Tell that so many bytes more are done."""
        self._done += count
        report_progress(self._on_progress, self._stage, self._done // _MEGABYTE, -(-self._total // _MEGABYTE))


def check_room(folder: Path, needed: int, advice: str) -> None:
    """Raise OutputError where a folder's disk has not so many bytes free; advice: what to do then."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # a file system that does not tell; writing will
        return
    if free < needed + _ROOM:
        raise OutputError(f"{folder}: {format_bytes(needed)} are needed there, {format_bytes(free)} are free: {advice}")


def copy_chunks(
    given: Readable, record: FileRecord, take: Callable[[bytes], object], source: Path, name: str, told: ByteProgress
) -> None:
    """Hand on a file's bytes, and check that they are as many, and those, that the manifest declares.

    source, name: for messages. Raises BundleError for bytes that are not, or cannot be read; whatever `take` raises.
    """
    digest = hashlib.sha256()
    left = record.size
    while left:
        with source_errors(source):
            chunk = given.read(min(CHUNK, left))
        if not chunk:
            raise BundleError(f"{source}: {name} ends {left} bytes too soon: copy the bundle again")
        digest.update(chunk)
        take(chunk)
        left -= len(chunk)
        told.add(len(chunk))
    with source_errors(source):
        more = given.read(1)
    if more:
        raise BundleError(f"{source}: {name} has more than the {record.size} bytes that reel.json declares")
    if digest.hexdigest() != record.sha256:
        raise BundleError(
            f"{source}: the content of {name} is not what reel.json declares (sha256 differs): copy the bundle again"
        )


def write_chunk(file: BinaryIO, chunk: bytes) -> None:
    """Write bytes, whole chunks of zeros as a hole, which takes no room on most disks; `finish_file` must follow."""
    if chunk == _ZEROS:
        file.seek(len(chunk), os.SEEK_CUR)
    else:
        file.write(chunk)


def finish_file(file: BinaryIO) -> None:
    """Give a file the length to where it was written, and have it on the disk. Raises OSError, for a full one too."""
    file.truncate(file.tell())
    file.flush()
    os.fsync(file.fileno())


def explain_too_large(error: OSError) -> OSError:
    """Return an error of writing, one of a file that is too large with the reason that it most often has."""
    if error.errno != errno.EFBIG:
        return error
    return OSError(errno.EFBIG, "File too large: FAT32, as on many USB sticks, takes 4 GB at most; exFAT takes more")
