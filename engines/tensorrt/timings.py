"""TensorRT's timing cache on disk: how fast each kernel was on this card, so that the next engine is built sooner.

One entry of the store `timings` for each TensorRT, card and driver. It is data, not code; TensorRT itself refuses one of
another version or card. Of two processes that end at the same time, one's measurements stay; losing one costs time.
"""

from __future__ import annotations

from ..cache import store

_FOLDER = "timings"


def timings_key(facts: dict[str, str]) -> str:
    """Return the name under which the times of one TensorRT, card and driver are kept."""
    return store.key_of(sorted(facts.items()))


def read_timings(key: str) -> bytes:
    """Return a timing cache, b"" where there is none or it is damaged."""
    found = store.read_entry(_FOLDER, key)
    return b"" if found is None else found[1]


def write_timings(key: str, timings: bytes) -> None:
    """Keep a timing cache."""
    store.write_entry(_FOLDER, key, {}, timings)
