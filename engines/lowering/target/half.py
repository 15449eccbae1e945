"""Half precision where it pays: products calculate in float16 or bfloat16, everything delicate stays in float32.

A value that a half-precision node makes has its canonical name with the type behind it; a Cast gives it back under its
canonical name where a float32 node, or the graph's output, reads it. A value that is read in half precision more than
once is converted once. So no pair of conversions ever cancels, and a graph inside a node finds what it reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ...graphs.graph import Graph, names_read
from ...graphs.value_types import value_types
from ...options import Compute
from ..targets import Target
from .half_rules import FOLLOWERS, PRODUCTS, stays_float32
from .half_state import give_states, narrow_state
from .older_opset import accepts

FLOAT, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
HALF_TYPES: dict[Compute, int] = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": BFLOAT16}
_SCALES_MAY_BE_HALF = 19
_LARGEST_FLOAT16, _SMALLEST_FLOAT16 = 65504.0, 2.0**-14
_LOWEST_SCORE = -60000.0
"""What a mask's lowest values become in float16, which has no number as low as theirs."""


def lower_precision(model: Any, target: Target, opset: int, compute: Compute) -> dict[str, int]:
    """Rewrite a model in place; return the numbers of nodes in half precision and of conversions added, by name.

    opset: the one that the model will be in when it is done.
    """
    if compute == "float32":
        return {}
    islands = _Islands(model, target, opset, compute)  # first of all: it renames values
    for node in list(model.graph.node):
        islands.take(node)
    islands.finish(model)
    return {f"{compute} node": islands.halves, f"weight to {compute}": islands.weights, "cast": islands.casts}


class _Islands:
    """One walk over the nodes in their order; `nodes` is what they become.

    `_made_in_half`: the half-precision name of what a half-precision node makes, by canonical name. `_read_in_half`: that of
    what such a node reads of float32 makers. `_given_back`: which of the first exist in float32 too. `_constant`: what depends
    on constants alone, so that whoever opens the graph folds it, conversions included.
    """

    def __init__(self, model: Any, target: Target, opset: int, compute: Compute) -> None:
        self.nodes: list[Any] = []
        self.halves = self.weights = self.casts = 0
        self._target, self._opset, self._compute = target, opset, compute
        self._types = value_types(model)
        # numpy has no bfloat16, which the runtime would have to pass on.
        self._given_states, self._made_states = narrow_state(model) if compute == "float16" else ({}, {})
        self._types.update(dict.fromkeys((*self._given_states, *self._made_states), FLOAT))
        self._graph = Graph(model)
        self._half = HALF_TYPES[compute]
        self._made_in_half: dict[str, str] = dict(self._given_states)
        self._read_in_half: dict[str, str] = {}
        self._given_back: set[str] = set()
        self._constant = {tensor.name for tensor in model.graph.initializer}

    def take(self, node: Any) -> None:
        """Add a node in the type it is to calculate in, after the conversions that it needs."""
        if all(name in self._constant for name in node.input if name) and any(node.input):
            self._constant.update(node.output)
        if self._in_half(node):
            self.halves += 1
            self._add_half(node)
            return
        for name in names_read(node):
            self._in_float32(name)
        self.nodes.append(node)

    def finish(self, model: Any) -> None:
        """Give the outputs back in float32, a state in float16, and write the nodes into the model."""
        states = {output: self._value_in_half(within) for within, output in self._made_states.items()}
        give_states(self.nodes, states, self._given_states.values())
        for value in model.graph.output:
            if value.name not in states:
                self._in_float32(value.name)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)

    def _in_half(self, node: Any) -> bool:
        if node.domain not in ("", "ai.onnx") or not self._float_inputs(node):
            return False
        if self._has_no_kernel(node):
            return False
        if not accepts(node.op_type, self._half, self._opset) or stays_float32(node.name, self._compute):
            return False
        if node.op_type == "QuantizeLinear" and not self._scales_may_be_half(node):
            return False
        if node.op_type in PRODUCTS:
            return True
        if not all(self._fits(name) for name in self._float_inputs(node)):
            return False
        if node.op_type in self._target.half_inside:
            return self._compute == "float16" and node.input[0] in self._made_in_half
        varying = [name for name in self._float_inputs(node) if name not in self._constant]
        return node.op_type in FOLLOWERS and bool(varying) and all(name in self._made_in_half for name in varying)

    def _fits(self, name: str) -> bool:
        """Return whether half precision holds a value, as far as that can be told: a constant in the graph itself."""
        tensor = self._graph.constant(name)
        if self._compute != "float16" or tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return True
        largest = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
        return largest == 0 or _SMALLEST_FLOAT16 <= largest < _LARGEST_FLOAT16

    def _has_no_kernel(self, node: Any) -> bool:
        return self._compute == "bfloat16" and node.op_type in self._target.float32_in_bfloat16

    def _scales_may_be_half(self, node: Any) -> bool:
        return self._opset >= _SCALES_MAY_BE_HALF and not self._has_no_kernel(node)

    def _float_inputs(self, node: Any) -> list[str]:
        """Return the float32 values that share the node's type; a Resize's scales, say, do not."""
        read = node.input[:1] if node.op_type in ("Resize", "Expand", "Reshape", "Tile") else node.input
        return [name for name in read if self._types.get(name) == FLOAT]

    def _add_half(self, node: Any) -> None:
        if self._is_bfloat16_attention(node):
            self._add_bfloat16_attention(node)
            return
        converted = set(self._float_inputs(node))
        half = onnx.NodeProto()
        half.CopyFrom(node)
        mask = node.input[3] if node.op_type == "Attention" and len(node.input) > 3 else ""
        inputs = [
            self._mask(name) if name == mask and name in converted
            else self._value_in_half(name) if name in converted
            else name
            for name in node.input
        ]  # fmt: skip
        del half.input[:], half.output[:]
        half.input.extend(inputs)
        for name in node.output:
            if name and self._types.get(name) == FLOAT:
                self._made_in_half[name] = self._new_name(name)
            half.output.append(self._made_in_half.get(name, name))
        self.nodes.append(half)

    def _is_bfloat16_attention(self, node: Any) -> bool:
        """Return whether an Attention of a float16 graph is to be bfloat16: that of a text encoder, which has a mask, is not.

        Its keys are few, and its scores, which are not scaled down, have more digits in float16.
        """
        plain = node.op_type == "Attention" and not any(node.input[3:]) and not any(node.output[1:])
        return plain and self._compute == "float16" and self._target.bfloat16_attention

    def _add_bfloat16_attention(self, node: Any) -> None:
        """Add an Attention in bfloat16 to a graph in float16.

        NVIDIA's fused kernels keep the running output of float16 attention in float16, rounded every 64 keys, and where they
        get the operator whole its scores as well; those for bfloat16 sum in float32.
        """
        attention = onnx.NodeProto()
        attention.CopyFrom(node)
        del attention.input[:]
        attention.input.extend(self._value_in_bfloat16(name) for name in node.input if name)
        attention.output[0] = self._graph.new_name(f"{node.output[0]}_bfloat16")
        self.nodes.append(attention)
        self._made_in_half[node.output[0]] = self._cast(attention.output[0], node.output[0])

    def _value_in_bfloat16(self, name: str) -> str:
        key = f"{name}_bfloat16"
        if key not in self._read_in_half:
            self.casts += 1
            converted = self._read_in_half[key] = self._graph.new_name(key)
            source = self._made_in_half.get(name, name)
            self.nodes.append(onnx.helper.make_node("Cast", [source], [converted], name=converted, to=BFLOAT16))
        return self._read_in_half[key]

    def _value_in_half(self, name: str) -> str:
        if name in self._made_in_half:
            return self._made_in_half[name]
        if name not in self._read_in_half:
            self._read_in_half[name] = self._convert(name)
        return self._read_in_half[name]

    def _convert(self, name: str) -> str:
        maker = self._graph.maker(name)
        if maker is not None and maker.op_type == "DequantizeLinear" and self._scales_may_be_half(maker):
            return self._dequantized(maker)
        if maker is not None and maker.op_type == "Cast":
            stored = self._graph.constant(maker.input[0])
            if stored is not None and stored.data_type in (self._half, BFLOAT16):
                return stored.name if stored.data_type == self._half else self._cast(stored.name, name)
        return self._cast(name, name)

    def _cast(self, source: str, name: str) -> str:
        if name in self._constant:
            self.weights += 1
        else:
            self.casts += 1
        half = self._new_name(name)
        self.nodes.append(onnx.helper.make_node("Cast", [source], [half], name=half, to=self._half))
        return half

    def _dequantized(self, maker: Any) -> str:
        """Return what a DequantizeLinear makes, in half precision by its scale's type."""
        copy = onnx.NodeProto()
        copy.CopyFrom(maker)
        copy.input[1] = self._value_in_half(maker.input[1])
        copy.output[0] = copy.name = self._new_name(maker.output[0])
        self.nodes.append(copy)
        return str(copy.output[0])

    def _mask(self, name: str) -> str:
        """Return what is added to scores; minus infinity on a whole row would make it no number.

        An Attention that will be written out adds it in float32.
        """
        if "Attention" not in self._target.kept:
            self._in_float32(name)
            return name
        if self._compute != "float16" or name in self._made_in_half:
            return self._value_in_half(name)
        key = f"{name}_bounded"
        if key not in self._read_in_half:
            bounded, lowest = self._graph.new_name(key), self._graph.new_name(f"{name}_lowest")
            tensor = onnx.helper.make_tensor(lowest, FLOAT, [], [_LOWEST_SCORE])
            self._graph.add_initializer(tensor)
            self.nodes.append(onnx.helper.make_node("Max", [name, lowest], [bounded], name=bounded))
            self._read_in_half[key] = self._cast(bounded, name)
        return self._read_in_half[key]

    def _in_float32(self, name: str) -> None:
        """Make a value that is made in half precision available under its canonical name."""
        if name not in self._made_in_half or name in self._given_back:
            return
        self._given_back.add(name)
        self.casts += 1
        self.nodes.append(
            onnx.helper.make_node("Cast", [self._made_in_half[name]], [name], name=f"{name}_cast", to=FLOAT)
        )

    def _new_name(self, name: str) -> str:
        return self._graph.new_name(f"{name}_{self._compute}")
