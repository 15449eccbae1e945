"""Lowered graphs on disk: `lowered/KEY` in the cache folder, the serialized model and how often each rewrite was applied."""

from __future__ import annotations

from dataclasses import dataclass

from ..cache import store

VERSION = 3
"""Part of every key: raise it whenever a rewrite gives another graph than before."""
_FOLDER = "lowered"


@dataclass(frozen=True)
class CacheEntry:
    """A serialized model and how often each rewrite was applied to it."""

    model: bytes
    rewrites: dict[str, int]


def cache_key(graph_sha256: str, *facts: str) -> str:
    """Return the name under which a graph is kept; facts: everything else that lowering it depends on."""
    return store.key_of(graph_sha256, VERSION, *facts)


def read_entry(key: str) -> CacheEntry | None:
    """Return an entry, None where there is none or it is damaged."""
    found = store.read_entry(_FOLDER, key)
    if found is None:
        return None
    facts, model = found
    try:
        return CacheEntry(model, {str(name): int(count) for name, count in facts["rewrites"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def write_entry(key: str, entry: CacheEntry) -> None:
    """Keep an entry; a cache folder that cannot be written costs time at the next start, nothing else."""
    store.write_entry(_FOLDER, key, {"rewrites": entry.rewrites}, entry.model)
