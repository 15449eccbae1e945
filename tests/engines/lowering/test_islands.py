"""What stays in float32 for `cuda`, and costs least there: norms with their modulation, norms and rotations in float16."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402
from helpers.words_bundle import WORDS_REEL  # noqa: E402

from edgereel.engines.lowering.lower import lower_for_target  # noqa: E402
from edgereel.engines.lowering.target.rewrite import rewrite_for_target  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402
from edgereel.engines.onnxruntime.gpu import lower_for  # noqa: E402
from edgereel.engines.options import EngineOptions  # noqa: E402

pytestmark = pytest.mark.lean

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
CUDA = parse_target("cuda")
FOLDING = replace(CUDA, folds_modulation=True)
WIDTH, HEADS, TOKENS = 32, 4, 6
make_node = onnx.helper.make_node


def model_of(nodes, constants, inputs):
    values = [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = onnx.helper.make_tensor_value_info("y", FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "main", values, [made], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString()


def modulated(scale_of_norm=1.0, swapped=False, shift_shape=("b", 1, WIDTH)):
    """x normalised, times (1 + s), plus t, through a linear."""
    random = np.random.default_rng(4)
    constants = {
        "ones": np.full(WIDTH, scale_of_norm, np.float32),
        "one": np.array(1, np.float32),
        "w": random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 6,
    }
    nodes = [
        make_node("LayerNormalization", ["x", "ones"], ["n"], name="norm", axis=-1, epsilon=1e-6),
        make_node("Add", ["s", "one"], ["s1"]),
        make_node("Mul", ["s1", "n"] if swapped else ["n", "s1"], ["m"]),
        make_node("Add", ["t", "m"] if swapped else ["m", "t"], ["a"]),
        make_node("MatMul", ["a", "w"], ["y"], name="linear"),
    ]
    inputs = {"x": ["b", TOKENS, WIDTH], "s": ["b", 1, WIDTH], "t": list(shift_shape)}
    return model_of(nodes, constants, inputs), constants


def run(content, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def draw(seed, **shapes):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_modulation_folded_into_the_norm_is_the_same_arithmetic(seed, swapped):
    content, constants = modulated(swapped=swapped)
    lowered, counts = rewrite_for_target(content, FOLDING, "float32", "main")
    assert counts["norm with its modulation"] == 1
    operators = Counter(node.op_type for node in onnx.ModelProto.FromString(lowered).graph.node)
    assert operators["Mul"] == 0
    given = draw(seed, x=(1, TOKENS, WIDTH), s=(1, 1, WIDTH), t=(1, 1, WIDTH))
    wide = {name: array.astype(np.float64) for name, array in given.items()}
    centred = wide["x"] - wide["x"].mean(-1, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    expected = (normal * (1 + wide["s"]) + wide["t"]) @ constants["w"]
    np.testing.assert_allclose(run(lowered, given), expected, rtol=1e-5, atol=1e-5)


def test_another_batch_is_refused_not_mixed_up():
    lowered, _ = rewrite_for_target(modulated()[0], FOLDING, "float32", "main")
    with pytest.raises(Exception, match="Reshape"):
        run(lowered, draw(0, x=(2, TOKENS, WIDTH), s=(2, 1, WIDTH), t=(2, 1, WIDTH)))


@pytest.mark.parametrize(
    "given", [{"scale_of_norm": 2.0}, {"shift_shape": ("b", TOKENS, WIDTH)}, {"shift_shape": (WIDTH,)}]
)
def test_what_is_not_one_row_of_a_plain_norm_stays(given):
    _, counts = rewrite_for_target(modulated(**given)[0], FOLDING, "float32", "main")
    assert "norm with its modulation" not in counts


def test_it_is_done_for_clips_one_at_a_time_only():
    path = WORDS_REEL / "denoiser.onnx"
    shapes = (("latents", (1, 24, 3, 4, 4)), ("prompt_embeds", (1, 16, 128)), ("timestep", (1,)))
    two = tuple((name, (2, *shape[1:])) for name, shape in shapes)

    def folded(target, shapes):
        options = EngineOptions(shapes=shapes, keep=False)
        return lower_for(target, path, options, "float16").rewrites.get("norm with its modulation", 0)

    assert folded("cuda", shapes) == 13  # two in each of 6 blocks, and the last
    assert folded("cuda", two) == folded("cuda", None) == folded("tensorrt-rtx", shapes) == 0


def rotated():
    """A linear, a norm over all of its heads, a rotation, and attention, as query and key have it."""
    random = np.random.default_rng(5)
    constants = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 6 for name in ("wq", "wk", "wv")}
    constants["g"] = random.uniform(0.5, 2, WIDTH).astype(np.float32)
    nodes = []
    for name in "qk":
        nodes += [
            make_node("MatMul", ["x", f"w{name}"], [name], name=f"to_{name}"),
            make_node("RMSNormalization", [name, "g"], [f"{name}n"], axis=-1, epsilon=1e-6),
            make_node("RotaryEmbedding", [f"{name}n", "cos", "sin"], [f"{name}r"], num_heads=HEADS, interleaved=1),
        ]
    nodes += [
        make_node("MatMul", ["x", "wv"], ["v"], name="to_v"),
        make_node("Attention", ["qr", "kr", "v"], ["y"], q_num_heads=HEADS, kv_num_heads=HEADS),
    ]
    half = WIDTH // HEADS // 2
    return model_of(nodes, constants, {"x": [1, TOKENS, WIDTH], "cos": [1, TOKENS, half], "sin": [1, TOKENS, half]})


def types_of(content):
    model = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(content))
    values = (*model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    found = Counter()
    for node in model.graph.node:
        found[node.op_type, types.get(node.output[0])] += 1
    return found


def test_norms_and_rotations_of_query_and_key_are_float16_on_cuda_and_float32_elsewhere():
    lowered, _ = rewrite_for_target(rotated(), CUDA, "float16", "main")
    found = types_of(lowered)
    assert found["RMSNormalization", FLOAT16] == found["RotaryEmbedding", FLOAT16] == 2
    assert found["Cast", FLOAT16] == 7  # x, cosines, sines, three weights and the norm's, each once
    for target, compute in (("cuda", "bfloat16"), ("tensorrt-11.0", "float16")):
        found = types_of(rewrite_for_target(rotated(), parse_target(target), compute, "main")[0])
        assert found["RMSNormalization", FLOAT] == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_they_stay_within_float16s_rounding(seed):
    half = WIDTH // HEADS // 2
    angles = np.random.default_rng(seed).uniform(-3, 3, (1, TOKENS, half))
    given = {
        **draw(seed, x=(1, TOKENS, WIDTH)),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }
    plain, _ = rewrite_for_target(rotated(), CUDA, "float32", "main")
    lowered, _ = rewrite_for_target(rotated(), CUDA, "float16", "main")
    without, _ = rewrite_for_target(rotated(), replace(CUDA, half_inside=()), "float16", "main")
    expected = run(plain, given)
    errors = [
        np.sqrt(np.square(run(each, given) - expected).mean() / np.square(expected).mean())
        for each in (lowered, without)
    ]
    assert errors[0] < 3e-3
    assert errors[0] < 4 * errors[1]


def test_a_norm_of_a_float32_sum_stays_float32():
    model = lower_for_target(WORDS_REEL / "text_encoder.onnx", CUDA, "float16", keep=False).model
    assert types_of(model)["RMSNormalization", FLOAT16] == 0
