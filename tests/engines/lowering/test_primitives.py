"""Each expansion against its closed form in float64, over shapes, heads and attributes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from edgereel.core.errors import EngineError  # noqa: E402
from edgereel.engines.lowering.lower import lower_for_target  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402

PRIMITIVES = replace(parse_target("tensorrt-10.3"), bfloat16_attention=False)
HALVES = {"float32": 1e-6, "float16": 5e-3}
make_node = onnx.helper.make_node
several = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
counts = some.integers(1, 7)
seeds = some.integers(0, 2**32 - 1)


def lowered(folder, node, inputs, compute="float32"):
    """Lower a graph of one node whose inputs' sizes are all unknown, check the model and return what it makes of the inputs."""
    values = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [f"{name}{axis}" for axis in range(array.ndim)]
        )
        for name, array in inputs.items()
    ]
    output = onnx.helper.make_tensor_value_info(
        "y", onnx.TensorProto.FLOAT, [f"y{axis}" for axis in range(next(iter(inputs.values())).ndim)]
    )
    graph = onnx.helper.make_graph([node], "main", values, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    path = folder / "one.onnx"
    path.write_bytes(model.SerializeToString())
    result = lower_for_target(path, PRIMITIVES, compute, keep=False)
    assert result.model is not None
    made = onnx.ModelProto.FromString(result.model)
    onnx.checker.check_model(made, full_check=True)
    assert all(other.op_type != node.op_type for other in made.graph.node)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(result.model, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def close(found, expected, limit, summed=None):
    """summed: what sums of either sign would be without their signs; rounding follows it, not what cancels to nothing."""
    assert found.shape == expected.shape
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    assert difference <= limit * (np.linalg.norm(expected if summed is None else summed) or 1)


def normal(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


def by_heads(array, heads):
    """Return [B, S, H·D] as [B, H, S, D] in float64."""
    return array.astype(np.float64).reshape(*array.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attention(query, key, value, scale, mask=None, cap=0.0):
    scores = query @ key.swapaxes(-1, -2) * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    scores = cap * np.tanh(scores / cap) if cap else scores
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value


@pytest.mark.parametrize("compute", HALVES)
@pytest.mark.parametrize("layout", ["[B, S, H·D]", "[B, H, S, D]"])
@several
@given(
    sizes=some.tuples(counts, counts, counts, counts, counts),
    groups=some.integers(1, 3),
    scale=some.none() | some.floats(0.1, 1.5),
    masked=some.sampled_from([None, "float", "bool", "short"]),
    cap=some.sampled_from([0.0, 3.0]),
    seed=seeds,
)
def test_attention(tmp_path, compute, layout, sizes, groups, scale, masked, cap, seed):
    random = np.random.default_rng(seed)
    batch, heads, queries, keys, width = sizes
    three = layout == "[B, S, H·D]"
    groups = groups if three else 1
    query = normal(random, batch, queries, heads * groups * width)
    key, value = (normal(random, batch, keys, heads * width) for _ in range(2))
    split = [by_heads(query, heads * groups), *(by_heads(array, heads) for array in (key, value))]
    inputs = dict(zip("qkv", (query, key, value) if three else split, strict=True))
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    mask = None
    if masked == "bool":
        mask = inputs["m"] = random.random((batch, 1, queries, keys)) < 0.6
        mask[..., 0] = True
    elif masked is not None:
        mask = inputs["m"] = normal(random, *((queries, keys) if masked == "short" else (batch, 1, queries, keys)))
    attributes = {"q_num_heads": heads * groups, "kv_num_heads": heads} if three else {}
    attributes |= {} if scale is None else {"scale": scale}
    attributes |= {"softcap": cap} if cap else {}
    found = lowered(tmp_path, make_node("Attention", list(inputs), ["y"], **attributes), inputs, compute)
    repeated = [np.repeat(array, groups, axis=1) for array in split[1:]]
    expected = attention(split[0], *repeated, scale, mask, cap)
    if three:
        expected = expected.transpose(0, 2, 1, 3).reshape(query.shape)
    summed = attention(split[0], repeated[0], np.abs(repeated[1]), scale, mask, cap)
    close(found, expected, HALVES[compute] * (4 if compute == "float16" else 2), summed)


def test_attention_over_scores_that_float16_cannot_add(tmp_path):
    """A mask of the lowest float32, as text encoders have, leaves nothing of the masked keys and no NaN."""
    random = np.random.default_rng()
    inputs = {name: normal(random, 2, 5, 24) for name in "qkv"}
    mask = inputs["m"] = np.zeros((2, 1, 5, 5), np.float32)
    mask[..., 3:] = np.finfo(np.float32).min
    node = make_node("Attention", list(inputs), ["y"], q_num_heads=3, kv_num_heads=3)
    parts = [by_heads(inputs[name], 3) for name in "qkv"]
    expected = attention(*parts, None, mask.astype(np.float64)).transpose(0, 2, 1, 3).reshape(2, 5, 24)
    for compute, limit in HALVES.items():
        close(lowered(tmp_path, node, inputs, compute), expected, limit)


def rotary(array, cosines, sines, interleaved, width):
    """Turn the first `width` features of [B, H, S, D]; cosines, sines: [B, 1, S, width / 2]."""
    turned, rest = array[..., :width], array[..., width:]
    if interleaved:
        left, right = turned[..., 0::2], turned[..., 1::2]
    else:
        left, right = np.split(turned, 2, axis=-1)
    real, imaginary = cosines * left - sines * right, sines * left + cosines * right
    if interleaved:
        turned = np.stack([real, imaginary], axis=-1).reshape(turned.shape)
    else:
        turned = np.concatenate([real, imaginary], axis=-1)
    return np.concatenate([turned, rest], axis=-1)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("layout", ["[B, S, H·D]", "[B, H, S, D]"])
@several
@given(
    sizes=some.tuples(counts, counts, counts, counts),
    rest=some.sampled_from([None, 0, 2, 5]),
    positions=some.booleans(),
    seed=seeds,
)
def test_rotary_embedding(tmp_path, interleaved, layout, sizes, rest, positions, seed):
    random = np.random.default_rng(seed)
    batch, heads, length, half = sizes
    width = 2 * half + (rest or 0)
    flat = normal(random, batch, length, heads * width)
    array = by_heads(flat, heads)
    attributes = {"interleaved": interleaved} | ({"rotary_embedding_dim": 2 * half} if rest is not None else {})
    three = layout == "[B, S, H·D]"
    if three or rest is not None:
        attributes["num_heads"] = heads
    inputs = {"x": flat if three else array.astype(np.float32)}
    shape = (length + 3, half) if positions else (batch, length, half)
    angles = random.uniform(-4, 4, shape)
    inputs |= {"c": np.cos(angles).astype(np.float32), "s": np.sin(angles).astype(np.float32)}
    cosines, sines = inputs["c"], inputs["s"]
    if positions:
        inputs["p"] = random.integers(0, length + 3, (batch, length))
        cosines, sines = cosines[inputs["p"]], sines[inputs["p"]]
    found = lowered(tmp_path, make_node("RotaryEmbedding", list(inputs), ["y"], **attributes), inputs)
    expected = rotary(array, cosines[:, None].astype(np.float64), sines[:, None], interleaved, 2 * half)
    if three:
        expected = expected.transpose(0, 2, 1, 3).reshape(flat.shape)
    close(found, expected, 1e-6)


@several
@given(
    sizes=some.lists(counts, min_size=2, max_size=4),
    axes=some.integers(1, 2),
    backwards=some.booleans(),
    size=some.floats(1e-3, 1e3),
    seed=seeds,
)
def test_rms_normalization(tmp_path, sizes, axes, backwards, size, seed):
    random = np.random.default_rng(seed)
    inputs = {"x": normal(random, *sizes) * np.float32(size), "w": normal(random, *sizes[-axes:])}
    axis = -axes if backwards else len(sizes) - axes
    found = lowered(tmp_path, make_node("RMSNormalization", ["x", "w"], ["y"], axis=axis, epsilon=1e-6), inputs)
    wide = inputs["x"].astype(np.float64)
    mean = (wide**2).mean(axis=tuple(range(-axes, 0)), keepdims=True)
    close(found, wide / np.sqrt(mean + 1e-6) * inputs["w"], 1e-6)


@several
@given(approximate=some.sampled_from(["none", "tanh"]), size=some.floats(0.1, 300), seed=seeds)
def test_gelu(tmp_path, approximate, size, seed):
    inputs = {"x": normal(np.random.default_rng(seed), 5, 40) * np.float32(size)}
    wide = inputs["x"].astype(np.float64)
    found = lowered(tmp_path, make_node("Gelu", ["x"], ["y"], approximate=approximate), inputs)
    if approximate == "none":
        bend = np.vectorize(math.erf)(wide / math.sqrt(2))
    else:
        bend = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    close(found, wide / 2 * (1 + bend), 1e-6)


@pytest.mark.parametrize(
    ("op_type", "attributes", "reason"),
    [
        ("Attention", {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1}, "causal mask"),
        ("Gelu", {"approximate": "cubic"}, "cubic"),
        ("Swish", {}, "opset 17 has no such operator"),
    ],
)
def test_what_is_not_expanded_is_named(tmp_path, op_type, attributes, reason):
    inputs = {name: np.zeros((1, 2, 4), np.float32) for name in ("qkv" if op_type == "Attention" else "x")}
    node = make_node(op_type, list(inputs), ["y"], name="blocks.0.that", **attributes)
    with pytest.raises(
        EngineError, match=rf"one\.onnx: tensorrt-10\.3 cannot have {op_type} \(blocks\.0\.that\): .*{reason}"
    ):
        lowered(tmp_path, node, inputs)
