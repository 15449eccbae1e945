"""Small files in the user's cache folder: `FOLDER/KEY`, each complete or not there.

A file is one line of JSON (facts, and `sha256` of what follows) and a body. Two processes may write the same entry: each
writes a file of its own and renames it, and both hold the same. An entry that cannot be used, whatever is wrong with it, is
as one that is not there: it is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from ...core import paths
from ...core.errors import EdgereelError, brief, one_line
from ...core.files import read_plain, sweep, temporary_beside
from .files import begins_with, distrusted

Use = TypeVar("Use")

LARGEST: Final = 2**31
"""Bytes of an entry that is read at all: a graph without its weights, and what is said of it."""
TIMINGS: Final = "timings"
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_BEGINNING: Final = b'{"sha256": "'

_told: set[str] = set()
"""Why folders are not read, as far as that was said: once is enough."""
log = logging.getLogger(__name__)
"""Told in a line of each entry that is made again. Unless a program says otherwise, Python writes it to stderr."""


def key_of(*parts: object) -> str:
    """Return the name under which something is kept, from everything it depends on: strings, numbers and lists of them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_entry(folder: str, key: str, use: Callable[[dict[str, Any], bytes], Use]) -> Use | None:
    """Return what `use` makes of an entry's facts and body; None where there is no entry, or one that cannot be used.

    use: raises any error where the two are not as they were written. A folder that others may write into is not read.
    """
    path = _path(folder, key)
    try:
        content = read_plain(path, LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        if os.path.lexists(path):
            _made_again(path, error)
        return None
    if reason := distrusted(path.parent):
        if reason not in _told:
            _told.add(reason)
            log.warning("what is kept there is not used: %s", reason)
        return None
    try:
        header, body = content.split(b"\n", 1)
        facts = json.loads(header)
        if hashlib.sha256(body).hexdigest() != facts["sha256"]:
            raise ValueError("its bytes are not those that were written")
        return use(facts, body)
    except (EdgereelError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        _made_again(path, error)
        return None


def write_entry(folder: str, key: str, facts: Mapping[str, Any], body: bytes) -> None:
    """Keep an entry; a cache folder that cannot be written costs time at the next start, nothing else."""
    target = _path(folder, key)
    temporary = temporary_beside(target)
    header = json.dumps({"sha256": hashlib.sha256(body).hexdigest(), **facts})
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(target.parent)
        temporary.write_bytes(header.encode() + b"\n" + body)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def is_entry(path: Path) -> bool:
    """Return whether a file is an entry that this module wrote: by its name, its kind and how it begins."""
    return bool(_NAME.fullmatch(path.name)) and begins_with(path, _BEGINNING)


def timings_key(facts: Mapping[str, str]) -> str:
    """Return the name under which TensorRT's timing cache of one version, card and driver is kept.

    It says how fast each kernel was on this card, so that the next engine is built sooner. It is data, not code; TensorRT
    itself refuses one of another version or card. Of two processes that end at the same time, one's measurements stay.
    """
    return key_of(sorted(facts.items()))


def read_timings(key: str) -> bytes:
    """Return a timing cache, b"" where there is none or it is damaged."""
    return read_entry(TIMINGS, key, lambda facts, body: body) or b""


def write_timings(key: str, timings: bytes) -> None:
    """Keep a timing cache."""
    write_entry(TIMINGS, key, {}, timings)


def _path(folder: str, key: str) -> Path:
    return paths.cache_folder() / folder / key


def _made_again(path: Path, error: Exception) -> None:
    said = one_line(brief(error)) or type(error).__name__
    log.warning(
        "%s in the cache cannot be used and is made again: %s", one_line(f"{path.parent.name}/{path.name[:12]}"), said
    )
