"""How much memory a run may use: what the user says, or what is free less a margin."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError
from ...core.machine import free_gpu_memory, read_machine

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MOST = 2**50
_LEAST_BARE = 2**20
LEAST_MARGIN = 256 * 2**20
MARGIN = 0.1
"""What is free is not all taken: others on the machine grow too, and a plan is an estimate."""
UNKNOWN = 2**62
"""The budget where the system does not tell what is free."""


@dataclass(frozen=True)
class Budget:
    """bytes: what may be used at most. source: where that comes from, in words."""

    bytes: int
    source: str


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


def budget_of(memory: int | str | None, device: str, root: Path = Path("/")) -> Budget:
    """Return how much memory of a device (`cpu` or `gpu`) a run may use.

    memory: bytes or text as parse_bytes takes it, None for what is free less a margin. On unified memory the GPU's is the
    machine's. Raises UsageError.
    """
    if memory is not None:
        count = parse_bytes(memory) if isinstance(memory, str) else memory
        there = read_machine(root).memory if device == "cpu" else None
        more = there is not None and count > there
        return Budget(
            count, f"as asked for, of the {format_bytes(there or 0)} that there are" if more else "as asked for"
        )
    free = free_gpu_memory() if device == "gpu" else None
    of = "free on the GPU"
    if free is None:
        free = free_host_memory(root)
        of = "free"
    if free is None:
        return Budget(UNKNOWN, "the system does not tell what is free")
    margin = max(LEAST_MARGIN, int(free * MARGIN))
    return Budget(max(0, free - margin), f"{format_bytes(free)} {of}, less {format_bytes(margin)}")


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of system memory that are free, a container's limit counted; None where that is not told."""
    found = [read_machine(root).free_memory, _free_in_group(root)]
    return min((count for count in found if count is not None), default=None)


def _free_in_group(root: Path) -> int | None:
    """Return what is left of the limit that a container was given, None where there is none."""
    folders = {root / "sys/fs/cgroup": ("memory.max", "memory.current")}
    folders[root / "sys/fs/cgroup/memory"] = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for folder, names in folders.items():
        limit, used = (_number(folder / name) for name in names)
        if limit is not None and used is not None and limit < _MOST:
            # Pages of files that were read count as used, but are given up for the asking.
            return max(0, limit - used + _reclaimable(folder / "memory.stat"))
    return None


def _reclaimable(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(" ", 1) for line in lines if " " in line)
    return sum(int(counts.get(name, "0")) for name in ("inactive_file", "active_file"))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def peak_host_memory() -> int | None:
    """Return the most memory that this process has held so far, in bytes; None where the system does not tell."""
    if os.name == "nt":
        return None
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
