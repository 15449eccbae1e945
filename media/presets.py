"""Where films are shown: shapes, lengths and qualities by name, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.toml import read_toml

PRESETS = Path(__file__).with_name("presets.toml")
_LARGEST = 2**16


@dataclass(frozen=True)
class Preset:
    """width, height: a shape. seconds: how long a film may be at most, None for any. crf: see Mp4Sink."""

    name: str
    label: str
    width: int
    height: int
    seconds: float | None = None
    crf: int = 18


@lru_cache(maxsize=1)
def presets() -> dict[str, Preset]:
    """Return those that come with the package, by name."""
    return {name: Preset(name, **facts) for name, facts in read_toml(PRESETS, _LARGEST).items()}
