"""Graphs that calculate in bfloat16, which ONNX Runtime's CPU provider does not, made to calculate in float32 instead."""

from __future__ import annotations

import onnx

FLOAT, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16


def bfloat16_in_float32(content: bytes) -> bytes:
    """Return a serialized model of which every conversion to bfloat16 is one to float32. Weights in bfloat16 stay."""
    model = onnx.ModelProto.FromString(content)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == BFLOAT16:
                attribute.i = FLOAT
    return model.SerializeToString()
