"""How good a row's clips are, so that its times are not read without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.reader import Bundle
from ..demo.evaluate import held_out_captions
from ..demo.scorer import read, score_readings
from .records.record import Quality

Clip = NDArray[np.uint8]
EQUAL_DB = 100.0
"""What clips without any difference are said to have."""
SAME_DB = 60.0
"""From which clips are the same but for float32's rounding."""
NEAR_DB = 30.0
"""From which clips are the same but for what a smaller type loses."""
SCORED_CLIPS = 24
COMPARED_CLIPS = 2
_FEWEST_FRAMES = 5  # that the scorer can read


def carried(bundle: Bundle) -> Quality:
    """Return the figures that a bundle carries."""
    figures = bundle.manifest.quality
    return Quality(source="bundle" if figures else "none", figures=dict(figures))


def can_be_scored(bundle: Bundle) -> bool:
    """Tell whether a bundle is the built-in model, or was made from it: the scorer reads what that one shows."""
    figures = bundle.manifest.quality
    of_source = figures.get("of_source")
    return "held_out_clips" in figures or (isinstance(of_source, dict) and "held_out_clips" in of_source)


def default_prompts(count: int) -> list[str]:
    """Return captions that the built-in model never saw; any model takes them."""
    return [caption for _, caption in held_out_captions(count)]


def scored(
    frames_of: Callable[[str, int], Clip],
    clips: int = SCORED_CLIPS,
    on_clip: Callable[[int], object] = lambda done: None,
) -> dict[str, float]:
    """Return the share of clips, of captions the built-in model never saw, that show colour, scene, motion and shape.

    frames_of: makes the pictures of a prompt and a seed. The scorer reads clips of at least five frames; the figures are
    empty where they are shorter.
    """
    readings = []
    for seed, (subject, caption) in enumerate(held_out_captions(clips)):
        clip = frames_of(caption, seed)
        if len(clip) < _FEWEST_FRAMES:
            return {}
        readings.append((read(clip), subject))
        on_clip(seed + 1)
    return {f"{name}_shown": round(share, 4) for name, share in score_readings(readings).items()} | {"clips": clips}


def mean_psnr(first: Sequence[Clip], others: Sequence[Clip]) -> float | None:
    """Return the mean over clips of the peak signal-to-noise ratio in dB, 100 for equal ones; None where sizes differ."""
    if not first or len(first) != len(others) or any(a.shape != b.shape for a, b in zip(first, others, strict=True)):
        return None
    return float(np.mean([psnr(a, b) for a, b in zip(first, others, strict=True)]))


def psnr(reference: Clip, clip: Clip) -> float:
    """Return the peak signal-to-noise ratio in dB over a whole clip of uint8; at most 100, which equal clips have."""
    error = float(np.square(reference.astype(np.float64) - clip).mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, 10 * math.log10(255**2 / error))
