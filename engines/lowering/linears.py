"""Quantized linears to integer products: `MatMul` with a dequantized int8 weight becomes `MatMulIntegerToFloat`.

Activations are quantized to unsigned bytes, which is what x86's dot-product instructions multiply with signed weights;
signed activations would run on a path 13 times slower.

- static: a QuantizeLinear/DequantizeLinear pair before the MatMul says scale and zero point;
- dynamic: each token (row of the input) gets a scale of its own at every run, the least under which it fits; of 7 bits instead
  of 8 where the processor adds products up in 16, see ../onnxruntime/byte_products.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..graphs.graph import MICROSOFT, Graph, attributes
from ..options import Activations

LARGEST_SUM = 2**31 // (255 * 128)
"""Number of products of an unsigned and a signed byte that an int32 holds for certain."""
ZERO_POINTS = {8: (128, 24), 7: (64, 12)}
"""Of dynamic activations, by their bits: in general, and after Gelu, which is never below -0.17, so that most bytes are of use
above zero. Of 7 bits, two products with signed bytes add up within 16: 127·128·2 < 2**15."""
SMALLEST_SCALE = np.float32(1e-30)
"""A row of zeros would otherwise be divided by zero."""
_WEIGHT_NAMES = {
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.UINT4: "uint4",
    onnx.TensorProto.FLOAT8E4M3FN: "float8",
}


@dataclass(frozen=True)
class _Int8Weight:
    """Names of an int8 weight [K, N] and of its scale ([N] or scalar), and K."""

    values: str
    scale: str
    rows: int


@dataclass(frozen=True)
class _StaticActivation:
    """Names of a value, of the scale it is quantized with, and the zero point as an unsigned byte."""

    value: str
    scale: str
    zero_point: int


def lower_linears(graph: Graph, activations: Activations, bits: int = 8) -> dict[str, int]:
    """Rewrite the quantized linears of a graph; return the number of each kind, those left to ONNX Runtime included.

    bits: of dynamic activations, 8 or 7.
    """
    counts: dict[str, int] = {}
    for position, node in graph.find("MatMul"):
        dequantized = graph.maker(node.input[1])
        if dequantized is None or dequantized.op_type != "DequantizeLinear":
            continue
        weight = _int8_weight(graph, dequantized)
        static = _static_activation(graph, node.input[0])
        if weight is not None and static is not None:
            graph.replace(position, _static_linear(graph, node, weight, static))
            kind = "int8 linear, static"
        elif weight is not None and activations == "dynamic":
            graph.replace(position, _dynamic_linear(graph, node, weight, bits))
            kind = "int8 linear, dynamic" if bits == 8 else f"int8 linear, dynamic, {bits} bits"
        else:
            stored = graph.constant(dequantized.input[0])
            if stored is None:
                continue
            kind = f"{_WEIGHT_NAMES.get(stored.data_type, 'quantized')} weights, {activations} activations"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _int8_weight(graph: Graph, dequantized: Any) -> _Int8Weight | None:
    """Return the weight where it is symmetric int8, one scale for each output or one for all."""
    values, scale = (graph.constant(name) for name in dequantized.input[:2])
    given = attributes(dequantized)
    if values is None or scale is None or len(values.dims) != 2 or given.get("block_size", 0):
        return None
    rows, columns = values.dims
    per_tensor = list(scale.dims) in ([], [1])
    per_output = list(scale.dims) == [columns] and given.get("axis", 1) in (1, -1)
    float32 = scale.data_type == onnx.TensorProto.FLOAT
    whole = values.data_type == onnx.TensorProto.INT8 and rows <= LARGEST_SUM
    if not (per_tensor or per_output) or not float32 or not whole or not _is_symmetric(graph, dequantized):
        return None
    return _Int8Weight(values.name, scale.name, rows)


def _is_symmetric(graph: Graph, node: Any) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return True
    zero = _small_values(graph, node.input[2])
    return zero is not None and not zero.any()


def _small_values(graph: Graph, name: str) -> Any | None:
    """Return the values of a constant that lies in the graph itself."""
    tensor = graph.constant(name)
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return onnx.numpy_helper.to_array(tensor)


def _static_activation(graph: Graph, name: str) -> _StaticActivation | None:
    """Return what a value is quantized from, where it comes from a pair with one byte-sized scale for all of it."""
    dequantized = graph.maker(name)
    if dequantized is None or dequantized.op_type != "DequantizeLinear":
        return None
    quantized = graph.maker(dequantized.input[0])
    if quantized is None or quantized.op_type != "QuantizeLinear" or len(quantized.input) < 3:
        return None
    if list(quantized.input[1:]) != list(dequantized.input[1:]):
        return None
    scale, zero = graph.constant(quantized.input[1]), _small_values(graph, quantized.input[2])
    if scale is None or list(scale.dims) not in ([], [1]) or scale.data_type != onnx.TensorProto.FLOAT:
        return None
    if zero is None or zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    shift = 128 if zero.dtype == np.int8 else 0
    return _StaticActivation(quantized.input[0], scale.name, int(zero.reshape(())) + shift)


def _static_linear(graph: Graph, node: Any, weight: _Int8Weight, given: _StaticActivation) -> list[Any]:
    zero = graph.add_constant(f"byte_{given.zero_point}", np.array(given.zero_point, np.uint8))
    nodes = []
    key = ("static", given.value, given.scale, zero)
    quantized = graph.shared(*key)
    if quantized is None:
        quantized = graph.new_name(f"{given.value}_bytes")
        graph.share(quantized, *key)
        nodes.append(onnx.helper.make_node("QuantizeLinear", [given.value, given.scale, zero], [quantized]))
    inputs = [quantized, weight.values, given.scale, weight.scale, zero]
    nodes.append(_product(node, inputs, node.output[0]))
    return nodes


def _dynamic_linear(graph: Graph, node: Any, weight: _Int8Weight, bits: int) -> list[Any]:
    value = node.input[0]
    quantized, scale = (graph.shared(part, value) for part in ("dynamic bytes", "dynamic scale"))
    maker = graph.maker(value)
    middle, after_gelu = ZERO_POINTS[bits]
    zero_point = after_gelu if maker is not None and maker.op_type == "Gelu" else middle
    nodes = []
    if quantized is None or scale is None:
        quantized, scale = graph.new_name(f"{value}_bytes"), graph.new_name(f"{value}_scale")
        graph.share(quantized, "dynamic bytes", value)
        graph.share(scale, "dynamic scale", value)
        nodes = _quantize_rows(graph, value, weight.rows, (2**bits - 1, zero_point), quantized, scale)
    one = graph.add_constant("one", np.array(1, np.float32))
    zero = graph.add_constant(f"byte_{zero_point}", np.array(zero_point, np.uint8))
    product = graph.new_name(f"{node.output[0]}_unscaled")
    nodes.append(_product(node, [quantized, weight.values, one, weight.scale, zero], product))
    nodes.append(onnx.helper.make_node("Mul", [product, scale], [node.output[0]]))
    return nodes


def _product(node: Any, inputs: list[str], output: str) -> Any:
    return onnx.helper.make_node("MatMulIntegerToFloat", inputs, [output], name=node.name, domain=MICROSOFT)


def _quantize_rows(
    graph: Graph, value: str, width: int, limits: tuple[int, int], quantized: str, scale: str
) -> list[Any]:
    """Return nodes that make `quantized`, uint8 of the value's shape [..., width], and `scale` [..., 1].

    limits: the largest byte, and the zero point. scale = max(max(row) / (largest - zero_point), -min(row) / zero_point);
    quantized = round(row / scale) + zero_point, ties to even. QuantizeLinear takes scales along one axis, so it sees all
    leading axes as one.
    """

    def name(part: str) -> str:
        return graph.new_name(f"{value}_{part}")

    largest, zero_point = limits
    last = graph.add_constant("last_axis", np.array([-1], np.int64))
    flat = graph.add_constant("flat", np.array([-1], np.int64))
    by_row = graph.add_constant(f"rows_of_{width}", np.array([-1, width], np.int64))
    per_level_above = graph.add_constant(f"above_{zero_point}", np.array(1 / (largest - zero_point), np.float32))
    per_level_below = graph.add_constant(f"below_{zero_point}", np.array(-1 / zero_point, np.float32))
    smallest = graph.add_constant("smallest_scale", np.array(SMALLEST_SCALE))
    zero = graph.add_constant(f"byte_{zero_point}", np.array(zero_point, np.uint8))
    highest, lowest, above, below = map(name, ("highest", "lowest", "above", "below"))
    row_scales, row_count, row_zeros = map(name, ("row_scales", "row_count", "row_zeros"))
    rows, row_bytes, shape = map(name, ("rows", "row_bytes", "shape"))
    make = onnx.helper.make_node
    return [
        make("ReduceMax", [value, last], [highest], keepdims=1),
        make("ReduceMin", [value, last], [lowest], keepdims=1),
        make("Mul", [highest, per_level_above], [above]),
        make("Mul", [lowest, per_level_below], [below]),
        make("Max", [above, below, smallest], [scale]),
        make("Reshape", [scale, flat], [row_scales]),
        make("Shape", [row_scales], [row_count]),
        make("Expand", [zero, row_count], [row_zeros]),
        make("Reshape", [value, by_row], [rows]),
        make("QuantizeLinear", [rows, row_scales, row_zeros], [row_bytes], axis=0),
        make("Shape", [value], [shape]),
        make("Reshape", [row_bytes, shape], [quantized]),
    ]
