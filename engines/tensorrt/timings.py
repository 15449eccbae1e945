"""TensorRT's timing cache on disk: how fast each kernel was on this card, so that the next engine is built sooner.

One file for each TensorRT, card and driver: `timings/KEY` in the cache folder, the sha256 of what follows and the cache.
It is data, not code; TensorRT itself refuses one of another version or card. Losing one costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from ... import paths

_HASH_LENGTH = 32


def timings_path(facts: dict[str, str]) -> Path:
    """Return the file of all that a measured time depends on."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return paths.cache_folder() / "timings" / key


def read_timings(path: Path) -> bytes:
    """Return a timing cache, b"" where there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return b""
    digest, timings = content[:_HASH_LENGTH], content[_HASH_LENGTH:]
    return timings if hashlib.sha256(timings).digest() == digest else b""


def write_timings(path: Path, timings: bytes) -> None:
    """Keep a timing cache. Of two processes that end at the same time, one's measurements stay."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(timings).digest() + timings)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
