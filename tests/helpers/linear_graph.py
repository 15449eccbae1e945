"""Write a small ONNX graph with two linears of one input, as export writes them, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper


def write_linear_graph(folder: Path, *, inputs: int = 48, outputs: int = 40, seed: int = 0) -> dict[str, Any]:
    """Write graph.onnx and graph.data; return the float32 weights [K, N], the bias of the second linear, and the path.

    `first` is a MatMul whose weight is bfloat16 behind a Cast, `second` a Gemm with a transposed float32 weight.
    """
    generator = np.random.default_rng(seed)
    first = generator.standard_normal((inputs, outputs)).astype(ml_dtypes.bfloat16)
    second = generator.standard_normal((outputs, inputs)).astype(np.float32)
    bias = generator.standard_normal(outputs).astype(np.float32)
    data, tensors = b"", []
    for name, array, kind in (("w1", first, TensorProto.BFLOAT16), ("w2", second, TensorProto.FLOAT)):
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        places = {"location": "graph.data", "offset": len(data), "length": array.nbytes}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        data += array.tobytes() + bytes(-array.nbytes % 4096)
    tensors.append(onnx.numpy_helper.from_array(bias, "bias"))
    nodes = [
        helper.make_node("Cast", ["w1"], ["w1_float32"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w1_float32"], ["a"], name="blocks.0.first"),
        helper.make_node("Gemm", ["x", "w2", "bias"], ["b"], name="blocks.0.second", transB=1),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    shape = ["T", inputs]
    body = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", outputs])],
        tensors,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    (folder / "graph.data").write_bytes(data)
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    return {
        "path": folder / "graph.onnx",
        "first": first.astype(np.float32),
        "second": np.ascontiguousarray(second.T),
        "bias": bias,
    }
