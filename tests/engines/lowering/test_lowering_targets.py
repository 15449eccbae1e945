"""Graphs lowered for named targets compute what the canonical ones compute, and hold only what the target has.

bfloat16 does not run on the CPU provider: there onnx's reference evaluator computes small graphs, slowly, and the structure of
the others is looked at.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.words_bundle import WORDS_REEL
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from helpers.bfloat16 import bfloat16_in_float32  # noqa: E402

from edgereel.core import paths  # noqa: E402
from edgereel.core.errors import EngineError, MissingExtraError, UsageError  # noqa: E402
from edgereel.demo.clips import subjects  # noqa: E402
from edgereel.engines.lowering.lower import lower_for_target, with_plain_weights  # noqa: E402
from edgereel.engines.lowering.summary import describe_lowering, graph_data_files  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402
from edgereel.runtime.decoding.decoder import to_uint8  # noqa: E402

TARGETS = ("tensorrt-8.6", "tensorrt-10.3", "tensorrt-10.14", "tensorrt-11.0", "tensorrt-rtx", "cuda")
ROLES = ("text_encoder", "denoiser", "decoder_first", "decoder_next")
LIMITS = {"float32": 1e-5, "float16": 1e-2}
SIZES = (
    {"batch": 2, "frames": 3, "height": 6, "width": 10, "tokens": 9},
    {"batch": 1, "frames": 1, "height": 8, "width": 4, "tokens": 16},
)
FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
HALF = {"float16": FLOAT16, "bfloat16": BFLOAT16}
IN_HALF = [
    (target, compute)
    for target in TARGETS
    for compute in HALF
    if compute == "float16" or not parse_target(target).plain_weights
]
make_node = onnx.helper.make_node


def session(model, folder):
    """Open a graph as it is, with no optimization of ONNX Runtime's."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    if isinstance(model, bytes):
        model = bfloat16_in_float32(model)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def random_prompts(folder, random, count, length):
    """Return the inputs that captions become, cut to `length`: on tokens in no order T5's attention can hang on a rounding."""
    tokenizer, everything = Tokenizer.from_file(str(folder / "tokenizer.json")), subjects()
    captions = [random.choice(everything[place].captions()) for place in random.integers(0, len(everything), count)]
    rows = [tokenizer.encode(caption).ids[:length] for caption in captions]
    ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int64)
    mask = np.arange(length) < np.array([[len(row)] for row in rows])
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


def random_inputs(opened, random, sizes, folder):
    inputs = {}
    if "input_ids" in [item.name for item in opened.get_inputs()]:
        return random_prompts(folder, random, sizes["batch"], sizes["tokens"])
    for item in opened.get_inputs():
        shape = [size if isinstance(size, int) else math.prod(by_name(size, sizes)) for size in item.shape]
        if item.name == "timestep":
            inputs[item.name] = random.uniform(0, 1000, shape).astype(np.float32)
        else:
            inputs[item.name] = random.standard_normal(shape).astype(np.float32)
    return inputs


def by_name(size, sizes):
    """Yield the factors of a dimension such as `height*2`."""
    for factor in size.split("*"):
        yield sizes[factor] if factor in sizes else int(factor)


def in_types_of(opened, inputs):
    """Return inputs with a state in float16 where the graph takes it so."""
    halves = {item.name for item in opened.get_inputs() if item.type == "tensor(float16)"}
    return {name: array.astype(np.float16) if name in halves else array for name, array in inputs.items()}


def relative(found, expected):
    """Return the relative difference; states of a decoder may be all zero, and are then to be exactly that."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return difference / (np.linalg.norm(expected) or 1e-30)


def lowered(path, target, compute="float32", keep=False):
    result = lower_for_target(path, parse_target(target), compute, keep=keep)
    assert result.model is not None
    return result


def lowered_session(path, target, compute):
    """Open a lowered graph as it is given to its target."""
    model = lowered(path, target, compute).model
    if not parse_target(target).plain_weights:
        return session(model, path.parent)
    with tempfile.TemporaryDirectory() as folder:
        model, beside = with_plain_weights(model, path, Path(folder))
        parsed = onnx.load_from_string(model)
        assert BFLOAT16 not in element_types(parsed).values()
        assert not any(node.op_type == "DequantizeLinear" for node in parsed.graph.node)
        return session(model, beside.parent)


def assert_same(path, targets=TARGETS, computes=LIMITS, sizes=SIZES):
    """Lowered for every target, the graph equals the canonical one on fresh inputs of each of the sizes."""
    random = np.random.default_rng()
    canonical = session(str(path), path.parent)
    trials = [random_inputs(canonical, random, each, path.parent) for each in sizes]
    expected = [canonical.run(None, inputs) for inputs in trials]
    del canonical
    for target in targets:
        for compute in computes:
            opened = lowered_session(path, target, compute)
            for inputs, wanted in zip(trials, expected, strict=True):
                worst = max(map(relative, opened.run(None, in_types_of(opened, inputs)), wanted))
                assert worst <= LIMITS[compute], (target, compute, worst)
                assert compute == "float32" or worst > 1e-7  # that it does calculate in half precision


@pytest.mark.parametrize("role", ROLES)
def test_the_demo(role):
    assert_same(WORDS_REEL / f"{role}.onnx")


@pytest.mark.parametrize("role", ROLES)
def test_an_exported_wan_of_another_shape(random_reel, role):
    assert_same(random_reel / f"{role}.onnx", targets=("tensorrt-10.3", "cuda"))


def test_a_block_as_wide_as_wan(wide_denoiser):
    sizes = ({**SIZES[0], "tokens": 24}, {**SIZES[1], "tokens": 40})
    assert_same(wide_denoiser, targets=("tensorrt-10.3", "tensorrt-11.0", "cuda"), sizes=sizes)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The demo's bundle by form of its linears."""
    calibration = pytest.importorskip("edgereel.calibration")
    folder = tmp_path_factory.mktemp("quantized")
    prompts = folder / "prompts.txt"
    prompts.write_text("a red ball bounces over the ocean\n")
    calibration.calibrate(WORDS_REEL, prompts, folder / "stats.npz", steps=1)
    forms = {"int8": {}, "int4": {}, "static": {"activations": "static", "stats": folder / "stats.npz"}}
    for name, settings in forms.items():
        precision = "int8" if name == "static" else name
        calibration.quantize(WORDS_REEL, folder / f"{name}.reel", precision=precision, compare=False, **settings)
    return folder


@pytest.mark.parametrize("form", ["int8", "int4", "static"])
def test_quantized_linears_stay_quantized(quantized, form):
    """Half precision is in the scales: what dequantizes is next to the product, as builders that fuse the two want it."""
    path = quantized / f"{form}.reel" / "denoiser.onnx"
    if form != "static":
        assert_same(path, targets=("tensorrt-10.3", "tensorrt-11.0", "cuda"))
    canonical = onnx.load(path, load_external_data=False)
    for compute in ("float16", "bfloat16"):
        model = onnx.ModelProto.FromString(lowered(path, "tensorrt-10.3", compute).model)
        assert model.opset_import[0].version == 21
        makers = {name: node for node in model.graph.node for name in node.output}
        before, after = (Counter(node.op_type for node in each.graph.node) for each in (canonical, model))
        for op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert after[op_type] == before[op_type]
        products = [
            node
            for node in model.graph.node
            if node.op_type == "MatMul" and makers.get(node.input[1], node).op_type == "DequantizeLinear"
        ]
        assert len(products) >= 48
        if form == "static":
            assert all(makers[node.input[0]].op_type == "DequantizeLinear" for node in products)


@pytest.mark.parametrize("role", ["text_encoder", "denoiser"])
def test_bytes_become_numbers_where_a_target_multiplies_none(quantized, role):
    assert_same(quantized / "int8.reel" / f"{role}.onnx", targets=("tensorrt-8.6",))


@pytest.mark.parametrize(
    ("form", "refused"),
    [("int4", "DequantizeLinear .*opset 17"), ("static", "QuantizeLinear .*it multiplies no bytes")],
)
def test_bytes_that_cannot_become_numbers_are_refused(quantized, form, refused):
    with pytest.raises(EngineError, match=rf"denoiser\.onnx: tensorrt-8\.6 cannot have {refused}"):
        lowered(quantized / f"{form}.reel" / "denoiser.onnx", "tensorrt-8.6", "float16")


def test_a_norm_without_a_bias_gets_one_for_older_parsers():
    """A bias of zeros changes no bit; assert_same looks at the numbers."""
    counts = {}
    for target in TARGETS:
        model = onnx.ModelProto.FromString(lowered(WORDS_REEL / "denoiser.onnx", target).model)
        norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
        counts[target] = sum(len(node.input) < 3 for node in norms)
        assert len(norms) == 19
    assert counts == dict.fromkeys(TARGETS, 13) | dict.fromkeys(("tensorrt-8.6", "tensorrt-10.3", "tensorrt-rtx"), 0)


def test_static_linears(quantized):
    """Rounding to bytes may fall to the other side after any rewrite, so the graph is as near as some steps of a byte."""
    path = quantized / "static.reel" / "denoiser.onnx"
    random = np.random.default_rng()
    canonical = session(str(path), path.parent)
    inputs = random_inputs(canonical, random, SIZES[0], path.parent)
    wanted = canonical.run(None, inputs)[0]
    for target in ("tensorrt-10.3", "cuda"):
        for compute in LIMITS:
            found = session(lowered(path, target, compute).model, path.parent).run(None, inputs)[0]
            assert relative(found, wanted) < 0.05


@pytest.mark.parametrize("compute", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("role", ROLES)
def test_primitives_are_those_of_opset_17(tmp_path, role, compute):
    path = tmp_path / "lowered.onnx"
    path.write_bytes(lowered(WORDS_REEL / f"{role}.onnx", "tensorrt-10.3", compute).model)
    model = onnx.load(path, load_external_data=False)
    for data in graph_data_files(path, path.read_bytes()):
        shutil.copy(WORDS_REEL / data.name, data)
    onnx.checker.check_model(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=17, domain="")
        assert {item.name for item in node.attribute} <= set(schema.attributes)
        assert node.op_type not in ("Attention", "RotaryEmbedding", "RMSNormalization", "Gelu")


@pytest.mark.parametrize(
    ("target", "kept", "expanded"),
    [
        ("tensorrt-10.14", {"Attention", "Gelu"}, {"RotaryEmbedding", "RMSNormalization"}),
        ("tensorrt-11.0", {"Attention", "Gelu", "RotaryEmbedding", "RMSNormalization"}, set()),
        ("cuda", {"MultiHeadAttention", "Gelu", "RotaryEmbedding", "RMSNormalization"}, {"Attention"}),
    ],
)
def test_what_a_target_reads_is_kept(target, kept, expanded):
    model = onnx.ModelProto.FromString(lowered(WORDS_REEL / "denoiser.onnx", target, "float16").model)
    found = {node.op_type for node in model.graph.node}
    assert kept <= found
    assert not expanded & found


@pytest.mark.parametrize(("target", "compute"), IN_HALF)
def test_half_precision_is_where_it_should_be(target, compute):
    """Products of the layers in half; norms, softmax, sines, the timestep's linears and T5's output in float32.

    But for norms of query and key, where the target's kernels sum in float32 themselves.
    """
    half, seen = HALF[compute], Counter()
    for role in ("text_encoder", "denoiser"):
        path = WORDS_REEL / f"{role}.onnx"
        model = onnx.ModelProto.FromString(lowered(path, target, compute).model)
        types = element_types(model)
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.elem_type in (FLOAT, onnx.TensorProto.INT64)
            assert types[value.name] == value.type.tensor_type.elem_type
        for node in model.graph.node:
            made = types[node.output[0]]
            if "Norm" in node.op_type or node.op_type in ("Softmax", "ReduceMean", "Sin", "Cos", "Sqrt"):
                inside = (
                    node.op_type in parse_target(target).half_inside and compute == "float16" and role == "denoiser"
                )
                assert made == (half if inside else FLOAT), node.name
            elif node.op_type in ("MatMul", "Gemm", "Attention", "MultiHeadAttention"):
                exact = "time_" in node.name or (node.name.endswith(".wo") and compute == "float16")
                # Attention without a mask is bfloat16 where float16's is summed in float16: written out, two products.
                wide = role == "denoiser" and compute == "float16" and parse_target(target).bfloat16_attention
                plain = node.op_type == "Attention" or (node.op_type == "MatMul" and not any_stored(model, node))
                assert made == (FLOAT if exact else BFLOAT16 if wide and plain else half), node.name
                seen["float32" if exact else "half"] += 1
    assert seen["float32"] == (5 if compute == "float16" else 3)
    assert seen["half"] > 60


def any_stored(model, node):
    """Return whether a product reads a weight, at once or converted."""
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    return any(name in stored or (name in makers and makers[name].input[0] in stored) for name in node.input)


def element_types(model):
    """Return what onnx itself says of every value's type; the one operator of another domain has its first input's."""
    standard = onnx.ModelProto()
    standard.CopyFrom(model)
    for node in standard.graph.node:
        if node.domain:
            del node.attribute[:]
            node.op_type, node.domain = "Sum", ""
    inferred = onnx.shape_inference.infer_shapes(standard, check_type=True, strict_mode=False).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize(("target", "compute"), IN_HALF)
@pytest.mark.parametrize("role", ROLES)
def test_no_conversion_undoes_another(role, target, compute):
    model = onnx.ModelProto.FromString(lowered(WORDS_REEL / f"{role}.onnx", target, compute).model)
    makers = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)
    for node in casts:
        maker = makers.get(node.input[0])
        if maker is not None and maker.op_type == "Cast":
            assert stored.get(maker.input[0], 0) not in (FLOAT, BFLOAT16), node.name
            assert {maker.attribute[0].i, node.attribute[0].i} != {FLOAT, HALF[compute]}, node.name


@pytest.mark.parametrize("compute", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("target", ["tensorrt-10.3", "cuda"])
def test_a_decoders_state_is_float16_where_products_are(target, compute):
    """Both graphs agree about it; all else comes and goes in float32, and no state is converted on its way out twice."""
    states = {}
    for role in ("decoder_first", "decoder_next"):
        model = onnx.ModelProto.FromString(lowered(WORDS_REEL / f"{role}.onnx", target, compute).model)
        inferred = element_types(model)
        for value in (*model.graph.input, *model.graph.output):
            is_state = value.name.startswith("state_")
            wanted = FLOAT16 if is_state and compute == "float16" else FLOAT
            assert value.type.tensor_type.elem_type == inferred[value.name] == wanted, value.name
        states[role] = {value.name.removesuffix("_next") for value in model.graph.output if value.name[:6] == "state_"}
    assert states["decoder_first"] == states["decoder_next"]
    assert len(states["decoder_next"]) > 5


@pytest.mark.parametrize("target", ["tensorrt-8.6", "tensorrt-11.0", "cuda"])
def test_pictures_leave_the_graph_as_bytes(target):
    """The same to the last bit as numpy makes them of the frames, and a value that is no number shows in their mean."""
    path = WORDS_REEL / "decoder_first.onnx"
    latent = np.random.default_rng().standard_normal((1, 24, 1, 4, 6)).astype(np.float32) * 3
    models = [
        lower_for_target(path, parse_target(target), "float32", keep=False, pictures=pictures).model
        for pictures in (False, True)
    ]
    opened = [session(made, path.parent) for made in models]
    declared = {item.name: (item.type, len(item.shape)) for item in opened[1].get_outputs()}
    assert declared["pictures"] == ("tensor(uint8)", 5)
    assert "frames" not in declared
    (frames,) = opened[0].run(["frames"], {"latent": latent})
    pictures, mean = opened[1].run(["pictures", "frames_mean"], {"latent": latent})
    assert 20 < pictures.mean() < 235
    np.testing.assert_array_equal(pictures[0], to_uint8(frames))
    assert mean == pytest.approx(frames.mean(), abs=1e-5)
    for broken in (np.nan, np.inf):
        latent[0, 0, 0, 1, 1] = broken
        assert not np.isfinite(opened[1].run(["frames_mean"], {"latent": latent})[0])


def test_a_state_that_is_passed_on_as_it_is(tmp_path):
    nodes = [
        make_node("Identity", ["state_00"], ["state_00_next"]),
        make_node("Add", ["x", "state_01"], ["state_01_next"]),
        make_node("Mul", ["state_01_next", "state_00"], ["y"]),
    ]
    shape = ["n"]
    path = write_model(
        tmp_path / "a.onnx",
        nodes,
        dict.fromkeys(("x", "state_00", "state_01"), shape),
        dict.fromkeys(("state_00_next", "state_01_next", "y"), shape),
        [],
    )
    opened = session(lowered(path, "cuda", "float16").model, tmp_path)
    given = {name: np.array([1.5, 2.25], np.float32) for name in ("x", "state_00", "state_01")}
    found = dict(
        zip([item.name for item in opened.get_outputs()], opened.run(None, in_types_of(opened, given)), strict=True)
    )
    assert {name: str(array.dtype) for name, array in found.items()} == {
        "state_00_next": "float16",
        "state_01_next": "float16",
        "y": "float32",
    }
    np.testing.assert_array_equal(found["state_00_next"], given["state_00"])
    np.testing.assert_array_equal(found["state_01_next"], [3, 4.5])
    np.testing.assert_array_equal(found["y"], [4.5, 10.125])


def write_model(path, nodes, inputs, outputs, constants):
    values = [
        [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    graph = onnx.helper.make_graph(nodes, "main", *values, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def small_block(path, random):
    """A norm, a linear with bfloat16 weights, attention and Gelu: small enough for onnx's reference evaluator."""
    weight = onnx.helper.make_tensor("w", BFLOAT16, [16, 16], (random.standard_normal(256) / 4).astype(np.float32))
    scale = onnx.numpy_helper.from_array(random.uniform(0.5, 2, 16).astype(np.float32), "g")
    nodes = [
        make_node("Cast", ["w"], ["wide"], to=FLOAT),
        make_node("RMSNormalization", ["x", "g"], ["n"], axis=-1),
        make_node("MatMul", ["n", "wide"], ["q"], name="to_q"),
        make_node("Attention", ["q", "q", "q"], ["a"], q_num_heads=2, kv_num_heads=2),
        make_node("Gelu", ["a"], ["h"], approximate="tanh"),
        make_node("MatMul", ["h", "wide"], ["o"], name="out"),
        make_node("Add", ["x", "o"], ["y"]),
    ]
    shape = ["b", "s", 16]
    return write_model(path, nodes, {"x": shape}, {"y": shape}, [weight, scale])


def test_bfloat16_by_the_reference_evaluator(tmp_path):
    from onnx.reference import ReferenceEvaluator

    random = np.random.default_rng()
    path = small_block(tmp_path / "a.onnx", random)
    model = onnx.ModelProto.FromString(lowered(path, "tensorrt-10.3", "bfloat16").model)
    # The weights are read as they are stored: the conversion to float32 is gone, and none came in its place.
    weights = [node.input[1] for node in model.graph.node if node.name in ("to_q", "out")]
    assert weights == ["w", "w"]
    for shape in ((1, 5, 16), (2, 3, 16)):
        rows = random.standard_normal(shape).astype(np.float32)
        (wanted,) = session(str(path), tmp_path).run(None, {"x": rows})
        (found,) = ReferenceEvaluator(model).run(None, {"x": rows})
        assert 1e-5 < relative(found, wanted) < 2e-2


def test_a_mask_that_float16_cannot_hold(tmp_path):
    """A target that keeps Attention gets a mask that leaves no row without a number."""
    nodes = [
        make_node("Mul", ["m", "lowest"], ["mask"]),
        make_node("Attention", ["q", "q", "q", "mask"], ["y"], q_num_heads=2, kv_num_heads=2),
    ]
    lowest = onnx.helper.make_tensor("lowest", FLOAT, [], [float(np.finfo(np.float32).min)])
    inputs = {"q": ["b", "s", 16], "m": ["b", 1, "s", "s"]}
    path = write_model(tmp_path / "a.onnx", nodes, inputs, {"y": ["b", "s", 16]}, [lowest])
    random = np.random.default_rng()
    trial = {"q": random.standard_normal((2, 6, 16)).astype(np.float32), "m": np.zeros((2, 1, 6, 6), np.float32)}
    trial["m"][0, ..., 4:] = 1
    trial["m"][1] = 1
    wanted = session(str(path), tmp_path).run(None, trial)[0]
    result = lowered(path, "tensorrt-10.14", "float16")
    found = session(result.model, tmp_path).run(None, trial)[0]
    assert relative(found[0], wanted[0]) < 5e-3
    assert np.isfinite(found[1]).all()  # where all is masked, attention has no meaning; ONNX Runtime says zero


def test_constants_that_float16_cannot_hold_stay_float32(tmp_path):
    nodes = [
        make_node("MatMul", ["x", "w"], ["p"]),
        make_node("Mul", ["p", "tiny"], ["t"]),
        make_node("Mul", ["t", "huge"], ["y"]),
    ]
    random = np.random.default_rng()
    weight = onnx.numpy_helper.from_array(random.standard_normal((8, 8)).astype(np.float32), "w")
    tensors = [
        weight,
        *(onnx.helper.make_tensor(name, FLOAT, [], [value]) for name, value in (("tiny", 1e-9), ("huge", 1e9))),
    ]
    path = write_model(tmp_path / "a.onnx", nodes, {"x": ["b", 8]}, {"y": ["b", 8]}, tensors)
    rows = random.standard_normal((3, 8)).astype(np.float32)
    (wanted,) = session(str(path), tmp_path).run(None, {"x": rows})
    (found,) = session(lowered(path, "tensorrt-10.3", "float16").model, tmp_path).run(None, {"x": rows})
    assert relative(found, wanted) < 5e-3


def test_weights_stay_where_they_are(tmp_path):
    """Lowered graphs name bytes of the bundle's own data file, and hold nothing large themselves."""
    path = WORDS_REEL / "denoiser.onnx"
    canonical = onnx.load(path, load_external_data=False)
    places = {tensor.name: list(tensor.external_data) for tensor in canonical.graph.initializer if tensor.external_data}
    for target, compute in [(target, "float32") for target in TARGETS] + IN_HALF:
        model = lowered(path, target, compute).model
        assert len(model) < 400_000
        assert graph_data_files(path, model) == (WORDS_REEL / "denoiser.data",)
        for tensor in onnx.ModelProto.FromString(model).graph.initializer:
            assert list(tensor.external_data) == places.get(tensor.name, [])


def test_what_was_done_is_told():
    path = WORDS_REEL / "denoiser.onnx"
    result = lowered(path, "tensorrt-10.3", "float16")
    assert result.rewrites["Attention expanded"] == 12
    assert result.rewrites["RotaryEmbedding expanded"] == 12
    assert result.rewrites["RMSNormalization expanded"] == 24
    assert result.rewrites["Gelu expanded"] == 7
    summary = describe_lowering(path.read_bytes(), result.model, result.rewrites)
    assert (summary.before["Attention"], summary.after.get("Attention", 0)) == (12, 0)
    assert summary.after["Softmax"] == 12
    assert summary.half_nodes > result.rewrites["float16 node"]
    assert summary.float32_nodes > 100
    exact = lowered(path, "tensorrt-10.3")
    assert describe_lowering(path.read_bytes(), exact.model, exact.rewrites).half_nodes == 0


def test_the_cache_tells_targets_and_types_apart(monkeypatch):
    path = WORDS_REEL / "decoder_first.onnx"
    asked = [(target, compute) for target in ("tensorrt-10.3", "tensorrt-10.4", "cuda") for compute in LIMITS]
    first = [lowered(path, *each, keep=True) for each in asked]
    assert {result.source for result in first} == {"built"}
    assert len(list((paths.cache_folder() / "lowered").iterdir())) == len(asked)
    again = [lowered(path, *each) for each in asked]
    assert {result.source for result in again} == {"cache"}
    assert [(result.model, result.rewrites) for result in again] == [(one.model, one.rewrites) for one in first]
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert lowered(path, *asked[0]).source == "cache"
    with pytest.raises(MissingExtraError, match=r"edgereel\[gpu\]"):
        lowered(path, "tensorrt-11.0")


@pytest.mark.parametrize(
    ("target", "compute", "message"),
    [
        ("tensorrt-8.6", "bfloat16", "does not calculate in bfloat16"),
    ],
)
def test_types_that_a_target_has_not(target, compute, message):
    with pytest.raises(EngineError, match=message):
        lowered(WORDS_REEL / "denoiser.onnx", target, compute)


def test_int4_is_refused_by_a_target_that_cannot_read_it(tmp_path):
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, [32, 8], np.zeros(256, np.int8))
    scale = onnx.numpy_helper.from_array(np.ones((1, 8), np.float32), "s")
    nodes = [
        make_node("DequantizeLinear", ["w", "s"], ["d"], name="to_q.weight_dequantized", axis=0, block_size=32),
        make_node("MatMul", ["x", "d"], ["y"], name="to_q"),
    ]
    path = write_model(tmp_path / "a.onnx", nodes, {"x": ["b", 32]}, {"y": ["b", 8]}, [weight, scale])
    expected = r"a\.onnx: tensorrt-8\.6 cannot have DequantizeLinear \(to_q\.weight_dequantized\): opset 17"
    with pytest.raises(EngineError, match=expected):
        lowered(path, "tensorrt-8.6")
    assert lowered(path, "tensorrt-10.3").rewrites == {}


def test_a_graph_inside_a_node_is_refused(tmp_path):
    """An operator in there would be kept in silence."""
    inner = onnx.helper.make_graph(
        [make_node("Gelu", ["x"], ["z"])], "inner", [], [onnx.helper.make_tensor_value_info("z", FLOAT, ["b", 8])]
    )
    condition = onnx.helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])
    node = make_node("If", ["c"], ["y"], name="choice", then_branch=inner, else_branch=inner)
    path = write_model(tmp_path / "a.onnx", [node], {"x": ["b", 8]}, {"y": ["b", 8]}, [condition])
    with pytest.raises(EngineError, match=r"cannot have If \(choice\): it holds a graph"):
        lowered(path, "tensorrt-10.3", "float16")


@pytest.mark.parametrize(
    ("text", "name", "opset", "kept"),
    [
        ("tensorrt-8.6", "tensorrt-8.6", 17, 1),
        ("tensorrt-10.3", "tensorrt-10.3", 17, 1),
        (" TensorRT-10.13.2.6 ", "tensorrt-10.13", 17, 1),
        ("tensorrt-10.14", "tensorrt-10.14", 23, 3),
        ("tensorrt-10.15.1", "tensorrt-10.15", 23, 5),
        ("tensorrt-11.2", "tensorrt-11.2", 23, 5),
        ("tensorrt-rtx", "tensorrt-rtx", 17, 1),
        ("tensorrt-rtx-1.0", "tensorrt-rtx-1.0", 17, 1),
        ("tensorrt-rtx-1.7.1.116", "tensorrt-rtx-1.7", 23, 5),
        ("cuda", "cuda", 23, 4),
    ],
)
def test_targets_by_name(text, name, opset, kept):
    target = parse_target(text)
    assert (target.name, target.opset, len(target.kept)) == (name, opset, kept)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tensorrt",
        "tensorrt-9.0",
        "tensorrt-8.5",
        "tensorrt-12.0",
        "tensorrt-10",
        "tensorrt-rtx-2.0",
        "tensorrt-rtx-1",
        "cpu",
    ],
)
def test_unknown_targets_are_refused_with_those_known(text):
    with pytest.raises(UsageError, match=r"unknown target .*tensorrt-8\.6.*tensorrt-10\.3.*tensorrt-rtx.*cuda"):
        parse_target(text)


@given(some.text() | some.from_regex(r"tensorrt-(rtx-)?(1|8|10|11|[0-9]{1,5})(\.[0-9]{1,5}){0,3}"))
def test_any_text_is_a_target_or_a_usage_error(text):
    try:
        target = parse_target(text)
    except UsageError:
        return
    assert parse_target(target.name) == target


@pytest.mark.parametrize("content", [b"not a graph", b"\x08\x0a"], ids=["damaged", "empty"])
def test_graphs_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    if content == b"not a graph":
        with pytest.raises(EngineError, match=r"cannot open a\.onnx: .*not an ONNX model"):
            lower_for_target(path, parse_target("cuda"), "float16")
    else:
        lower_for_target(path, parse_target("cuda"), "float16", keep=False)
    with pytest.raises(EngineError, match=r"cannot open missing\.onnx: "):
        lower_for_target(tmp_path / "missing.onnx", parse_target("cuda"), "float16")
