"""What a container allows: the memory and the processors of every control group that this process is in.

Linux keeps groups within groups, and what an outer one allows holds for those in it. The process's own group is in
/proc/self/cgroup; its files, and those of the groups around it, lie below where the hierarchy is mounted. Version 2 has one
hierarchy for everything, version 1 one for each kind of thing, and some machines have both. Nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .system_files import read_text

_MOST_MEMORY = 2**50
"""A limit above this is none: version 1 writes a very large number for "no limit"."""
_USUAL_MOUNTS = {"": ("unified", ""), "memory": ("memory",), "cpu": ("cpu", "cpu,cpuacct")}
"""Folders below sys/fs/cgroup where a hierarchy is usually mounted, by version 1's name of it; "" for version 2."""


@dataclass(frozen=True)
class MemoryLimit:
    """What the narrowest group allows. limit, left: bytes. group: where it is, for people."""

    limit: int
    left: int
    group: str


@dataclass(frozen=True)
class Quota:
    """How many processors' time the narrowest group may take, such as 0.5. group: where it is, for people."""

    processors: float
    group: str


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """Return the limit of which least is left, None where there is none. root: where Linux keeps proc/ and sys/."""
    found = [_memory_v2(folder, name) for folder, name in _groups(root, "")]
    found += [_memory_v1(folder, name) for folder, name in _groups(root, "memory")]
    return min((limit for limit in found if limit is not None), key=lambda limit: limit.left, default=None)


def processor_quota(root: Path = Path("/")) -> Quota | None:
    """Return the narrowest quota of processor time, None where there is none."""
    found = [_quota(name, *_words(folder / "cpu.max", 2)) for folder, name in _groups(root, "")]
    for folder, name in _groups(root, "cpu"):
        quota, period = _words(folder / "cpu.cfs_quota_us", 1), _words(folder / "cpu.cfs_period_us", 1)
        found.append(_quota(name, *quota, *period))
    return min((quota for quota in found if quota is not None), key=lambda quota: quota.processors, default=None)


def whole_processors(quota: Quota) -> int:
    """Return how many threads are worth starting: the quota rounded up."""
    return max(1, math.ceil(quota.processors))


def _memory_v2(folder: Path, name: str) -> MemoryLimit | None:
    # Above memory.high a process is not ended but held up, until it hardly runs at all.
    limits = [limit for file in ("memory.max", "memory.high") if (limit := _number(folder / file)) is not None]
    return _memory_left(min(limits, default=None), folder, "memory.current", name)


def _memory_v1(folder: Path, name: str) -> MemoryLimit | None:
    return _memory_left(_number(folder / "memory.limit_in_bytes"), folder, "memory.usage_in_bytes", name)


def _memory_left(limit: int | None, folder: Path, used_file: str, name: str) -> MemoryLimit | None:
    if limit is None or limit >= _MOST_MEMORY:
        return None
    used = (_number(folder / used_file) or 0) - _reclaimable(folder / "memory.stat")
    return MemoryLimit(limit, min(limit, max(0, limit - used)), name)


def _reclaimable(path: Path) -> int:
    """Return the bytes of files' pages, which count as used, but are given up for the asking."""
    counts: dict[str, int] = {}
    for line in (read_text(path) or "").splitlines():
        name, _, count = line.partition(" ")
        if count.strip().isdecimal():
            counts[name] = int(count)
    # Version 1 counts a group's own pages under the plain name, and those of the groups in it only in the total.
    return sum(counts.get(f"total_{name}", counts.get(name, 0)) for name in ("inactive_file", "active_file"))


def _quota(name: str, *words: str) -> Quota | None:
    """Return the quota that two words say, microseconds of each period; version 2 has "max" for none, version 1 -1."""
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return None
    return Quota(int(words[0]) / int(words[1]), name)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """Yield the folder and the name of each group that this process is in, from its own outwards.

    controller: version 1's name of a hierarchy, "" for version 2.
    """
    own = _own_group(root, controller)
    for mount, top in _mounts(root, controller):
        parts = _below(own, top)
        for count in range(len(parts), -1, -1):
            yield mount.joinpath(*parts[:count]), "/" + "/".join(parts[:count])


def _own_group(root: Path, controller: str) -> str:
    """Return the path of the process's own group in a hierarchy, "/" where that is not told."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if not controller else controller in controllers.split(","):
            return path
    return "/"


def _mounts(root: Path, controller: str) -> list[tuple[Path, str]]:
    """Return where a hierarchy is mounted, and the group that the top of each mount shows."""
    found = []
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        fields, _, rest = line.partition(" - ")
        words, kinds = fields.split(), rest.split()
        if len(words) < 5 or len(kinds) < 3:
            continue
        version_1 = kinds[0] == "cgroup" and controller in kinds[2].split(",")
        if version_1 if controller else kinds[0] == "cgroup2":
            found.append((root / _unescaped(words[4]).lstrip("/"), _unescaped(words[3])))
    usual = root / "sys/fs/cgroup"
    return found or [(usual / name, "/") for name in _USUAL_MOUNTS[controller]]


def _below(group: str, top: str) -> list[str]:
    """Return the names that lead from the group a mount shows at its top to a group; none where it is not below."""
    names, above = ([name for name in path.split("/") if name] for path in (group, top))
    if ".." in names:  # the group is outside of what this container sees
        return []
    # Without a namespace of its own, a container sees the host's path of its group, and of it only the end is mounted.
    return names[len(above) :] if names[: len(above)] == above else names


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, where spaces and the like are written as octal numbers."""
    for character in " \t\n\\":
        path = path.replace(f"\\{ord(character):03o}", character)
    return path


def _number(path: Path) -> int | None:
    text = (read_text(path) or "").strip()
    return int(text) if text.isdecimal() else None


def _words(path: Path, most: int) -> list[str]:
    return (read_text(path) or "").split()[:most]
