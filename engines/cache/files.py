"""Files of the cache: brought to the disk, deleted and counted without following links; and a disk that has no room."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final

from ...core.errors import one_line
from .lock import open_shared

_SAMPLES: Final = 64
_SAMPLE_SIZE: Final = 2**16
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def samples_of(file: BinaryIO) -> str:
    """Return the sha256, in hexadecimal, of a file's size and of samples all over it: all of it where it is small."""
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.sha256(str(size).encode())
    parts = _SAMPLES if size > _SAMPLES * _SAMPLE_SIZE else 1
    for part in range(parts):
        file.seek((size - _SAMPLE_SIZE) * part // (parts - 1) if parts > 1 else 0)
        digest.update(file.read(_SAMPLE_SIZE if parts > 1 else -1))
    file.seek(0)
    return digest.hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and bring it to the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Bring what was written of a file to the disk. Raises OSError."""
    with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows syncs no file that was opened for reading
        os.fsync(file.fileno())


def delete(path: Path) -> None:
    """Delete a file or a folder that may be missing; a link goes, not what it leads to. Raises OSError."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass


def count(path: Path) -> tuple[int, int]:
    """Return the bytes and the number of a file, or of all files below a folder, links not followed; 0, 0 for nothing."""
    try:
        information = path.lstat()
        if not stat.S_ISDIR(information.st_mode):
            return information.st_size, 1
        found = [count(Path(entry.path)) for entry in os.scandir(path)]
    except OSError:
        return 0, 0
    return sum(size for size, _ in found), sum(files for _, files in found)


def distrusted(folder: Path) -> str | None:
    """Return why nothing that lies in this folder may be run, None where it may. Raises OSError where there is none."""
    if sys.platform == "win32":
        return None
    information = folder.stat()
    if information.st_uid not in (os.geteuid(), 0):
        return f"{one_line(folder)} belongs to another user"
    if information.st_mode & stat.S_IWOTH:
        return f"all users may write in {one_line(folder)} (chmod o-w changes that)"
    return None


def begins_with(path: Path, beginning: bytes) -> bool:
    """Return whether a regular file, and no link to one, begins with these bytes; False where it cannot be read."""
    try:
        with open_shared(path) as file:
            return file.read(len(beginning)) == beginning
    except OSError:
        return False


def touch(path: Path) -> None:
    """Note now as the time that a file was modified. Raises OSError."""
    # Given in full: the time that the system itself notes moves in steps of milliseconds, too coarse to order entries by.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def no_room(error: BaseException | None) -> OSError | None:
    """Return the OSError of a full disk that an error is or came from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
