"""A process that believes in a card: its environment, and what its log says that the card was asked for."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
_SMI = """#!/bin/sh
case "$*" in
  *memory.free*) echo "{free}";;
  *) echo "Stand-in, {total}, {major}.{minor}, 580.00";;
esac
"""
_TYPES = {0: "float32", 2: "float16", 14: "bfloat16", 3: "int8"}
"""cuBLAS' numbers for types (cudaDataType)."""


def environment(place: Path, log: Path, *, capability: int = 89, memory: int = 24 * 2**30) -> Mapping[str, str]:
    """Return the environment of a process that runs on a stand-in. place: what build.py made. log: the file it appends to."""
    tools = log.parent / "tools"
    tools.mkdir(exist_ok=True)
    smi = tools / "nvidia-smi"
    mib = memory >> 20
    smi.write_text(_SMI.format(free=mib - 500, total=mib, major=capability // 10, minor=capability % 10))
    smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
    joined = os.pathsep.join
    return {
        **os.environ,
        "PATH": joined([str(tools), os.environ["PATH"]]),
        "PYTHONPATH": joined([str(place / "site"), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]),
        "LD_LIBRARY_PATH": str(place / "libraries"),
        "STAND_IN_LOG": str(log),
        "STAND_IN_CAPABILITY": str(capability),
        "STAND_IN_MEMORY": str(memory),
    }


@dataclass
class Gemm:
    """m, n, k of a product, how many there are in its batch, and the types of its factors and of its result."""

    m: int
    n: int
    k: int
    batch: int
    factors: str
    result: str


@dataclass
class Log:
    """What a card was asked for between two marks. held: bytes allocated at the end; peak: the most at any time."""

    kernels: Counter[str] = field(default_factory=Counter)
    gemms: list[Gemm] = field(default_factory=list)
    convolutions: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    copied: Counter[str] = field(default_factory=Counter)
    pinned: list[int] = field(default_factory=list)
    captures: int = 0
    replays: int = 0
    refused: int = 0
    held: int = 0
    peak: int = 0

    @property
    def launches(self) -> int:
        """How many kernels were started."""
        return sum(self.kernels.values())

    def kernels_like(self, pattern: str) -> int:
        """Return how many kernels were started whose name matches."""
        return sum(count for name, count in self.kernels.items() if re.search(pattern, name))


def read_log(path: Path) -> dict[str, Log]:
    """Return what is in a log, by the mark that it stands behind: "" for what comes before the first."""
    logs = {"": Log()}
    current = logs[""]
    held = 0
    for line in path.read_text(errors="replace").splitlines():
        kind, *rest = line.split("\t")
        if kind == "mark":
            current = logs.setdefault(rest[0], Log())
            current.held = current.peak = held
        elif kind == "kernel":
            current.kernels[rest[3]] += 1
        elif kind == "gemm":
            m, n, k, batch, factors, result, _ = map(int, rest)
            types = (_TYPES.get(factors, str(factors)), _TYPES.get(result, str(result)))
            current.gemms.append(Gemm(m, n, k, batch, *types))
        elif kind == "convolution":
            current.convolutions[rest[0]] += 1
        elif kind == "copy":
            current.copies[rest[0]] += 1
            current.copied[rest[0]] += int(rest[1])
        elif kind == "pinned":
            current.pinned.append(int(rest[0]))
        elif kind == "capture":
            current.captures += rest[0] == "begin"
        elif kind == "replay":
            current.replays += 1
        elif kind == "refused":
            current.refused += 1
        elif kind in ("allocate", "free"):
            held += int(rest[0]) if kind == "allocate" else -int(rest[0])
            current.held, current.peak = held, max(current.peak, held)
    return logs
