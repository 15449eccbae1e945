"""Numbers of bytes, as people write and read them."""

from __future__ import annotations

import re

from .errors import UsageError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MOST = 2**50
_LEAST_BARE = 2**20


def parse_bytes(text: str) -> int:
    """Return the number of bytes of "6GiB", "512MiB", "8GB" or "6442450944".

    Raises UsageError, for a bare number below a MiB too: who writes 6 means 6 GiB, and no model runs in so little.
    """
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]{0,3})\s*", text, re.ASCII)
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError(f"{text!r} is no amount of memory: write it as 6GiB or 512MiB")
    count = int(float(match[1]) * _UNITS[match[2].lower()])
    if not 0 < count <= _MOST:
        raise UsageError(f"{text!r} is no amount of memory that a machine has: write it as 6GiB or 512MiB")
    if not match[2] and count < _LEAST_BARE:
        raise UsageError(f"--memory {match[1]}: bytes? write {match[1]}{'GiB' if count < 1024 else 'MiB'}")
    return count


def format_bytes(count: int) -> str:
    """Return a number of bytes for people, in the binary units that memory is sold in."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
