"""How fast this machine is, by what it made before, so that a plan can say how long it will take."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import OutputError
from ...core.files import read_plain, write_text
from ...core.paths import find_cache_folder
from ...runtime.reel import Reel

_LARGEST = 2**20
_SHARE = 0.3
"""How much the newest measurement counts."""


@dataclass
class Speed:
    """Measured speeds of one bundle on one engine. work, pixels: tokens times steps, and decoded pixels, a second; 0: not yet."""

    work: float = 0.0
    pixels: float = 0.0

    def seconds(self, work: int, pixels: int) -> float | None:
        """Return how long so much will take, None where nothing was measured."""
        if (work and not self.work) or (pixels and not self.pixels):
            return None
        return (work / self.work if work else 0.0) + (pixels / self.pixels if pixels else 0.0)


def read_speed(reel: Reel) -> Speed:
    """Return what was measured, nothing where there is no record or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        kept = json.loads(read_plain(_path(), _LARGEST))[_key(reel)]
        work, pixels = float(kept["work"]), float(kept["pixels"])
        if work >= 0 and pixels >= 0:
            return Speed(work, pixels)
    return Speed()


def note_speed(reel: Reel, work: tuple[int, float], pixels: tuple[int, float]) -> None:
    """Keep what was done in how many seconds; a cache that cannot be written costs the estimate and nothing else."""
    speed = read_speed(reel)
    for name, (done, seconds) in {"work": work, "pixels": pixels}.items():
        if done and seconds > 0:
            before = getattr(speed, name)
            newest = done / seconds
            setattr(speed, name, newest if not before else before * (1 - _SHARE) + newest * _SHARE)
    everything: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        read = json.loads(read_plain(_path(), _LARGEST))
        everything = dict(list(read.items())[-200:]) if isinstance(read, dict) else {}
    with contextlib.suppress(OSError, OutputError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**everything, _key(reel): {"work": speed.work, "pixels": speed.pixels}}))


def _path() -> Path:
    folder = find_cache_folder()
    if folder is None:
        raise OSError("there is no cache folder")
    return folder / "speed.json"


def _key(reel: Reel) -> str:
    return f"{reel.bundle.manifest.digest[:16]} {json.dumps(reel.numerics(), sort_keys=True)} {reel.threads}"
