"""Lowered graphs on disk: `lowered/KEY` in the cache folder, one file each, complete or not there.

A file is one line of JSON (`sha256` of what follows, `rewrites`) and the serialized model. Two processes may write the
same entry: each writes a file of its own and renames it, and both hold the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ... import paths

VERSION = 2
"""Part of every key: raise it whenever a rewrite gives another graph than before."""


@dataclass(frozen=True)
class CacheEntry:
    """A serialized model and how often each rewrite was applied to it."""

    model: bytes
    rewrites: dict[str, int]


def cache_key(graph_sha256: str, *facts: str) -> str:
    """Return the name under which a graph is kept; facts: everything else that lowering it depends on."""
    parts = json.dumps([graph_sha256, VERSION, *facts])
    return hashlib.sha256(parts.encode()).hexdigest()


def read_entry(key: str) -> CacheEntry | None:
    """Return an entry, None where there is none or it is damaged."""
    try:
        header, model = _path(key).read_bytes().split(b"\n", 1)
        facts = json.loads(header)
        if hashlib.sha256(model).hexdigest() != facts["sha256"]:
            return None
        return CacheEntry(model, {str(name): int(count) for name, count in facts["rewrites"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_entry(key: str, entry: CacheEntry) -> None:
    """Keep an entry; a cache folder that cannot be written costs time at the next start, nothing else."""
    target = _path(key)
    temporary = target.with_name(f"{key}.{os.getpid()}.part")
    header = json.dumps({"sha256": hashlib.sha256(entry.model).hexdigest(), "rewrites": entry.rewrites})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(header.encode() + b"\n" + entry.model)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _path(key: str) -> Path:
    return paths.cache_folder() / "lowered" / key
