"""Where a decoder's graph is cut: behind what has to see the whole picture, or behind what has to see the whole clip.

A decoder that takes a latent frame at a time is cut in space: its rear may see a tile of each picture. One that takes all
latents at once is cut in time: its rear may see a window of frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx

from ...core.errors import EngineError, one_line
from .extents import Extent, parse_extent
from .graph import names_read
from .segments import Flow
from .values import Value, propagate

PROBES = (
    {"batch": 1, "frames": 3, "height": 10, "width": 14},
    {"batch": 2, "frames": 5, "height": 22, "width": 26},
)
"""Two sizes to see at which extents of inner values vary, and how. Even, as patches may have it."""
PICTURES, CLIP = "frames", "latents"
"""The output of every decoder; the input of one that takes a whole clip."""
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_MAP_AXES = 5
_TIME = 2
_MOST_PASSED_ON = 2
"""Values that the front hands on: one, and in residual decoders what goes around the next block."""
Probed = Sequence[dict[str, Value]]
"""All values of a graph by name, at each of the probes' sizes."""
Dimensions = tuple[int | str, ...]


def probe(model: Any, name: str) -> Probed:
    """Return all values of a model at each of the probes' sizes. Raises EngineError where its extents are not known."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: extents_of(value) for value in model.graph.input if value.name not in constants}
    return [
        propagate(model, {value: _sizes(extents, sizes, name) for value, extents in inputs.items()}) for sizes in PROBES
    ]


def extents_of(value: Any) -> Dimensions:
    """Return the shape that a graph declares of an input or output, varying extents by name."""
    return tuple(
        int(each.dim_value) if each.HasField("dim_value") else str(each.dim_param)
        for each in value.type.tensor_type.shape.dim
    )


def _sizes(extents: Dimensions, sizes: Mapping[str, int], name: str) -> tuple[int, ...]:
    found: list[int] = []
    for extent in extents:
        parsed = None if isinstance(extent, int) else parse_extent(extent)
        if isinstance(extent, int):
            found.append(extent)
        elif parsed is not None and parsed.name in sizes:
            found.append(parsed.of(sizes[parsed.name]))
        else:
            raise EngineError(f"{one_line(name)} has the extent {one_line(extent)!r}: its parts cannot be told apart")
    return tuple(found)


def place_in_space(flow: Flow, last: int, probed: Probed, name: str) -> int:
    """Return before which step to cut: after the last Attention, as late as what is passed on is as large as just after it.

    The less the rear has to do with its neighbourhood, the less tiles must overlap; what works at the latents' size takes
    little. `decoder_first` and `decoder_next` are cut alike by that, since they differ only where time is upsampled, after
    it. Where the same values are passed on at several places, the first of these is meant. last: the step that is the last
    Attention. Raises EngineError where there is no such place.
    """
    places: dict[tuple[str, ...], int] = {}
    for place, passed_on in _places(flow, probed, _MOST_PASSED_ON):
        if place > last:
            places.setdefault(passed_on, place)
    if not places:
        raise EngineError(
            f"{one_line(name)} cannot be cut after its last Attention: it cannot be decoded in tiles, choose a smaller size"
        )
    shapes = {place: {probed[0][value].shape for value in values} for values, place in places.items()}
    return max(place for place in shapes if shapes[place] == shapes[min(shapes)])


def place_in_time(flow: Flow, last: int, probed: Probed, name: str) -> int:
    """Return before which step to cut: at the end of the last level but one, where the least is passed on, and last of these.

    Levels are told by their frames. All but the last have fewer, and most of what the decoder sees of the clip is seen there:
    one frame of a level reaches as far as two of the next. last: the step that is the last Attention, -1 without.
    Raises EngineError where there is no such place.
    """
    most = growth(PICTURES, probed) or 0
    found = [
        (grown, -probed[0][passed_on[0]].size, place)
        for place, passed_on in _places(flow, probed, 1)
        if place > last and (grown := growth(passed_on[0], probed) or most) < most
    ]
    if not found:
        raise EngineError(
            f"{one_line(name)} has no level with fewer frames that it could be cut behind: it cannot be decoded in windows, "
            "choose a smaller size or fewer frames"
        )
    return max(found)[2]


def dimensions(value: str, probed: Probed) -> list[int | str | None]:
    """Return the extents of an inner value in terms of what the inputs' extents are named after, None where it has none."""
    return [_dimension(sizes) for sizes in zip(*(values[value].shape for values in probed), strict=True)]


def _dimension(sizes: Sequence[int]) -> int | str | None:
    if len(set(sizes)) == 1:
        return sizes[0]
    found: str | None = None
    for extent in PROBES[0]:
        first, second = (sizes[extent] for sizes in PROBES)
        factor, rest = divmod(sizes[1] - sizes[0], second - first)
        less = factor * first - sizes[0]
        # All extents are multiples but those of time, of which the first frame is one picture.
        if not rest and factor > 0 and less in ((0, factor - 1) if extent == "frames" else (0,)):
            found = str(Extent(extent, factor, less))
    return found


def growth(value: str, probed: Probed) -> int | None:
    """Return how many frames of a value there are for each latent frame but the first, None where it has no such number."""
    if len(probed[0][value].shape) != _MAP_AXES:
        return None
    (few, many), (fewer, more) = ([values[value].shape[_TIME] for values in probed], [p["frames"] for p in PROBES])
    grown, rest = divmod(many - few, more - fewer)
    return grown if not rest and few == Extent("frames", grown, grown - 1).of(fewer) else None


def _places(flow: Flow, probed: Probed, most: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the places where nothing but maps that lead to the pictures is passed on, and these, in order.

    most: maps at the most. What the rear reads of the graph's inputs the front does not read.
    """
    leading = _leading_to_pictures(flow)
    for place in sorted(flow.cuts()):
        passed_on = flow.passed_on(place)
        apart = not flow.inputs_read(0, place) & flow.inputs_read(place, len(flow.steps))
        if 0 < len(passed_on) <= most and apart and _are_maps(passed_on, leading, probed):
            yield place, passed_on


def _are_maps(values: Iterable[str], leading: set[str], probed: Probed) -> bool:
    return all(value in leading and _is_map(value, probed) for value in values)


def _leading_to_pictures(flow: Flow) -> set[str]:
    """Return the values that the pictures depend on; states alone may depend on others."""
    leading = {PICTURES}
    for node in reversed(flow.steps):
        if leading.intersection(node.output):
            leading.update(names_read(node))
    return leading


def _is_map(value: str, probed: Probed) -> bool:
    """Return whether a value can be cut into tiles: [batch, channels, time, height, width] by any factor."""
    extents = [str(extent).partition("*") for extent in dimensions(value, probed)]
    named = [name for name, _, _ in extents]
    same_factor = extents[-1][2] == extents[-2][2] if len(extents) == _MAP_AXES else False
    return probed[0][value].element in _FLOATS and named[3:] == ["height", "width"] and same_factor
