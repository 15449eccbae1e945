"""What attention calculates in for NVIDIA's compilers, whose float16 kernels sum in float16: simulated, and in the graphs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from edgereel.engines.lowering.target.rewrite import rewrite_for_target  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402

pytestmark = pytest.mark.lean

FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
make_node = onnx.helper.make_node
BLOCK, PIECE = 64, 16
"""Keys that a fused kernel takes at a time, and products that a tensor core sums before it rounds."""


def model_of(masked=False, heads=2, width=8):
    """Linears around attention: its query comes from a norm, in float32, its key and value from products."""
    random = np.random.default_rng(3)
    size = heads * width
    constants = {name: random.standard_normal((size, size)).astype(np.float32) / 4 for name in ("wk", "wv", "wo")}
    constants["g"] = random.uniform(0.5, 2, size).astype(np.float32)
    nodes = [
        make_node("RMSNormalization", ["x", "g"], ["q"], axis=-1),
        make_node("MatMul", ["x", "wk"], ["k"], name="k"),
        make_node("MatMul", ["x", "wv"], ["v"], name="v"),
        make_node(
            "Attention", ["q", "k", "v", *(["m"] if masked else [])], ["a"], q_num_heads=heads, kv_num_heads=heads
        ),
        make_node("MatMul", ["a", "wo"], ["y"], name="o"),
    ]
    inputs = {"x": ["b", "s", size], **({"m": ["b", 1, "s", "s"]} if masked else {})}
    values = [
        [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, {"y": ["b", "s", size]})
    ]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "main", *values, initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString()


def products(content, target, compute="float16"):
    """Return the lowered model, and the number of products of two values by what they calculate in."""
    made, _ = rewrite_for_target(content, target, compute, "main")
    model = onnx.ModelProto.FromString(made)
    values = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*values.value_info, *values.output)}
    counts = Counter()
    for node in model.graph.node:
        if node.op_type in ("Attention", "MatMul") and node.name not in ("k", "v", "o"):
            counts[types[node.output[0]]] += 1
    return model, counts


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("tensorrt-10.3", 2), ("tensorrt-10.14", 1), ("tensorrt-11.0", 1), ("tensorrt-rtx", 2), ("tensorrt-rtx-1.7", 1)],
)
def test_attention_of_a_float16_graph_is_bfloat16(name, kernels):
    model, counts = products(model_of(), parse_target(name))
    assert counts == {BFLOAT16: kernels}
    # The query comes in float32 and is rounded once; what surrounds attention is float16.
    types = {node.output[0]: node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i == BFLOAT16]
    assert {node.input[0].split("_")[0] for node in casts if node.input[0][0] in "qkv"} == {"q", "k", "v"}
    (query,) = (node for node in casts if node.input[0].startswith("q"))
    assert types.get(query.input[0], FLOAT) == FLOAT


@pytest.mark.parametrize("name", ["tensorrt-8.6", "cuda"])
def test_it_is_not_where_kernels_sum_in_float32_or_have_no_bfloat16(name):
    made, _ = rewrite_for_target(model_of(), parse_target(name), "float16", "main")
    casts = [node for node in onnx.ModelProto.FromString(made).graph.node if node.op_type == "Cast"]
    assert casts
    assert all(node.attribute[0].i != BFLOAT16 for node in casts)


@pytest.mark.parametrize(("name", "kept"), [("cuda-1.31.1", 1), ("cuda-1.30.0", 0), ("cuda", 0)])
def test_bfloat16_attention_stays_whole_where_only_that_is_flash_attention(name, kept):
    """ONNX Runtime's MultiHeadAttention has flash attention for float16 alone."""
    for compute, expected in (("bfloat16", kept), ("float16", 0), ("float32", 0)):
        made, counts = rewrite_for_target(model_of(), parse_target(name), compute, "main")
        kinds = Counter(node.op_type for node in onnx.ModelProto.FromString(made).graph.node)
        assert (kinds["Attention"], kinds["MultiHeadAttention"]) == (expected, 1 - expected)
        assert counts.get("attention", 0) == 1 - expected


@pytest.mark.parametrize(
    ("model", "kinds"), [({"heads": 1, "width": 384}, {"MultiHeadAttention"}), ({"masked": True}, set())]
)
def test_heads_that_are_too_wide_for_it_and_masks_are_as_before(model, kinds):
    made, _ = rewrite_for_target(model_of(**model), parse_target("cuda-1.31"), "bfloat16", "main")
    found = {node.op_type for node in onnx.ModelProto.FromString(made).graph.node}
    assert found & {"Attention", "MultiHeadAttention"} == kinds


def test_it_is_not_where_a_card_has_no_bfloat16():
    _, counts = products(model_of(), replace(parse_target("tensorrt-10.3"), bfloat16_attention=False))
    assert counts == {FLOAT16: 2}


def test_attention_with_a_mask_stays_float16():
    _, counts = products(model_of(masked=True), parse_target("tensorrt-11.0"))
    assert counts == {FLOAT16: 1}


def test_written_out_it_is_the_same_to_bfloat16s_digits():
    from onnx.reference import ReferenceEvaluator

    content = model_of()
    rows = np.random.default_rng().standard_normal((1, 7, 16)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx.ModelProto.FromString(content)).run(None, {"x": rows})
    model, _ = products(content, parse_target("tensorrt-10.3"))
    (found,) = ReferenceEvaluator(model).run(None, {"x": rows})
    assert 1e-4 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 2e-2


def to_float16(array):
    return array.astype(np.float16).astype(np.float32)


def to_bfloat16(array):
    """Round float32 to bfloat16, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def fused_attention(query, key, value, rounded, sums, scores):
    """Return attention as a fused kernel computes it, block by block of keys.

    rounded: into the type of its operands. sums, scores: how the running output and the scores are rounded as they are summed.
    """
    rows = len(query)
    query, key, value = rounded(query), rounded(key), rounded(value)
    highest = np.full((rows, 1), -np.inf, np.float32)
    weight, output = np.zeros((rows, 1), np.float32), np.zeros((rows, value.shape[1]), np.float32)
    for start in range(0, len(key), BLOCK):
        keys, values = key[start : start + BLOCK], value[start : start + BLOCK]
        products = np.zeros((rows, len(keys)), np.float32)
        for piece in range(0, query.shape[1], PIECE):
            products = scores(products + query[:, piece : piece + PIECE] @ keys[:, piece : piece + PIECE].T)
        higher = np.maximum(highest, products.max(axis=1, keepdims=True))
        weights, before = np.exp(products - higher), np.exp(highest - higher) * weight
        mixed = np.zeros_like(output)
        for piece in range(0, len(keys), PIECE):
            mixed = sums(mixed + rounded(weights)[:, piece : piece + PIECE] @ values[piece : piece + PIECE])
        weight = before + weights.sum(axis=1, keepdims=True)
        output, highest = sums((before * output + mixed) / weight), higher
    return output


def test_float16_kernels_lose_with_many_keys_what_bfloat16s_keep():
    """Simulated with 75,600 keys, Wan's at 720p: rounding every 64 keys adds up, bfloat16's coarser digits do not."""
    random = np.random.default_rng(0)
    query = random.standard_normal((8, 64)).astype(np.float32) / 8
    key = random.standard_normal((75_600, 64)).astype(np.float32)
    value = (random.standard_normal((75_600, 64)) + 0.5).astype(np.float32)
    scores = query.astype(np.float64) @ key.T.astype(np.float64)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    wanted = weights @ value / weights.sum(axis=1, keepdims=True)

    def error(*roundings):
        found = fused_attention(query, key, value, *roundings)
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))

    def exact(array):
        return array

    whole = error(to_float16, to_float16, to_float16)
    written_out = error(to_float16, to_float16, exact)
    island = error(to_bfloat16, exact, exact)
    assert error(to_float16, exact, exact) < 1e-3
    assert island < 0.5 * min(whole, written_out)
    assert min(whole, written_out) > 3e-3
