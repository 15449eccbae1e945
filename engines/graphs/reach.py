"""How far a decoder's rear sees in time: the frames beside its own that a picture depends on. Imports `onnx` as it loads."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import onnx

from ...core.errors import EngineError, one_line
from ..options import Window
from .graph import attributes, names_read
from .places import PICTURES, growth, probe
from .segments import interface_of

_FRAME_BY_FRAME = frozenset((
    "Abs", "Add", "Cast", "CastLike", "Clip", "Concat", "Constant", "Div", "Erf", "Exp", "Expand", "Gather", "Gelu", "Identity",
    "LayerNormalization", "Max", "Min", "Mul", "Neg", "Pow", "RMSNormalization", "Reciprocal", "ReduceMean",
    "ReduceSum", "ReduceSumSquare", "ReduceL2", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Split", "Sqrt", "Squeeze",
    "Sub", "Swish", "Tanh", "Tile", "Transpose", "Unsqueeze",
))  # fmt: skip
"""Operators that, as decoders use them, mix no frames: norms run over channels. Export proves each rear it makes in windows."""


def window_of(rear: bytes, name: str) -> Window:
    """Return what a rear that takes frames of a whole clip needs. name: the graph's, for messages.

    Raises EngineError where that cannot be told: it has an operator that may see all frames at once.
    """
    model = onnx.ModelProto.FromString(rear)
    (taken,) = interface_of(rear).inputs
    probed = probe(model, name)
    kernels = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    start, end = growth(taken, probed), growth(PICTURES, probed)
    if start is None or end is None or end % start:
        raise EngineError(f"{one_line(name)} makes {end} pictures of {start} frames: it cannot be decoded in windows")
    seen = {taken: Fraction(0)}
    for node in model.graph.node:
        reached = [seen[value] for value in names_read(node) if value in seen]
        if not reached:
            continue
        more = Fraction(0)
        if node.op_type == "Conv":
            more = _of_convolution(node, kernels, growth(node.output[0], probed), start)
        elif node.op_type not in _FRAME_BY_FRAME:
            raise EngineError(
                f"{one_line(name)} has {one_line(node.op_type)}, which may see all frames at once: it cannot be decoded in windows"
            )
        seen.update(dict.fromkeys(node.output, max(reached) + more))
    return Window(max(1, ceil(seen.get(PICTURES, 0))), start, end // start)


def _of_convolution(node: Any, kernels: dict[str, tuple[int, ...]], grown: int | None, start: int) -> Fraction:
    """Return the frames, as the rear takes them, to each side of one that a convolution in time and space sees."""
    given = attributes(node)
    kernel, dilations = kernels.get(node.input[1], ()), given.get("dilations") or [1, 1, 1]
    strides = given.get("strides") or [1, 1, 1]
    if len(kernel) != 5 or strides[0] != 1 or grown is None:
        raise EngineError(
            f"the convolution {one_line(node.name)} changes the number of frames: no windows are possible"
        )
    return Fraction(kernel[2] // 2 * int(dilations[0]) * start, grown)
