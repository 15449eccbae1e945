"""Graphs with seeded weights that need no export: a transformer block and a stack of convolutions, as wide as asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

Quantized = Literal["", "static int8", "static float8", "weights int8"]
_FLOAT = onnx.TensorProto.FLOAT
_OPSET = 23
make_node = onnx.helper.make_node


@dataclass(frozen=True)
class BlockSize:
    """heads of 128 features, or of `head`; hidden: features between the two linears behind attention."""

    heads: int
    head: int
    hidden: int

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.heads * self.head


WAN = BlockSize(12, 128, 8960)
"""A block of Wan 2.1 1.3B."""


def write_block(folder: Path, size: BlockSize = WAN, quantized: Quantized = "", seed: int = 3) -> Path:
    """Write a block x [b, s, width] -> y: a norm, four linears around attention, two around a Gelu; return its path.

    quantized: the linears as `edgereel quantize` writes them: int8 or float8 on both sides, or weights alone.
    """
    path = folder / f"block_{size.width}_{size.hidden}_{quantized.replace(' ', '_') or 'plain'}.onnx"
    if path.exists():  # the same for all who ask, and half a minute's work
        return path
    block = _Block(size, quantized, np.random.default_rng(seed))
    read = [block.linear(name, "n", size.width, size.width) for name in ("to_q", "to_k", "to_v")]
    attention = make_node(
        "Attention", read, ["mixed"], name="attention", q_num_heads=size.heads, kv_num_heads=size.heads
    )
    block.nodes.append(attention)
    out = block.linear("to_out", "mixed", size.width, size.width)
    block.nodes.append(make_node("Add", ["x", out], ["sum"]))
    up = block.linear("up", "sum", size.width, size.hidden)
    block.nodes.append(make_node("Gelu", [up], ["bent"], approximate="tanh"))
    down = block.linear("down", "bent", size.hidden, size.width)
    block.nodes.append(make_node("Add", ["sum", down], ["y"]))
    shape: list[int | str] = ["b", "s", size.width]
    return _write(path, block.nodes, block.tensors, shape, shape)


def write_convolutions(folder: Path, channels: int = 192, count: int = 4, seed: int = 5) -> Path:
    """Write x [1, channels, t, h, w] -> y: 3x3x3 convolutions with SiLU between, as a decoder has; return its path."""
    random = np.random.default_rng(seed)
    nodes, tensors = [], []
    given = "x"
    for index in range(count):
        weight = random.standard_normal((channels, channels, 3, 3, 3), dtype=np.float32) / np.sqrt(27 * channels)
        tensors.append(onnx.numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
        made = f"c{index}"
        nodes.append(make_node("Conv", [given, f"w{index}"], [made], name=made, pads=[1] * 6))
        nodes.append(make_node("Sigmoid", [made], [f"s{index}"]))
        given = "y" if index == count - 1 else f"a{index}"
        nodes.append(make_node("Mul", [made, f"s{index}"], [given]))
    shape: list[int | str] = [1, channels, "t", "h", "w"]
    return _write(folder / "convolutions.onnx", nodes, tensors, shape, shape)


class _Block:
    """Nodes and constants so far."""

    def __init__(self, size: BlockSize, quantized: Quantized, random: np.random.Generator) -> None:
        self._quantized, self._random = quantized, random
        self.nodes: list[Any] = [make_node("RMSNormalization", ["x", "g"], ["n"], axis=-1)]
        self.tensors: list[Any] = [onnx.numpy_helper.from_array(np.ones(size.width, np.float32), "g")]

    def linear(self, name: str, given: str, inputs: int, outputs: int) -> str:
        """Add a linear without a bias; return the name of what it makes."""
        if not self._quantized:
            weight = self._random.standard_normal((inputs, outputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
            self.tensors.append(onnx.numpy_helper.from_array(weight, f"{name}.weight"))
            self.nodes.append(make_node("MatMul", [given, f"{name}.weight"], [name], name=name))
            return name
        eight = onnx.TensorProto.FLOAT8E4M3FN if "float8" in self._quantized else onnx.TensorProto.INT8
        values = self._random.integers(
            1, 100, (inputs, outputs), dtype=np.int8
        )  # bytes that are numbers in either type
        stored = onnx.TensorProto(name=f"{name}.q", data_type=eight, dims=values.shape, raw_data=values.tobytes())
        scale = np.full(outputs, 1 / (60 * np.sqrt(inputs)), np.float32)
        self.tensors += [stored, onnx.numpy_helper.from_array(scale, f"{name}.s")]
        self.nodes.append(make_node("DequantizeLinear", [f"{name}.q", f"{name}.s"], [f"{name}.w"], axis=1))
        if "static" in self._quantized:
            zero = onnx.TensorProto(name=f"{name}.z", data_type=eight, raw_data=b"\0")
            self.tensors += [onnx.numpy_helper.from_array(np.array(0.03, np.float32), f"{name}.a"), zero]
            pair = [f"{name}.a", f"{name}.z"]
            self.nodes.append(make_node("QuantizeLinear", [given, *pair], [f"{name}.l"]))
            self.nodes.append(make_node("DequantizeLinear", [f"{name}.l", *pair], [f"{name}.b"]))
            given = f"{name}.b"
        self.nodes.append(make_node("MatMul", [given, f"{name}.w"], [name], name=name))
        return name


def _write(path: Path, nodes: list[Any], tensors: list[Any], given: list[int | str], made: list[int | str]) -> Path:
    x = onnx.helper.make_tensor_value_info("x", _FLOAT, given)
    y = onnx.helper.make_tensor_value_info("y", _FLOAT, made)
    graph = onnx.helper.make_graph(nodes, path.stem, [x], [y], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path
