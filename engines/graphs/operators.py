"""Which operators a graph may have: those that export, quantizing and lowering write, and none that hold other graphs.

A bundle comes from anywhere, and a Loop of 2^62 trips is a few bytes. The graph's bytes are walked without the onnx package;
field numbers are those of onnx.proto. Weights lie elsewhere, so that this takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.errors import EngineError, one_line

MICROSOFT = "com.microsoft"
_STANDARD = frozenset((
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Attention", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvInteger", "ConvTranspose", "Cos", "CumSum",
    "DepthToSpace", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand",
    "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "Greater",
    "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "IsInf",
    "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "MatMulInteger",
    "Max", "MaxPool", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow",
    "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Resize", "RotaryEmbedding", "Round", "ScatterElements", "ScatterND", "Selu", "Shape", "Sigmoid", "Sign",
    "Sin", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Swish", "Tanh", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
))  # fmt: skip
_CONTRIBUTED = frozenset((
    "BiasGelu", "DynamicQuantizeMatMul", "FastGelu", "FusedMatMul", "Gelu", "GroupNorm", "GroupQueryAttention",
    "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "QuickGelu", "RotaryEmbedding",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
))  # fmt: skip
_ALLOWED = {"": _STANDARD, "ai.onnx": _STANDARD, MICROSOFT: _CONTRIBUTED}

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_ENDS = 1, (11, 12)
_VALUE_NAME = 1
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11


def check_operators(content: bytes, name: str) -> None:
    """Raise EngineError where a serialized model is damaged, or has what no graph of a bundle needs. name: for messages."""
    try:
        found = set(_operators(content))
    except (IndexError, ValueError) as error:
        raise EngineError(f"cannot open {one_line(name)}: not an ONNX model: {error}") from error
    for domain, operator in sorted(found):
        if operator not in _ALLOWED.get(domain, ()):
            full = f"{domain}.{operator}" if domain else operator
            raise EngineError(
                f"cannot open {one_line(name)}: it has {one_line(full[:80])}, which is none of the operators that "
                "edgereel's graphs are made of: export the model again"
            )


def declared_names(content: bytes) -> set[str]:
    """Return the names of a serialized model's inputs and outputs, constants that are listed among inputs included."""
    names: set[str] = set()
    for field, start, end in _fields(content, 0, len(content)):
        for inner, first, last in _fields(content, start, end) if field == _MODEL_GRAPH else ():
            if inner in _GRAPH_ENDS:
                names.update(
                    content[begin:stop].decode()
                    for key, begin, stop in _fields(content, first, last)
                    if key == _VALUE_NAME
                )
    return names


def _operators(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield (domain, operator) of every node. Raises ValueError and IndexError where the bytes are no model."""
    for field, start, end in _fields(content, 0, len(content)):
        if field == _MODEL_FUNCTIONS:
            yield "", "a function"
        elif field == _MODEL_TRAINING:
            yield "", "a training graph"
        elif field == _MODEL_GRAPH:
            for inner, first, last in _fields(content, start, end):
                if inner == _GRAPH_NODE:
                    yield from _of_node(content, first, last)


def _of_node(content: bytes, start: int, end: int) -> Iterator[tuple[str, str]]:
    operator = domain = b""
    for field, first, last in _fields(content, start, end):
        if field == _NODE_OPERATOR:
            operator = content[first:last]
        elif field == _NODE_DOMAIN:
            domain = content[first:last]
        elif field == _NODE_ATTRIBUTE and any(
            inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) for inner, _, _ in _fields(content, first, last)
        ):
            yield "", "a graph within a node"
    yield domain.decode(), operator.decode()


def _fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, first byte, end) of the fields of a message that hold bytes, passing over numbers."""
    while position < end:
        key = content[position]
        position += 1
        if key > 127:
            key, position = _number(content, position - 1)
        kind = key & 7
        if kind == 2:
            size = content[position]
            position += 1
            if size > 127:
                size, position = _number(content, position - 1)
            first, position = position, position + size
            if position > end:
                break
            yield key >> 3, first, position
        elif kind == 0:
            while content[position] > 127:
                position += 1
            position += 1
        elif kind == 1:
            position += 8
        elif kind == 5:
            position += 4
        else:
            raise ValueError(f"unknown wire type {kind}")
    if position != end:
        raise ValueError("a field runs past the end of its message")


def _number(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than 10 bytes")
