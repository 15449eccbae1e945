"""A decoder's frames made into pictures on the device: a quarter of the bytes leave it, and no host converts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ...graphs.graph import Graph
from ...options import FRAMES, FRAMES_MEAN, PICTURES

_BATCH, _COLOUR, _TIME, _HEIGHT, _WIDTH = range(5)
_CHANNELS_LAST = [_BATCH, _TIME, _HEIGHT, _WIDTH, _COLOUR]


_NO_FRACTIONS = 2.0**23
"""Float32 numbers from here on are whole: adding it rounds, ties to even, and taking it off again is exact."""


def add_pictures(model: Any, rounds: bool = True) -> int:
    """Replace the output `frames`, float32 [batch, 3, T, H, W] in [-1, 1]; return 1, or 0 where there is none.

    `pictures`, uint8 [batch, T, H, W, 3], is round(255 * (x / 2 + 1/2)) between 0 and 255, ties to even, as diffusers has it.
    rounds: whether the target has a kernel for Round; older releases of ONNX Runtime have none for GPUs.
    `frames_mean`, float32 [], is no number where any value of the frames is none, which bytes cannot tell.
    """
    frames = next((value for value in model.graph.output if value.name == FRAMES), None)
    if frames is None:
        return 0
    graph = Graph(model)
    half, zero, one, levels = (
        graph.add_constant(f"picture_{name}", np.array(value, np.float32))
        for name, value in (("half", 0.5), ("zero", 0), ("one", 1), ("levels", 255))
    )
    value = FRAMES

    def add(op_type: str, *inputs: str, output: str = "", **attributes: Any) -> None:
        nonlocal value
        made = output or graph.new_name(f"{FRAMES}_{op_type.lower()}")
        model.graph.node.append(onnx.helper.make_node(op_type, [value, *inputs], [made], name=made, **attributes))
        value = made

    add("Mul", half)
    add("Add", half)
    add("Clip", zero, one)
    add("Mul", levels)
    if rounds:
        add("Round")
    else:
        whole = graph.add_constant("picture_whole", np.array(_NO_FRACTIONS, np.float32))
        add("Add", whole)
        add("Sub", whole)
    add("Transpose", perm=_CHANNELS_LAST)
    add("Cast", to=onnx.TensorProto.UINT8, output=PICTURES)  # last of all: TensorRT has nothing else that makes bytes
    value = FRAMES
    add("ReduceMean", output=FRAMES_MEAN, keepdims=0)
    pictures = onnx.helper.make_tensor_value_info(PICTURES, onnx.TensorProto.UINT8, [])
    extents = frames.type.tensor_type.shape.dim
    pictures.type.tensor_type.shape.dim.extend(extents[axis] for axis in _CHANNELS_LAST)
    mean = onnx.helper.make_tensor_value_info(FRAMES_MEAN, onnx.TensorProto.FLOAT, [])
    kept = [output for output in model.graph.output if output.name != FRAMES]
    del model.graph.output[:]
    model.graph.output.extend([pictures, mean, *kept])
    return 1
