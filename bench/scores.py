"""How good a row's clips are, so that its times are not read without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..bundle.reader import Bundle
from ..demo.evaluate import held_out_captions
from ..demo.scorer import Reading, read, score_readings
from ..quality.metrics import Clip, psnr

SAME_DB = 60.0
"""From which clips are the same but for float32's rounding."""
NEAR_DB = 30.0
"""From which clips are the same but for what a smaller type loses."""
SCORED_CLIPS = 24
COMPARED_CLIPS = 2
FEWEST_FRAMES = 5  # that the scorer can read


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
    readings = {}
    for seed, caption in enumerate(default_prompts(clips)):
        clip = frames_of(caption, seed)
        if len(clip) < FEWEST_FRAMES:
            return {}
        readings[seed] = read(clip)
        on_clip(seed + 1)
    return figures_of(readings, clips)


def figures_of(readings: Mapping[int, Reading], captions: int) -> dict[str, float]:
    """Return the shares that readings of clips show, by the number of the caption among so many that were used."""
    subjects = [subject for subject, _ in held_out_captions(captions)]
    shown = score_readings([(reading, subjects[number]) for number, reading in sorted(readings.items())])
    return {f"{name}_shown": round(share, 4) for name, share in shown.items()} | {"clips": len(readings)}


def mean_psnr(first: Sequence[Clip], others: Sequence[Clip]) -> float | None:
    """Return the mean over clips of the peak signal-to-noise ratio in dB, 100 for equal ones; None where sizes differ."""
    if not first or len(first) != len(others) or any(a.shape != b.shape for a, b in zip(first, others, strict=True)):
        return None
    return float(np.mean([psnr(a, b) for a, b in zip(first, others, strict=True)]))
