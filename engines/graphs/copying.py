"""A graph that copies one tensor, for engines that have no other way to copy within a device. Imports `onnx` as it loads."""

from __future__ import annotations

import onnx

_TYPES = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}
_OPSET, _IR = 13, 10


def copying_graph(dtype: str) -> bytes:
    """Return a serialized graph whose output `copied` is its input `given`, of any extent. dtype: float32 or float16."""
    values = [onnx.helper.make_tensor_value_info(name, _TYPES[dtype], ["n"]) for name in ("given", "copied")]
    node = onnx.helper.make_node("Identity", ["given"], ["copied"])
    graph = onnx.helper.make_graph([node], "copy", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR)
    content: bytes = model.SerializeToString()
    return content
