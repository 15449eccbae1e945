"""Choosing which linears stay in high precision: those whose bytes buy the most quality of the finished frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from ..core.errors import QualityError
from .trials import SquaredErrors, mean_decibels

SENSITIVE = (
    "patch_embedding",
    "condition_embedder.*",
    "proj_in",
    "proj_out",
    "time_embed.*",
    "caption_projection.*",
)
"""Layers of Wan and LTX that published quantizations leave alone, beside the first and last blocks."""
SENSITIVE_SHARE = 3 / 40
"""Of the blocks, at either end: three of Wan's forty."""
MOST_CHOICES = 8
"""How many whole choices are measured at most, but for that of every layer."""
_MARGIN = 0.1
_BLOCK = re.compile(r"(?:^|\.)(?:transformer_)?blocks?\.(\d+)\.")

Layer = tuple[str, str]
"""Name of a graph and name of a linear in it."""


@dataclass(frozen=True)
class Effect:
    """What quantizing one layer alone costs and saves."""

    errors: SquaredErrors
    saved_bytes: int


@dataclass(frozen=True)
class KeptLayers:
    """kept: the layers that stay as they are. psnr_db: measured with all others quantized. tried: number of such measurements."""

    kept: frozenset[Layer]
    psnr_db: float
    tried: int


def sensitive_layers(names: Iterable[str]) -> set[str]:
    """Return the layers known to suffer most: SENSITIVE ones, and the first and last blocks, scaled to the depth."""
    listed = list(names)
    blocks = {name: int(found.group(1)) for name in listed if (found := _BLOCK.search(name))}
    depth = max(blocks.values(), default=-1) + 1
    ends = max(1, round(depth * SENSITIVE_SHARE))
    at_an_end = {name for name, block in blocks.items() if block < ends or block >= depth - ends}
    return at_an_end | {name for name in listed if any(fnmatchcase(name, pattern) for pattern in SENSITIVE)}


def choose_kept(
    effects: Mapping[Layer, Effect],
    others: Sequence[float],
    start: Iterable[Layer],
    budget_db: float,
    measure: Callable[[frozenset[Layer]], SquaredErrors],
    most_bytes: int,
) -> KeptLayers:
    """Return the cheapest choice found whose clips are at least `budget_db` from the source's.

    What layers do to the squared error of frames is taken to add up, which chooses; then the choice is measured as a
    whole, and where it is not as predicted, the prediction is moved and the choice made again.

    effects: of every layer that may be kept or not. others: squared errors by clip of what is quantized in any case.
    start: layers to begin with. measure: returns the squared errors with all but the kept layers quantized. most_bytes: how
    much the kept layers may cost. Raises QualityError where no choice meets the budget within those bytes.
    """
    measured: dict[frozenset[Layer], float] = {}

    def decibels_of(kept: frozenset[Layer]) -> float:
        if kept not in measured:
            measured[kept] = mean_decibels(measure(kept))
        return measured[kept]

    everything = frozenset(effects)
    target, meeting = budget_db, set[frozenset[Layer]]()
    for _ in range(MOST_CHOICES):
        kept, predicted = _predict(effects, others, frozenset(start) & everything, target)
        actual = decibels_of(kept)
        if actual >= budget_db:
            meeting.add(kept)
        # Where it held, the prediction was perhaps too careful, and less may do.
        moved = budget_db + predicted - actual + _MARGIN
        if abs(moved - target) < _MARGIN or (actual < budget_db and kept == everything):
            break
        target = moved
    if not meeting and decibels_of(everything) < budget_db:
        raise QualityError(
            f"{budget_db:g} dB cannot be met: with every layer of the denoisers kept, the clips are at "
            f"{measured[everything]:.1f} dB: ask for less, or keep the text encoder as it is too"
        )
    best = min(meeting or {everything}, key=lambda kept: _cost(effects, kept))
    if _cost(effects, best) > most_bytes:
        raise QualityError(f"{budget_db:g} dB would take a bundle as large as in fp16: ask for less, or export in fp16")
    return KeptLayers(best, measured[best], len(measured))


def _predict(
    effects: Mapping[Layer, Effect], others: Sequence[float], start: frozenset[Layer], target_db: float
) -> tuple[frozenset[Layer], float]:
    """Return layers to keep and the decibels that their effects promise.

    Keep more, those first whose bytes buy the most decibels, until the target is met; then give up what it does without.
    """
    errors = {layer: np.array(effect.errors) for layer, effect in effects.items()}
    kept = set(start)
    total = np.sum([errors[layer] for layer in effects if layer not in kept] + [np.array(others)], axis=0)

    def decibels_by_byte(layer: Layer) -> float:
        without, with_it = (total, total - errors[layer]) if layer not in kept else (total + errors[layer], total)
        return (mean_decibels(with_it) - mean_decibels(without)) / max(effects[layer].saved_bytes, 1)

    while mean_decibels(total) < target_db and len(kept) < len(effects):
        best = max((layer for layer in effects if layer not in kept), key=decibels_by_byte)
        total = total - errors[best]
        kept.add(best)
    for layer in sorted(kept, key=lambda layer: (decibels_by_byte(layer), layer)):
        if mean_decibels(total + errors[layer]) >= target_db:
            total = total + errors[layer]
            kept.remove(layer)
    return frozenset(kept), mean_decibels(total)


def _cost(effects: Mapping[Layer, Effect], kept: Iterable[Layer]) -> int:
    return sum(effects[layer].saved_bytes for layer in kept)
