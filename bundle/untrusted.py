"""Reading files that a stranger made: plain files alone, never waited for, and no more work than was agreed on."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import BundleError

# A pipe is opened without waiting for its other end; Windows has neither flag, nor pipes in folders.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def open_plain(path: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    """Open a regular file for reading; follow: a link to one, too.

    Raises BundleError for anything else (links, pipes, devices, sockets, folders), OSError where it cannot be opened. What is
    there may be exchanged at any time, so the type is asked of what was opened; before that, since opening some devices
    does something.
    """
    _check_plain(path, (path.stat() if follow else path.lstat()).st_mode)
    with open(os.open(path, _FLAGS | (0 if follow else _NO_LINK)), "rb") as file:
        _check_plain(path, os.fstat(file.fileno()).st_mode)
        yield file


def read_plain(path: Path, most: int, *, follow: bool = False) -> bytes:
    """Return the content of a regular file of at most so many bytes; follow: see open_plain. Raises BundleError, OSError."""
    with open_plain(path, follow=follow) as file:
        content = file.read(most + 1)
        if len(content) > most:
            size = os.fstat(file.fileno()).st_size
            raise BundleError(f"{path}: {size} bytes is too large for what it should be: at most {most} are read")
    return content


def parse_json(text: str, most: int, *, once: bool = False) -> Any:
    """Return what a JSON text of at most about so many values holds; once: where no key of an object stands twice.

    Raises ValueError for a text that is no JSON (NaN and Infinity are none) or holds more.
    """
    # Counted before anything is made of them; characters inside strings count too, which real files have few of.
    if text.count(",") + text.count("[") + text.count("{") > most:
        raise ValueError(f"holds more than {most} values")
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_doubled_keys if once else None
        )
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _check_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path}: must be a regular file, not a link or folder")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_doubled_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key of an object stands twice")
    return found
