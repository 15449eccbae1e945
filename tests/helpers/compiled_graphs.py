"""Small graphs for NVIDIA's compilers: linears, attention and a Gelu, quantized or not, each of which compiles in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

FLOAT = onnx.TensorProto.FLOAT
HEADS, WIDTH = 4, 64
SIZE = HEADS * WIDTH
make_node = onnx.helper.make_node


def write_block(folder: Path, quantized: str = "") -> Path:
    """Write a block's four linears around attention, then a Gelu between two; return its path.

    quantized: "" for float32 weights, `static int8`, `static float8`, `weights int8`.
    """
    random = np.random.default_rng(3)
    nodes: list[Any] = [make_node("RMSNormalization", ["x", "g"], ["n"], axis=-1)]
    tensors = [onnx.numpy_helper.from_array(np.ones(SIZE, np.float32), "g")]

    def linear(name: str, given: str, inputs: int, outputs: int) -> str:
        weight = random.standard_normal((inputs, outputs)).astype(np.float32) / np.sqrt(inputs).astype(np.float32)
        if not quantized:
            tensors.append(onnx.numpy_helper.from_array(weight, f"{name}.weight"))
            nodes.append(make_node("MatMul", [given, f"{name}.weight"], [name], name=name))
            return name
        eight = onnx.TensorProto.FLOAT8E4M3FN if "float8" in quantized else onnx.TensorProto.INT8
        values = random.integers(1, 100, (inputs, outputs), dtype=np.int8)  # bytes that are numbers in either type
        tensors.append(
            onnx.TensorProto(name=f"{name}.q", data_type=eight, dims=values.shape, raw_data=values.tobytes())
        )
        tensors.append(onnx.numpy_helper.from_array(np.full(outputs, 0.01, np.float32), f"{name}.s"))
        nodes.append(make_node("DequantizeLinear", [f"{name}.q", f"{name}.s"], [f"{name}.w"], axis=1))
        if "static" in quantized:
            zero = onnx.TensorProto(name=f"{name}.z", data_type=eight, raw_data=b"\0")
            tensors.extend([onnx.numpy_helper.from_array(np.array(0.02, np.float32), f"{name}.a"), zero])
            nodes.append(make_node("QuantizeLinear", [given, f"{name}.a", f"{name}.z"], [f"{name}.l"]))
            nodes.append(make_node("DequantizeLinear", [f"{name}.l", f"{name}.a", f"{name}.z"], [f"{name}.b"]))
            given = f"{name}.b"
        nodes.append(make_node("MatMul", [given, f"{name}.w"], [name], name=name))
        return name

    read = [linear(name, "n", SIZE, SIZE) for name in ("to_q", "to_k", "to_v")]
    nodes.append(make_node("Attention", read, ["mixed"], name="attention", q_num_heads=HEADS, kv_num_heads=HEADS))
    out = linear("to_out", "mixed", SIZE, SIZE)
    nodes.append(make_node("Add", ["x", out], ["sum"]))
    up = linear("up", "sum", SIZE, 4 * SIZE)
    nodes.append(make_node("Gelu", [up], ["bent"], approximate="tanh"))
    down = linear("down", "bent", 4 * SIZE, SIZE)
    nodes.append(make_node("Add", ["sum", down], ["y"]))
    values = [onnx.helper.make_tensor_value_info(name, FLOAT, ["b", "s", SIZE]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "block", values[:1], values[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    path = folder / "block.onnx"
    path.write_bytes(model.SerializeToString())
    return path
