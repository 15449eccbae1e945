"""Lowered graphs compute what the canonical ones compute, and integer linears what their arithmetic says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.words_bundle import WORDS_REEL

onnx = pytest.importorskip("onnx")

from edgereel.engines import EngineOptions, Tensor, get_engine  # noqa: E402
from edgereel.engines.onnxruntime import byte_products  # noqa: E402

pytestmark = pytest.mark.lean

FLOAT, INT8, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8
make_node = onnx.helper.make_node


def write_model(path: Path, nodes, inputs, outputs, constants):
    """Write a graph; inputs, outputs: {name: shape}, all float32; constants: {name: array}."""
    values = [
        [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "main", *values, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def open_graph(path, **options):
    return get_engine("cpu").open(path, EngineOptions(threads=1, **options))


def run(session, inputs):
    outputs = session.run({name: Tensor.from_numpy(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def relative(found, expected):
    """Return the relative difference; states of a decoder may be all zero, and are then to be exactly that."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return difference / (np.linalg.norm(expected) or 1e-30)


def assert_same(path, trials, expected_rewrites):
    """Both ways of running a graph agree to 1e-5 on every trial."""
    with open_graph(path, lower=False) as canonical, open_graph(path) as lowered:
        assert canonical.report.lowered == "off"
        assert lowered.report.rewrites == expected_rewrites
        for inputs in trials:
            wanted, found = run(canonical, inputs), run(lowered, inputs)
            assert wanted.keys() == found.keys()
            for name in wanted:
                assert relative(found[name], wanted[name]) < 1e-5, name


def normal(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


def demo_inputs(random, batch, size, tokens):
    with open_graph(WORDS_REEL / "denoiser.onnx", lower=False) as session:
        specs = session.specs.inputs
    return {
        "latents": normal(random, batch, specs["latents"].shape[1], *size),
        "timestep": random.uniform(0, 1000, batch).astype(np.float32),
        "prompt_embeds": normal(random, batch, tokens, specs["prompt_embeds"].shape[2]),
    }


def test_the_demos_denoiser():
    random = np.random.default_rng()
    trials = [demo_inputs(random, 1, (5, 8, 8), 16), demo_inputs(random, 2, (3, 6, 10), 11)]
    assert_same(WORDS_REEL / "denoiser.onnx", trials, {"attention": 12})


def test_the_demos_text_encoder_and_decoder():
    """Attention with a mask runs as it is: the fused kernel is not faster there."""
    random = np.random.default_rng()
    trials = [
        {name: random.integers(0, most, (batch, length)) for name, most in (("input_ids", 30), ("attention_mask", 2))}
        for batch, length in ((1, 16), (2, 9))
    ]
    for trial in trials:
        trial["attention_mask"][:, 0] = 1
    assert_same(WORDS_REEL / "text_encoder.onnx", trials, {})
    first, later = WORDS_REEL / "decoder_first.onnx", WORDS_REEL / "decoder_next.onnx"
    with open_graph(first, lower=False) as session:
        channels = session.specs.inputs["latent"].shape[1]
        latents = [{"latent": normal(random, 1, channels, 1, *size)} for size in ((8, 8), (6, 10))]
        states = [run(session, latent) for latent in latents]
    assert_same(first, latents, {"attention": 1, "norms": 18})
    following = [
        latent | {name.removesuffix("_next"): array for name, array in state.items() if name != "frames"}
        for latent, state in zip(latents, states, strict=True)
    ]
    assert_same(later, following, {"attention": 1, "norms": 18})


def norm_nodes(axes="axes", between=("Clip",), gain="gain"):
    """Return the nodes of a value divided by its channels' length, then multiplied."""
    nodes, last = [make_node("ReduceL2", ["x", axes], ["length"], keepdims=1)], "length"
    for op_type in between:
        inputs = {"Clip": [last, "floor"], "Expand": [last, "shape"], "Relu": [last]}[op_type]
        nodes.append(make_node(op_type, inputs, [f"{last}_{op_type}"]))
        last = nodes[-1].output[0]
    return [*nodes, make_node("Div", ["x", last], ["unit"]), make_node("Mul", ["unit", gain], ["y"])]


NORM_CONSTANTS = {
    "axes": np.array([1]),
    "rows": np.array([2]),
    "floor": np.float32(1e-12),
    "shape": np.array([1, 1, 1, 1]),
}


@pytest.mark.parametrize(
    ("shape", "options", "count"),
    [
        ((2, 6, 3, 4, 5), {}, 1),
        ((1, 6, 4, 5), {}, 1),
        ((1, 6, 4, 5), {"between": ("Clip", "Expand")}, 1),
        ((1, 6, 4), {}, 0),  # nothing that a convolution takes
        ((1, 6, 6, 5), {"axes": "rows"}, 0),  # another axis
        ((1, 6, 4, 5), {"between": ("Relu",)}, 0),  # no norm
        ((1, 6, 4, 5), {"gain": "x"}, 0),  # nothing says how many channels there are
    ],
)
def test_norms_over_channels(tmp_path, shape, options, count):
    random = np.random.default_rng()
    gain = normal(random, shape[1], *(1 for _ in shape[2:]))
    extents = ["b", shape[1], *(f"e{at}" for at in range(len(shape) - 2))]
    path = write_model(
        tmp_path / "n.onnx", norm_nodes(**options), {"x": extents}, {"y": extents}, {**NORM_CONSTANTS, "gain": gain}
    )
    trials = [{"x": normal(random, *shape)} for _ in range(2)]
    if "Relu" not in options.get("between", ()):  # which does not keep the length of nothing above zero
        trials[1]["x"][..., 1:2] = 0
    assert_same(path, trials, {"norms": count} if count else {})


def test_norms_in_half_precision_stay_unless_they_are_widened(tmp_path):
    half, single = onnx.TensorProto.FLOAT16, FLOAT
    for widened in (False, True):
        nodes = norm_nodes()
        before = [
            make_node("Cast", ["v"], ["h"], to=half),
            make_node("Cast", ["h"], ["x"], to=single if widened else half),
        ]
        after = make_node("Cast", ["y"], ["z"], to=single)
        kind = np.float32 if widened else np.float16
        constants = {**NORM_CONSTANTS, "floor": kind(1e-3), "gain": np.ones((6, 1, 1), kind)}
        extents = ["b", 6, "h", "w"]
        path = write_model(
            tmp_path / f"{widened}.onnx", [*before, *nodes, after], {"v": extents}, {"z": extents}, constants
        )
        with open_graph(path) as session:
            assert session.report.rewrites == ({"norms": 1} if widened else {})


@pytest.mark.full
def test_a_block_as_wide_as_wan(tmp_path):
    from edgereel.tools.step_bench.step_model import random_inputs, write_bundle

    graph = write_bundle(tmp_path)
    trials = [random_inputs((1, 16, 2, 12, 20), 64, 1), random_inputs((2, 16, 1, 16, 8), 32, 2)]
    assert_same(graph, trials, {"attention": 4})


def test_a_half_precision_graph(tmp_path):
    random = np.random.default_rng()
    nodes = [
        make_node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT16),
        make_node("MatMul", ["h", "w"], ["p"]),
        make_node("Attention", ["p", "p", "p"], ["m"], q_num_heads=2, kv_num_heads=2),
        make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    # Of a layer's size: float16 has steps of 1/16 at scores near 100, and what comes first would be chance.
    weights = {"w": (normal(random, 24, 24) / np.sqrt(24)).astype(np.float16)}
    path = write_model(tmp_path / "a.onnx", nodes, {"x": ["b", "s", 24]}, {"y": ["b", "s", 24]}, weights)
    with open_graph(path, lower=False) as canonical, open_graph(path) as lowered:
        assert lowered.report.rewrites == {"attention": 1}
        assert lowered.report.precision == canonical.report.precision
        for shape in ((1, 9), (2, 5)):
            rows = normal(random, *shape, 24)
            assert relative(run(lowered, {"x": rows})["y"], run(canonical, {"x": rows})["y"]) < 5e-3


@pytest.mark.parametrize(
    "change",
    [{"kv_num_heads": 2}, {"is_causal": 1}, {"softcap": 2.0}, {"mask": True}],
    ids=lambda change: next(iter(change)),
)
def test_attention_that_the_fused_kernel_does_not_compute(tmp_path, change):
    change = dict(change)
    masked = change.pop("mask", False)
    inputs = {"q": ["b", "s", 32], "k": ["b", "l", 8 * change.get("kv_num_heads", 4)]}
    inputs["v"] = inputs["k"]
    if masked:
        inputs["m"] = ["b", 4, "s", "l"]
    node = make_node("Attention", list(inputs), ["y"], **({"q_num_heads": 4, "kv_num_heads": 4} | change))
    path = write_model(tmp_path / "a.onnx", [node], inputs, {"y": ["b", "s", 32]}, {})
    random, sizes = np.random.default_rng(), {"b": 2, "s": 5, "l": 5}
    trial = {name: normal(random, *(sizes.get(size, size) for size in shape)) for name, shape in inputs.items()}
    assert_same(path, [trial], {})


def test_attention_keeps_its_scale(tmp_path):
    inputs = {name: ["b", "s", 24] for name in "qkv"}
    node = make_node("Attention", list(inputs), ["y"], q_num_heads=3, kv_num_heads=3, scale=0.9)
    path = write_model(tmp_path / "a.onnx", [node], inputs, {"y": ["b", "s", 24]}, {})
    random = np.random.default_rng()
    assert_same(path, [{name: normal(random, 2, count, 24) for name in "qkv"} for count in (4, 9)], {"attention": 1})


def quantized_weights(random, inner, columns):
    values = random.integers(-127, 128, (inner, columns)).astype(np.int8)
    return values, random.uniform(0.5, 2, columns).astype(np.float32) / 127


def dynamic_reference(rows, values, scale, zero, largest=255):
    """Return in float64 what a dynamic int8 linear computes; rounding to bytes is in float32, as the scale is."""
    highest, lowest = rows.max(-1, keepdims=True), rows.min(-1, keepdims=True)
    above, below = highest * np.float32(1 / (largest - zero)), lowest * np.float32(-1 / zero)
    row_scale = np.maximum(np.maximum(above, below), np.float32(1e-30))
    levels = np.clip(np.round(rows / row_scale) + zero, 0, largest) - zero
    return levels.astype(np.float64) @ values.astype(np.float64) * scale.astype(np.float64) * row_scale


@pytest.mark.parametrize("after_gelu", [False, True], ids=["plain", "after gelu"])
@pytest.mark.parametrize(("shape", "bits"), [((1, 7), 8), ((3, 40), 8), ((3, 40), 7)], ids=str)
def test_dynamic_linears(tmp_path, monkeypatch, after_gelu, shape, bits):
    """Of 7 bits where the processor's products of 8 are not exact, as planted here."""
    if bits == 7:
        monkeypatch.setattr(byte_products, "byte_products_are_exact", lambda *_: False)
    random = np.random.default_rng()
    inner, columns = 96, 33
    constants, nodes = {}, [make_node("Gelu", ["x"], ["g"], approximate="tanh")] if after_gelu else []
    for index in range(2):
        constants[f"w{index}"], constants[f"s{index}"] = quantized_weights(random, inner, columns)
        nodes.append(make_node("DequantizeLinear", [f"w{index}", f"s{index}"], [f"d{index}"], axis=1))
        nodes.append(make_node("MatMul", ["g" if after_gelu else "x", f"d{index}"], [f"y{index}"]))
    outputs = {f"y{index}": ["b", "s", columns] for index in range(2)} | (
        {"g": ["b", "s", inner]} if after_gelu else {}
    )
    path = write_model(tmp_path / "a.onnx", nodes, {"x": ["b", "s", inner]}, outputs, constants)
    rows = normal(random, *shape, inner) * random.uniform(0.01, 30, (*shape, 1)).astype(np.float32)
    rows[0, 0] = 0
    with open_graph(path, activations="dynamic") as session:
        seven = bits == 7
        assert session.report.rewrites == {f"int8 linear, dynamic{', 7 bits' * seven}": 2}
        assert session.report.precision == f"int8 (dynamic{', activations of 7 bits' * seven})"
        found = run(session, {"x": rows})
    given = found["g"] if after_gelu else rows
    for index in range(2):
        weights = constants[f"w{index}"], constants[f"s{index}"]
        zero = (24 if after_gelu else 128) // (2 if bits == 7 else 1)
        expected = dynamic_reference(given, *weights, zero, 127 if bits == 7 else 255)
        assert relative(found[f"y{index}"], expected) < 1e-6
        exact = given.astype(np.float64) @ (weights[0].astype(np.float64) * weights[1])
        assert relative(found[f"y{index}"], exact) < (0.04 if bits == 7 else 0.02)


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-5), np.uint8(128), np.uint8(3)], ids=repr)
def test_static_linears(tmp_path, zero):
    random = np.random.default_rng()
    values, scale = quantized_weights(random, 64, 20)
    constants = {"w": values, "s": scale, "a": np.array(0.03, np.float32), "z": np.array(zero)}
    nodes = [
        make_node("QuantizeLinear", ["x", "a", "z"], ["q"]),
        make_node("DequantizeLinear", ["q", "a", "z"], ["f"]),
        make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1),
        make_node("MatMul", ["f", "d"], ["y"]),
    ]
    path = write_model(tmp_path / "a.onnx", nodes, {"x": ["b", "s", 64]}, {"y": ["b", "s", 20]}, constants)
    limits = np.iinfo(zero.dtype)
    with open_graph(path) as session:
        assert session.report.rewrites == {"int8 linear, static": 1}
        assert session.report.precision == "int8 (static)"
        for shape in ((1, 6), (2, 30)):
            rows = 2 * normal(random, *shape, 64)
            bytes_ = np.clip(np.round(rows / constants["a"]) + int(zero), limits.min, limits.max) - int(zero)
            expected = bytes_.astype(np.float64) @ values.astype(np.float64) * scale.astype(np.float64) * constants["a"]
            assert relative(run(session, {"x": rows})["y"], expected) < 1e-6


def weights_only(tmp_path, random):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = random.integers(-8, 8, (128, 48)).astype(ml_dtypes.int4)
    scale = random.uniform(0.01, 0.1, (4, 48)).astype(np.float32)
    nodes = [
        make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=32),
        make_node("MatMul", ["x", "d"], ["y"]),
    ]
    path = write_model(
        tmp_path / "a.onnx", nodes, {"x": ["b", "s", 128]}, {"y": ["b", "s", 48]}, {"w": values, "s": scale}
    )
    return path, values.astype(np.float64) * np.repeat(scale, 32, axis=0).astype(np.float64)


def test_int4_weights_are_multiplied_in_float32(tmp_path):
    """ONNX Runtime would quantize activations by itself, which costs four digits."""
    random = np.random.default_rng()
    path, weights = weights_only(tmp_path, random)
    for options in ({}, {"lower": False}):
        with open_graph(path, **options) as session:
            for shape in ((1, 5), (2, 40)):
                rows = normal(random, *shape, 128)
                assert relative(run(session, {"x": rows})["y"], rows.astype(np.float64) @ weights) < 1e-5
    assert get_engine("cpu").open(path, EngineOptions()).report.precision == "float32 (int4 weights)"


def test_int4_weights_with_dynamic_activations(tmp_path):
    random = np.random.default_rng()
    path, weights = weights_only(tmp_path, random)
    with open_graph(path, activations="dynamic") as session:
        assert session.report.precision == "int8 (dynamic, int4 weights)"
        rows = normal(random, 2, 40, 128)
        assert 1e-5 < relative(run(session, {"x": rows})["y"], rows.astype(np.float64) @ weights) < 0.02


def test_int8_weights_with_float_activations_stay_exact(tmp_path):
    random = np.random.default_rng()
    values, scale = quantized_weights(random, 64, 20)
    nodes = [make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1), make_node("MatMul", ["x", "d"], ["y"])]
    path = write_model(
        tmp_path / "a.onnx", nodes, {"x": ["b", "s", 64]}, {"y": ["b", "s", 20]}, {"w": values, "s": scale}
    )
    rows = normal(random, 2, 40, 64)
    with open_graph(path) as session:
        assert session.report.precision == "float32 (int8 weights)"
        expected = rows.astype(np.float64) @ (values.astype(np.float64) * scale)
        assert relative(run(session, {"x": rows})["y"], expected) < 1e-5


def test_a_quantized_denoiser_stays_close(tmp_path):
    from edgereel.calibration import quantize

    demo = WORDS_REEL / "denoiser.onnx"
    quantize(WORDS_REEL, tmp_path / "int8.reel", precision="int8", compare=False)
    quantized = tmp_path / "int8.reel" / "denoiser.onnx"
    random = np.random.default_rng()
    inputs = demo_inputs(random, 2, (3, 6, 10), 11)
    with open_graph(demo) as exact, open_graph(quantized, activations="dynamic") as session:
        assert session.report.precision == "int8 (dynamic)"
        assert session.report.rewrites["attention"] == 12
        assert session.report.rewrites["int8 linear, dynamic"] >= 48
        assert relative(run(session, inputs)["prediction"], run(exact, inputs)["prediction"]) < 0.1


@pytest.mark.extras
def test_parity_proves_the_canonical_graph(monkeypatch):
    parity = pytest.importorskip("edgereel.export.parity")
    monkeypatch.setattr("edgereel.engines.onnxruntime.cpu.lower_graph", lambda *_: pytest.fail("was lowered"))
    with parity.opened(WORDS_REEL / "denoiser.onnx", WORDS_REEL / "denoiser.data"):
        pass
