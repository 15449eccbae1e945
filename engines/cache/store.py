"""Small files in the user's cache folder: `FOLDER/KEY`, each complete or not there.

A file is one line of JSON (facts, and `sha256` of what follows) and a body. Two processes may write the same entry: each
writes a file of its own and renames it, and both hold the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import paths

_TIMINGS = "timings"


def key_of(*parts: object) -> str:
    """Return the name under which something is kept, from everything it depends on: strings, numbers and lists of them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_entry(folder: str, key: str) -> tuple[dict[str, Any], bytes] | None:
    """Return the facts and the body of an entry, None where there is none or its body is damaged.

    The facts are as they were read: whoever uses one checks it.
    """
    try:
        header, body = _path(folder, key).read_bytes().split(b"\n", 1)
        facts = json.loads(header)
        if hashlib.sha256(body).hexdigest() != facts["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts, body


def write_entry(folder: str, key: str, facts: Mapping[str, Any], body: bytes) -> None:
    """Keep an entry; a cache folder that cannot be written costs time at the next start, nothing else."""
    target = _path(folder, key)
    temporary = target.with_name(f"{key}.{os.getpid()}.part")
    header = json.dumps({"sha256": hashlib.sha256(body).hexdigest(), **facts})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(header.encode() + b"\n" + body)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def timings_key(facts: Mapping[str, str]) -> str:
    """Return the name under which TensorRT's timing cache of one version, card and driver is kept.

    It says how fast each kernel was on this card, so that the next engine is built sooner. It is data, not code; TensorRT
    itself refuses one of another version or card. Of two processes that end at the same time, one's measurements stay.
    """
    return key_of(sorted(facts.items()))


def read_timings(key: str) -> bytes:
    """Return a timing cache, b"" where there is none or it is damaged."""
    found = read_entry(_TIMINGS, key)
    return b"" if found is None else found[1]


def write_timings(key: str, timings: bytes) -> None:
    """Keep a timing cache."""
    write_entry(_TIMINGS, key, {}, timings)


def _path(folder: str, key: str) -> Path:
    return paths.cache_folder() / folder / key
