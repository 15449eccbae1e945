"""Optimisation profiles: for which shapes of its inputs an engine is built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...core.errors import EngineError
from ..options import Shapes

Range = tuple[int, int, int]
"""Smallest extent, the one to be fast at, largest."""
Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest shape, the one to be fast at, largest."""

RANGES: Mapping[str, Range] = {
    "batch": (1, 1, 2),
    "tokens": (1, 256, 512),
    "frames": (1, 8, 21),
    "height": (1, 32, 104),
    "width": (1, 32, 104),
    "context": (0, 12, 21),
    "patches": (1, 1560, 104 * 104),
}
"""Of the names that bundles give their varying dimensions; sizes are of latents: 104 is 832 pixels of eight each."""

_TERM = re.compile(r"([A-Za-z_]\w*)(?:\s*\*\s*(\d+))?(?:\s*-\s*(\d+))?")


def fixed_profiles(inputs: Mapping[str, Sequence[int]], shapes: Shapes) -> dict[str, Profile]:
    """Return profiles that hold one shape each, of the inputs that vary.

    inputs: the shape of each input of the graph, -1 where it varies. Raises EngineError where `shapes` lacks one of them,
    names another, or contradicts the graph.
    """
    wanted = dict(shapes)
    if set(wanted) != set(inputs):
        raise EngineError(f"shapes are for the inputs {sorted(wanted)}, the graph has {sorted(inputs)}")
    for name, shape in inputs.items():
        fits = len(wanted[name]) == len(shape)
        fits = fits and all(want == extent or extent < 0 for want, extent in zip(wanted[name], shape, strict=True))
        if not fits or any(extent < 0 for extent in wanted[name]):
            raise EngineError(f"input {name} cannot have shape {list(wanted[name])}: in the graph it is {list(shape)}")
    return {name: (wanted[name],) * 3 for name, shape in inputs.items() if any(extent < 0 for extent in shape)}


def ranged_profiles(
    inputs: Mapping[str, Sequence[int]], names: Mapping[str, Sequence[str]], ranges: Mapping[str, Range]
) -> dict[str, Profile]:
    """Return profiles that hold a range of shapes, of the inputs that vary.

    names: of each input's dimensions, "" where it has none; `height*2` stands for twice the range of `height`,
    `frames*4-3` for as many frames as that makes. Raises
    EngineError for a varying dimension without a range.
    """
    return {
        name: _transposed([_range_of(name, *pair, ranges) for pair in zip(shape, names[name], strict=True)])
        for name, shape in inputs.items()
        if any(extent < 0 for extent in shape)
    }


def _range_of(tensor: str, extent: int, name: str, ranges: Mapping[str, Range]) -> Range:
    if extent >= 0:
        return extent, extent, extent
    term = _TERM.fullmatch(name)
    if term is None or term[1] not in ranges:
        raise EngineError(
            f"input {tensor} has a dimension {name!r} for which there is no range: give the engine the shapes it shall run"
        )
    smallest, usual, largest = (int(term[2] or 1) * each - int(term[3] or 0) for each in ranges[term[1]])
    return smallest, usual, largest


def _transposed(extents: Sequence[Range]) -> Profile:
    smallest, usual, largest = (tuple(extent[place] for extent in extents) for place in range(3))
    return smallest, usual, largest
