"""What an engine's products calculate in, from what TensorRT's engine inspector tells of it. Pure functions over text.

The inspector's JSON lists layers with the types of what goes in and comes out; the spelling differs by version
(`Format/Datatype` with a sentence until 10, `DataType` and `Format` apart from 11 on) and both are read. Layers whose
inside TensorRT does not show are counted apart: of those nothing is claimed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from ...core.errors import EngineError
from ..compiled.facts import UNKNOWN, CompiledAttention, CompiledGraph, CompiledKernel, CompiledProduct
from ..options import Compute

OPAQUE = "opaque"
"""Counted for layers that stand for many, of which the inspector tells the edges only."""

# In this order: `BFloat16` holds `Float`, and "Row major Int8 format" must not be looked for as a float.
_SPELLINGS = (
    (re.compile(r"bf16|bfloat16|bfloat", re.I), "bfloat16"),
    (re.compile(r"fp16|half|float16", re.I), "float16"),
    (re.compile(r"fp8|e4m3|e5m2|float8", re.I), "float8"),
    (re.compile(r"fp4|e2m1|float4", re.I), "float4"),
    (re.compile(r"int8", re.I), "int8"),
    (re.compile(r"int4", re.I), "int4"),
    (re.compile(r"int64", re.I), "int64"),
    (re.compile(r"int32", re.I), "int32"),
    (re.compile(r"bool", re.I), "bool"),
    (re.compile(r"fp32|float", re.I), "float32"),
)
_FLOATS = ("float16", "bfloat16", "float32")
_TOLERATED = 0.05
_NARROW = ("int8", "float8", "int4", "float4")
_PRODUCTS = re.compile(r"gemm|conv|matrix_?multiply|matmul|\bfc\b|fully_?connected|attention|mha", re.I)
# Kernels tell themselves by their tactic, also where a fusion has another name.
_TACTICS = re.compile(r"gemm|fprop|dgrad|fmha|_mha|xmma", re.I)
_ATTENTION = re.compile(r"attention|mha", re.I)
_NODE = re.compile(r"\[ONNX Layer: ")
_OPAQUE = re.compile(r"myelin|foreignnode", re.I)


def product_types(information: str) -> Counter[str]:
    """Return how many layers multiply matrices or convolve, by what they calculate in, from the inspector's JSON.

    A key is `float32`, `float16`, `bfloat16`, a narrow type (`int8`, `float8`, `int4`, `float4`) where both factors have it,
    a float with `(int8 weights)` and the like where one has, `unknown`, or OPAQUE. Raises ValueError where the text is not
    the inspector's, or tells names only, as it does for engines that were built without ProfilingVerbosity.DETAILED.
    """
    counts: Counter[str] = Counter()
    for layer in _layers(information):
        if _OPAQUE.search(_kind(layer)):
            counts[OPAQUE] += 1
        elif _is_product(layer):
            counts[_calculates_in(layer)] += 1
    return counts


def compiled_of(information: str, source: str, card: str) -> CompiledGraph:
    """Return what the inspector's JSON tells of an engine. source: who compiled it. card: for which compute capability.

    It tells no memory and no accumulators: those of bfloat16 are float32 in all of NVIDIA's kernels, of others nothing is
    claimed. Raises ValueError as `product_types`.
    """
    attention: Counter[tuple[str, str, str, str]] = Counter()
    products: Counter[tuple[str, tuple[str, str], str]] = Counter()
    examples: dict[tuple[str, tuple[str, str], str], str] = {}
    kernels: dict[str, list[int]] = {}
    for layer in _layers(information):
        name = str(layer.get("Name", ""))
        tactic = str(layer.get("TacticName", "")) or _kind(layer)
        nodes = len(_NODE.findall(str(layer.get("Metadata", "")))) or 1
        counted = kernels.setdefault(_kind(layer) or UNKNOWN, [0, 0])
        counted[0] += 1
        counted[1] += nodes
        if not _is_product(layer) or _OPAQUE.search(_kind(layer)):
            continue
        given = [_type_of(tensor) for tensor in _dicts(layer.get("Inputs"))]
        given += [_type_of(layer[weights]) for weights in ("Weights",) if isinstance(layer.get(weights), dict)]
        first, second = (*given, UNKNOWN, UNKNOWN)[:2]
        if _ATTENTION.search(f"{_kind(layer)} {tactic}"):
            summed = "float32" if first == "bfloat16" else UNKNOWN
            attention[tactic, first, summed, summed] += 1
            continue
        made = next((_type_of(tensor) for tensor in _dicts(layer.get("Outputs"))), UNKNOWN)
        key = ("convolution" if "conv" in _kind(layer).lower() else "gemm", (first, second), made)
        products[key] += 1
        examples.setdefault(key, name)
    return CompiledGraph(
        source=source,
        card=card,
        plan_bytes=0,
        attention=tuple(CompiledAttention(*facts, count) for facts, count in sorted(attention.items())),
        products=tuple(CompiledProduct(*key, count, examples[key]) for key, count in products.most_common()),
        kernels=tuple(CompiledKernel(kind, count, nodes, None) for kind, (count, nodes) in sorted(kernels.items())),
        held=(),
        held_bytes=None,
    )


def _layers(information: str) -> list[dict[str, Any]]:
    """Return the layers in the inspector's JSON. Raises ValueError where it tells none, or names alone."""
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("the engine inspector's answer is not JSON with layers") from error
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ValueError("the engine inspector tells layer names only")
    return layers


def _kind(layer: dict[str, Any]) -> str:
    return str(layer.get("LayerType", ""))


def _is_product(layer: dict[str, Any]) -> bool:
    return bool(_PRODUCTS.search(_kind(layer)) or _TACTICS.search(str(layer.get("TacticName", ""))))


def describe_precision(counts: Counter[str]) -> str:
    """Return in words what the products calculate in, the most frequent type first; `unknown` where nothing tells."""
    known = Counter({name: count for name, count in counts.items() if name not in (OPAQUE, "unknown")})
    if not known:
        return "unknown"
    (first, _), *rest = known.most_common()
    if not rest:
        return first
    total = sum(known.values())
    return f"{first} ({', '.join(f'{count} of {total} layers {name}' for name, count in rest)})"


def describe_attention(information: str) -> str:
    """Return in words what a reader of "float16" would not expect of an engine's attention, "" for nothing or where untold.

    NVIDIA's fused kernels for float16 sum at least the second of attention's products in float16.
    """
    try:
        compiled = compiled_of(information, "", "")
    except ValueError:
        return ""
    count = sum(each.count for each in compiled.attention if each.operands == "float16")
    return f"{count} of attention in float16, summed in float16" if count else ""


def check_precision(built: Counter[str], graph: Counter[str], compute: Compute) -> None:
    """Raise EngineError where clearly more products calculate in float32 than the graph has so, and `compute` is narrower.

    graph: what the parsed network's products have as their first input. A builder that does not know a flag, or holds a type
    for slow, builds float32 and says nothing; that must not pass for float16. Layers are fused and at times split, so the
    numbers need not be the same: one layer in twenty is let pass, and is in the report.
    """
    total = sum(built.values())
    if compute != "float32" and built["float32"] - graph["float32"] > total * _TOLERATED:
        raise EngineError(
            f"TensorRT was asked for {compute} and built {built['float32']} of {total} product layers in float32, the "
            f"graph has {graph['float32']} so: the card may have no fast {compute}; ask for float32"
        )


def _calculates_in(layer: dict[str, Any]) -> str:
    types = [_type_of(tensor) for tensor in _dicts(layer.get("Inputs"))]
    types += [_type_of(layer[weights]) for weights in ("Weights",) if isinstance(layer.get(weights), dict)]
    if not any(name in _FLOATS + _NARROW for name in types):
        types = [_type_of(tensor) for tensor in _dicts(layer.get("Outputs"))]
    narrow = [name for name in types if name in _NARROW]
    wide = next((name for name in _FLOATS if name in types), "")
    if len(narrow) > 1 or (narrow and not wide):
        return narrow[0]
    if narrow:
        return f"{wide} ({narrow[0]} weights)"
    return wide or "unknown"


def _type_of(tensor: dict[str, Any]) -> str:
    texts = [str(text) for key, text in tensor.items() if key.lower() in ("datatype", "format/datatype", "type")]
    texts += [str(text) for key, text in tensor.items() if key.lower() == "format"]
    for text in texts:
        for pattern, name in _SPELLINGS:
            if pattern.search(text):
                return name
    return "unknown"


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
