"""Where films are shown: shapes, lengths and qualities by name, as data."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).with_name("presets.toml")


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
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return {name: Preset(name, **facts) for name, facts in toml.loads(PRESETS.read_text(encoding="utf-8")).items()}
