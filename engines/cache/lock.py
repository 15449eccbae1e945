"""Locks on files, given back by the kernel when their holder ends, however it ends.

A lock file may be deleted by whoever holds its lock: what was locked is compared with what lies there now, so that two
processes never hold the locks of two files of one name. On Windows a file that is open cannot be deleted, and stays.

A file that is read may be shared, which keeps others from deleting it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Links are not followed, and pipes not waited for."""


class Lock:
    """A lock that is held until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next one have it."""
        os.close(self._descriptor)

    def release_and_delete(self) -> None:
        """Let the next one have it, in a new file."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path) -> Lock | None:
    """Return the lock of a file, which is made where it is missing; None where another holds it, in this process or not.

    Raises OSError where the file cannot be made or locked.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _PLAIN, 0o600)
        try:
            _check_regular(descriptor)
            free = _try(descriptor)
            if free and is_still_at(path, descriptor):
                return Lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not free:
            return None


@contextlib.contextmanager
def shared(path: Path) -> Iterator[bool]:
    """Give whether no process holds the lock of this file, as far as can be told; then none can until the end of the block.

    Nothing is written: a file that is missing is not made, and one that cannot be opened or locked counts as free.
    """
    free, descriptor = True, None
    with contextlib.suppress(OSError):
        while descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | _PLAIN)
            free = _try(descriptor, shared=True)
            if not is_still_at(path, descriptor):  # deleted by who had its lock: another may lie there
                os.close(descriptor)
                free, descriptor = True, None
    try:
        yield free
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of this file, as far as can be told."""
    with shared(path) as free:
        return not free


def open_shared(path: Path) -> BinaryIO:
    """Open a regular file for reading; while it or a mapping of it is open, `claim` finds it in use.

    Raises OSError where it cannot be opened, is anything but a regular file, or was deleted in the meantime.
    """
    descriptor = os.open(path, os.O_RDONLY | _PLAIN)
    try:
        _check_regular(descriptor)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # without locks a deleted file can still be read by who has it open
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not is_still_at(path, descriptor):
            raise FileNotFoundError(f"{path} was deleted")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Give whether nobody has this file open with `open_shared`; nobody can until the end of the block. It may be missing."""
    if sys.platform == "win32":
        try:
            os.rename(path, path)  # is refused for a file that is open
        except FileNotFoundError:
            yield True
        except OSError:
            yield False
        else:
            yield True
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | _PLAIN)
    except OSError:
        yield True  # nobody can have it open
        return
    try:
        try:
            free = _try(descriptor)
        except OSError:
            free = True
        yield free
    finally:
        os.close(descriptor)


def is_still_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _check_regular(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError("is not a regular file")


def _try(descriptor: int, shared: bool = False) -> bool:
    """Lock an open file and return True, False where another has it. Raises OSError where files cannot be locked."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    else:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
