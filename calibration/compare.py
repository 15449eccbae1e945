"""What was lost: the same prompts, seeds and noise through two bundles, their frames compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..demo.evaluate import held_out_captions
from ..errors import PromptError, UsageError
from ..runtime.progress import Progress, report_progress
from ..runtime.reel import Reel, load

DEFAULT_PROMPTS = 4
MOST_DECIBELS = 100.0
"""What equal frames count as: their PSNR is infinite, and a mean with it would be too."""

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """psnr_db: the mean over clips of each clip's PSNR. clips: that of each, in the order of prompts, then seeds."""

    psnr_db: float
    clips: tuple[float, ...]
    prompts: int
    seeds: int
    steps: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        rounded = {"psnr_db": round(self.psnr_db, 2), "clips": [round(clip, 2) for clip in self.clips]}
        return {**asdict(self), **rounded}


def compare_bundles(
    a: Path,
    b: Path,
    *,
    prompts: Sequence[str] | None,
    seeds: Sequence[int],
    steps: int | None = None,
    engine: str = "auto",
    threads: int | None = None,
    report: Path | None = None,
    budget_db: float | None = None,
    on_progress: Progress | None = None,
) -> Comparison:
    """Return how near the clips of bundle b are to those of bundle a, one bundle in memory at a time.

    prompts: None for some held-out captions of the demo. report and budget_db are for what is still to come.
    """
    total = 0
    clips: dict[Path, list[Frames]] = {}
    for index, path in enumerate((a, b)):
        with load(path, engine=engine, threads=threads, cache=False) as reel:
            texts = list(prompts) if prompts is not None else default_prompts(reel)
            total = 2 * len(texts) * len(seeds)
            clips[path] = []
            for text in texts:
                for seed in seeds:
                    clips[path].append(frames_of(reel, text, seed, steps))
                    done = index * total // 2 + len(clips[path])
                    report_progress(on_progress, "compare", done, total)
    figures = tuple(decibels(squared_error(one, other)) for one, other in zip(clips[a], clips[b], strict=True))
    return Comparison(float(np.mean(figures)), figures, len(texts), len(seeds), steps)


def default_prompts(reel: Reel) -> list[str]:
    """Return a few prompts for who gives none: held-out captions of the demo. Raises UsageError where they do not fit."""
    texts = [caption for _, caption in held_out_captions(DEFAULT_PROMPTS)]
    try:
        for text in texts:
            reel.check_prompt(text)
    except PromptError as error:
        raise UsageError(f"the demo's captions do not fit this model ({error}): give prompts of its own") from error
    return texts


def frames_of(reel: Reel, prompt: str, seed: int, steps: int | None) -> Frames:
    """Return a clip's frames, uint8 [F, H, W, 3]."""
    return np.stack(list(reel.generate(prompt, seed=seed, steps=steps)))


def squared_error(found: Frames, expected: Frames) -> float:
    """Return the mean squared difference of two clips on a scale on which white is 1."""
    return float(np.mean([np.square(a / 255 - b / 255).mean() for a, b in zip(found, expected, strict=True)]))


def decibels(squared: float) -> float:
    """Return the PSNR of a mean squared difference, at most MOST_DECIBELS."""
    return min(MOST_DECIBELS, -10 * float(np.log10(max(squared, 1e-30))))
