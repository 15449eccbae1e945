"""A small graph of a decoder's kind, to measure an engine by."""

from __future__ import annotations

import numpy as np

from ...core.errors import MissingExtraError
from ...core.interrupts import interrupts_wait

_CHANNELS, _FRAMES, _ROWS = 64, 4, 48
_KERNEL = 3
_LAYERS = 2
PROBE_INPUT = (1, _CHANNELS, _FRAMES + _KERNEL - 1, _ROWS, _ROWS)
"""The shape of its input `x`, float32."""


def probe_flops() -> float:
    """Return the FLOPs of one run of the probe: of its convolutions."""
    return _LAYERS * 2.0 * _CHANNELS**2 * _KERNEL**3 * _FRAMES * _ROWS**2


def probe_graph() -> bytes:
    """Return a graph `y` of `x` of what decoders are made of: norms over channels, SiLU, convolutions over space and time.

    Raises MissingExtraError without onnx.
    """
    try:
        with interrupts_wait():
            from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "openvino", "measuring how fast decoders run") from error

    random, make = np.random.default_rng(1), helper.make_node
    constants = {
        "axes": np.array([1]),
        "floor": np.float32(1e-12),
        "gain": random.standard_normal((_CHANNELS, 1, 1, 1), dtype=np.float32),
        "pads": np.array([0, 0, _KERNEL - 1, 0, 0, 0, 0, 0, 0, 0]),
    }
    nodes, last = [], "x"
    for layer in range(_LAYERS):
        spread = np.float32((_CHANNELS * _KERNEL**3) ** -0.5)
        weight = random.standard_normal((_CHANNELS, _CHANNELS, *[_KERNEL] * 3), dtype=np.float32) * spread
        constants[f"weight_{layer}"] = weight
        name = {part: f"{part}_{layer}" for part in ("length", "held", "unit", "normed", "gate", "active", "padded")}
        made = "y" if layer == _LAYERS - 1 else f"hidden_{layer}"
        if layer:  # as causal convolutions are given the frames before
            nodes.append(make("Pad", [last, "pads"], [name["padded"]]))
            last = name["padded"]
        nodes += [
            make("ReduceL2", [last, "axes"], [name["length"]], keepdims=1),
            make("Clip", [name["length"], "floor"], [name["held"]]),
            make("Div", [last, name["held"]], [name["unit"]]),
            make("Mul", [name["unit"], "gain"], [name["normed"]]),
            make("Sigmoid", [name["normed"]], [name["gate"]]),
            make("Mul", [name["normed"], name["gate"]], [name["active"]]),
            make("Conv", [name["active"], f"weight_{layer}"], [made], pads=[0, 1, 1, 0, 1, 1]),
        ]
        last = made
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, PROBE_INPUT)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, _CHANNELS, _FRAMES, _ROWS, _ROWS])
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "decoder", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    content: bytes = model.SerializeToString()
    return content
