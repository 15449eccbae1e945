"""What a graph costs: counted by hand, by torch, by ONNX Runtime's own shapes and memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import DEMO_CHECKPOINT, DEMO_STUDENT
from helpers.words_bundle import WORDS_REEL
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edgereel.core import paths  # noqa: E402
from edgereel.core.errors import EngineError  # noqa: E402
from edgereel.engines import costs  # noqa: E402
from edgereel.engines.costs import CPU_ACTIVATION_MARGIN, graph_costs  # noqa: E402
from edgereel.engines.costs.analysis import analyse  # noqa: E402
from edgereel.engines.costs.liveness import Step, peak_bytes  # noqa: E402
from edgereel.engines.graphs.values import propagate  # noqa: E402
from edgereel.engines.lowering.lower import lower_graph  # noqa: E402

make_node = onnx.helper.make_node
FLOAT = onnx.TensorProto.FLOAT
DENOISER = WORDS_REEL / "denoiser.onnx"


def denoiser_shapes(frames=3, height=6, width=10, tokens=11):
    return {"latents": (1, 24, frames, height, width), "timestep": (1,), "prompt_embeds": (1, tokens, 128)}


def shapes_of(path, extents):
    """Return the shapes of a graph's inputs; extents: those of the named dimensions, which may be expressions of them."""
    return {
        item.name: tuple(
            dim.dim_value or eval(dim.dim_param, {"batch": 1, **extents}) for dim in item.type.tensor_type.shape.dim
        )
        for item in onnx.load(path, load_external_data=False).graph.input
    }


def model_of(nodes, inputs, outputs, constants=(), opset=23):
    """Serialize a graph; inputs: {name: shape}, float32; outputs: names."""
    values = [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    ends = [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "main", values, ends, list(constants))
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def weight(name, shape, element=FLOAT):
    """Return a weight whose data lies outside and is nowhere to be found."""
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=element)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nowhere.data")
    return tensor


GRAPHS = [
    (DENOISER, denoiser_shapes()),
    (WORDS_REEL / "text_encoder.onnx", {"input_ids": (2, 9), "attention_mask": (2, 9)}),
    (WORDS_REEL / "decoder_first.onnx", shapes_of(WORDS_REEL / "decoder_first.onnx", {"height": 6, "width": 4})),
    (WORDS_REEL / "decoder_next.onnx", shapes_of(WORDS_REEL / "decoder_next.onnx", {"height": 6, "width": 4})),
]


@pytest.mark.parametrize(("path", "shapes"), GRAPHS, ids=[path.stem for path, _ in GRAPHS])
def test_every_shape_is_what_onnxruntime_makes(path, shapes):
    lowered = lower_graph(path, "float", ort.__version__, keep=False).model
    model = onnx.ModelProto.FromString(lowered)
    values = propagate(model, shapes)
    made = [name for node in model.graph.node for name in node.output if name]
    ends = {item.name for item in model.graph.output}
    for name in set(made) - ends:
        model.graph.output.add(name=name).type.tensor_type.elem_type = values[name].element
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    folder = "session.model_external_initializers_file_folder_path"
    settings.add_session_config_entry(folder, str(path.parent))
    bfloat16 = {name for name in made if values[name].element == onnx.TensorProto.BFLOAT16}
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    dtypes = {item.name: np.float32 if item.type == "tensor(float)" else np.int64 for item in session.get_inputs()}
    asked = [name for name in made if name not in bfloat16]
    found = session.run(asked, {name: np.ones(shape, dtypes[name]) for name, shape in shapes.items()})
    assert len(asked) > 60
    assert {name: array.shape for name, array in zip(asked, found, strict=True)} == {
        name: values[name].shape for name in asked
    }


def wan_flops(config, latents, text):
    """Return the FLOPs of a Wan denoiser, written out from its configuration."""
    depth, height, width = (extent // patch for extent, patch in zip(latents[2:], config["patch_size"], strict=True))
    tokens = depth * height * width
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    patch = int(np.prod(config["patch_size"]))
    embedding = 2 * tokens * patch * config["in_channels"] * inner
    time = 2 * (config["freq_dim"] * inner + inner * inner + inner * 6 * inner)
    prompt = 2 * text * (config["text_dim"] * inner + inner * inner)
    self_attention = 4 * 2 * tokens * inner**2 + 4 * tokens**2 * inner
    cross_attention = 2 * 2 * tokens * inner**2 + 2 * 2 * text * inner**2 + 4 * tokens * text * inner
    feed_forward = 2 * 2 * tokens * inner * config["ffn_dim"]
    output = 2 * tokens * inner * patch * config["out_channels"]
    return embedding + time + prompt + config["num_layers"] * (self_attention + cross_attention + feed_forward) + output


def torch_flops(run):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops()


def denoiser_flops_by_torch(config, shapes):
    import torch
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        module = WanTransformer3DModel.from_config(config)
        latents, timestep, text = (torch.zeros(shapes[name]) for name in ("latents", "timestep", "prompt_embeds"))
    return torch_flops(lambda: module(latents, timestep, text))


def test_the_flops_of_the_demos_denoiser():
    config = json.loads((DEMO_STUDENT / "config.json").read_text())
    shapes = denoiser_shapes(5, 8, 12, 16)
    found = graph_costs(DENOISER, shapes)
    by_hand = wan_flops(config, shapes["latents"], 16)
    assert found.flops == by_hand
    assert denoiser_flops_by_torch(config, shapes) == pytest.approx(by_hand, rel=0.01)
    lowered = lower_graph(DENOISER, "float", ort.__version__, keep=False).model
    assert graph_costs(lowered, shapes).flops == by_hand


@pytest.mark.full
@pytest.mark.parametrize("bundle", ["step", "int8"])
def test_the_flops_of_wans_denoiser(bundle, tmp_path):
    from edgereel.tools.step_bench.step_model import CONFIG, LATENTS, TEXT_TOKENS, write_bundle, write_int8_bundle

    path = write_bundle(tmp_path)
    activations = "float"
    if bundle == "int8":
        path, activations = write_int8_bundle(tmp_path), "dynamic"
    shapes = {"latents": LATENTS, "timestep": (1,), "prompt_embeds": (1, TEXT_TOKENS, 4096)}
    by_hand = wan_flops(CONFIG, LATENTS, TEXT_TOKENS)
    lowered = lower_graph(path, activations, ort.__version__, keep=False).model
    assert graph_costs(path, shapes).flops == by_hand
    assert graph_costs(lowered, shapes).flops == by_hand
    assert denoiser_flops_by_torch(CONFIG, shapes) == pytest.approx(by_hand, rel=0.01)


def test_the_flops_of_the_demos_decoder():
    import torch
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(DEMO_CHECKPOINT / "vae").eval()
    path, shapes = GRAPHS[2]
    latent = torch.zeros(shapes["latent"])
    by_torch = torch_flops(lambda: vae.decode(latent))
    assert graph_costs(path, shapes).flops == pytest.approx(by_torch, rel=0.01)


def test_products_counted_by_hand():
    nodes = [
        make_node("ConvTranspose", ["x", "up"], ["a"], strides=[2, 2], group=2),
        make_node("Conv", ["a", "down"], ["b"], strides=[2, 2], group=3),
        make_node("Reshape", ["b", "flat"], ["c"]),
        make_node("Gemm", ["c", "w"], ["d"], transB=1),
        make_node(
            "MatMulNBits", ["d", "packed", "scales"], ["y"], domain="com.microsoft", K=64, N=7, bits=4, block_size=32
        ),
    ]
    constants = [
        weight("up", [4, 3, 2, 2]),
        weight("down", [9, 2, 2, 2]),
        weight("w", [64, 9 * 5 * 3]),
        weight("packed", [7, 2, 16], onnx.TensorProto.UINT8),
        weight("scales", [14]),
        onnx.numpy_helper.from_array(np.array([1, -1]), "flat"),
    ]
    content = model_of(nodes, {"x": ["n", 4, "h", "w"]}, ["y"], constants)
    found = graph_costs(content, {"x": (1, 4, 5, 3)})
    # up: each input element meets 3 channels of 2×2; down: each of 9×5×3 outputs sees 2 channels of 2×2.
    expected = 2 * (60 * 12 + 135 * 8 + 135 * 64 + 64 * 7)
    assert found.flops == expected
    gemm = found.by_operator["Gemm"]
    assert (gemm.count, gemm.flops, gemm.bytes) == (1, 2 * 135 * 64, 4 * (135 + 64 * 135 + 64))
    assert found.by_operator["Reshape"].bytes == 0


def test_weights_as_a_session_holds_them():
    bfloat16, int4 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT4
    nodes = [
        make_node("Cast", ["w"], ["wide"], to=FLOAT),
        make_node("Shape", ["x"], ["index"]),
        make_node("Gather", ["table", "index"], ["rows"]),
        make_node("Cast", ["rows"], ["looked_up"], to=FLOAT),
        make_node("Add", ["x", "looked_up"], ["sum"]),
        make_node("MatMul", ["sum", "wide"], ["a"]),
        make_node("DequantizeLinear", ["q", "scale"], ["unpacked"], axis=0, block_size=32),
        make_node("MatMul", ["a", "unpacked"], ["y"]),
    ]
    constants = [
        weight("w", [64, 64], bfloat16),
        weight("table", [100, 64], bfloat16),
        weight("q", [64, 32], int4),
        weight("scale", [2, 32]),
    ]
    content = model_of(nodes, {"x": ["t", 64]}, ["y"], constants)
    parts = [64 * 64 * 4, 100 * 64 * 2, 64 * 32 // 2]
    found = graph_costs(content, {"x": (2, 64)})
    assert found.largest_weights[:3] == tuple(sorted(parts, reverse=True))
    assert found.weight_bytes == sum(parts) + 2 * 32 * 4
    assert "DequantizeLinear" not in found.by_operator
    assert graph_costs(content, {"x": (2, 64)}, "float16").largest_weights[:2] == (100 * 64 * 2, 64 * 64 * 2)


def test_memory_of_a_small_graph_by_hand():
    """x [t, 8] → Concat [t, 16] → Slice [t, 4], the state → Mul in place → y."""
    axes = {
        name: onnx.numpy_helper.from_array(np.array([value]), name) for name, value in (("0", 0), ("4", 4), ("1", 1))
    }
    nodes = [
        make_node("Concat", ["x", "x"], ["wide"], axis=1),
        make_node("Slice", ["wide", "0", "4", "1"], ["state"]),
        make_node("Sigmoid", ["wide"], ["open"]),
        make_node("Mul", ["open", "half"], ["y"]),
    ]
    half = onnx.numpy_helper.from_array(np.float32(0.5), "half")
    found = graph_costs(model_of(nodes, {"x": ["t", 8]}, ["y", "state"], [*axes.values(), half]), {"x": (10, 8)})
    assert found.activation_bytes == 4 * 10 * (8 + 16 + 4)
    assert (found.input_bytes, found.output_bytes) == (4 * 80, 4 * 10 * (16 + 4))


def test_liveness_by_hand():
    sizes = {"x": 1, "a": 10, "b": 10, "c": 4, "view": 10, "y": 2}
    steps = [
        Step(("x",), ("a",)),
        Step(("a",), ("view",), shares=True),
        Step(("view",), ("b",)),
        Step(("a",), ("c",)),
        Step(("b", "c"), ("y",)),
    ]
    assert peak_bytes(steps, sizes, ["x"], ["y"]) == 1 + 10 + 10 + 4
    shorter = [*steps[:3], Step(("b",), ("c",)), steps[4]]
    assert peak_bytes(shorter, sizes, ["x"], ["y"]) == 1 + 10 + 10
    in_place = [*shorter[:2], Step(("view",), ("b",), in_place=True), *shorter[3:]]
    assert peak_bytes(in_place, sizes, ["x"], ["y"]) == 1 + 10 + 4 + 2
    with_workspace = [Step(("x",), ("a",), workspace=100), *in_place[1:]]
    assert peak_bytes(with_workspace, sizes, ["x"], ["y"]) == 1 + 10 + 100
    assert (
        peak_bytes([Step(("x",), ("unread",)), Step(("x",), ("y",))], {"x": 1, "unread": 50, "y": 60}, "x", "y") == 61
    )


@st.composite
def programs(draw):
    """Return steps over one input, sizes, and the outputs: any values."""
    names, steps = ["v0"], []
    for count in range(1, draw(st.integers(1, 12)) + 1):
        reads = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        names.append(f"v{count}")
        steps.append(Step(tuple(reads), (names[-1],)))
    sizes = {name: draw(st.integers(0, 100)) for name in names}
    outputs = draw(st.lists(st.sampled_from(names[1:]), min_size=1, unique=True))
    return steps, sizes, outputs


@given(programs())
def test_liveness_is_that_of_looking_at_every_moment(program):
    steps, sizes, outputs = program
    made = {"v0": 0, **{step.writes[0]: at for at, step in enumerate(steps)}}
    end = dict(made)
    end.update((name, at) for at, step in enumerate(steps) for name in step.reads)
    end.update((name, len(steps)) for name in (*outputs, "v0"))
    moments = [sum(sizes[name] for name in sizes if made[name] <= at <= end[name]) for at in range(len(steps))]
    peak = peak_bytes(steps, sizes, ["v0"], outputs)
    assert peak == max(moments)
    assert (
        max(sum(sizes[name] for name in {*step.reads, *step.writes}) for step in steps) <= peak <= sum(sizes.values())
    )


@given(programs(), st.lists(st.booleans(), min_size=12, max_size=12))
def test_reuse_never_takes_more(program, in_place):
    steps, sizes, outputs = program
    reusing = [Step(step.reads, step.writes, in_place=may) for step, may in zip(steps, in_place, strict=False)]
    assert sizes["v0"] <= peak_bytes(reusing, sizes, ["v0"], outputs) <= peak_bytes(steps, sizes, ["v0"], outputs)


RUN = """
import json, sys
import numpy as np, onnxruntime as ort

def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))

model, folder, small, large = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:5])
settings = ort.SessionOptions()
settings.intra_op_num_threads = 1
settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
settings.enable_mem_pattern = False
settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
session = ort.InferenceSession(open(model, "rb").read(), settings, providers=["CPUExecutionProvider"])
session.run(None, {name: np.ones(shape, np.float32) for name, shape in small.items()})
floor = status("VmRSS")
inputs = {name: np.ones(shape, np.float32) for name, shape in large.items()}
open("/proc/self/clear_refs", "w").write("5")
for _ in range(2):
    session.run(None, inputs)
print(status("VmHWM") - floor)
"""


def measured(path, small, large, folder):
    """Return what ONNX Runtime's memory grows by, at most, from a run at small shapes to two at large ones."""
    model = folder / "lowered.onnx"
    model.write_bytes(lower_graph(path, "float", ort.__version__, keep=False).model)
    arguments = [str(model), str(path.parent), json.dumps(small), json.dumps(large)]
    command = [sys.executable, "-c", RUN, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("graph", "extents"),
    [("decoder_first", 16), ("decoder_next", 16), ("decoder_next", 32), ("denoiser", 32)],
)
def test_memory_is_what_onnxruntime_takes(graph, extents, tmp_path):
    path = WORDS_REEL / f"{graph}.onnx"
    if graph == "denoiser":
        small, large = denoiser_shapes(1, 2, 2, 1), denoiser_shapes(5, extents, extents, 16)
    else:
        small, large = (shapes_of(path, {"height": side, "width": side}) for side in (2, extents))
    lowered = lower_graph(path, "float", ort.__version__, keep=False).model
    predicted = CPU_ACTIVATION_MARGIN * graph_costs(lowered, large).activation_bytes
    found = measured(path, small, large, tmp_path)
    assert found <= predicted <= 2 * found


def kept():
    return sorted((paths.cache_folder() / "costs").iterdir())


def test_a_second_time_needs_no_onnx(monkeypatch):
    first = graph_costs(DENOISER, denoiser_shapes())
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from pathlib import Path\n"
        "from edgereel.engines.costs import graph_costs\n"
        "from edgereel.core.errors import MissingExtraError\n"
        f"print(graph_costs(Path({str(DENOISER)!r}), {denoiser_shapes()!r}))\n"
        "try:\n"
        f"    graph_costs(Path({str(DENOISER)!r}), {denoiser_shapes(tokens=5)!r})\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    shown, refusal = printed.splitlines()
    assert shown == str(first)
    assert 'pip install "edgereel[cpu]"' in refusal


def test_the_key_is_all_that_the_figures_depend_on(monkeypatch):
    found = [
        graph_costs(DENOISER, denoiser_shapes()),
        graph_costs(DENOISER, denoiser_shapes(tokens=5)),
        graph_costs(DENOISER, denoiser_shapes(), "float16"),
        graph_costs(DENOISER.read_bytes() + b"\x52\x00", denoiser_shapes()),
    ]
    assert len(kept()) == 4
    assert found[0] == found[3]
    assert all(one != other for one, other in itertools.combinations(found[:3], 2))
    monkeypatch.setattr(costs, "VERSION", costs.VERSION + 1)
    graph_costs(DENOISER, denoiser_shapes())
    assert len(kept()) == 5
    graph_costs(DENOISER, denoiser_shapes(tokens=6), keep=False)
    assert len(kept()) == 5


def signed(body):
    from edgereel.engines.cache import store

    key = kept()[0].name
    store.write_entry("costs", key, {}, body)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.write_bytes(b""),
        lambda entry: entry.write_bytes(entry.read_bytes().replace(b'"flops": ', b'"flops": 1', 1)),
        lambda entry: signed(b"[]"),
        lambda entry: signed(b"{}"),
        lambda entry: signed(b"[" * 100_000),
        lambda entry: signed(entry.read_bytes().split(b"\n", 1)[1].replace(b'"flops": ', b'"flops": -', 1)),
        lambda entry: signed(entry.read_bytes().split(b"\n", 1)[1].replace(b'"count": ', b'"many": ', 1)),
        lambda entry: signed(entry.read_bytes().split(b"\n", 1)[1].replace(b'"count": ', b'"count": 0.', 1)),
    ],
)
def test_a_damaged_entry_is_made_again(damage):
    first = graph_costs(DENOISER, denoiser_shapes())
    whole = kept()[0].read_bytes()
    damage(kept()[0])
    assert kept()[0].read_bytes() != whole
    assert graph_costs(DENOISER, denoiser_shapes()) == first
    assert kept()[0].read_bytes() == whole


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "file"))
    assert graph_costs(DENOISER, denoiser_shapes()) == graph_costs(DENOISER, denoiser_shapes())


@pytest.mark.parametrize(
    ("graph", "shapes", "message"),
    [
        (DENOISER.with_name("absent.onnx"), {}, "cannot open absent.onnx"),
        (b"not a graph", {}, "not an ONNX model"),
        (DENOISER, {"latents": (1, 24, 1, 2, 2)}, "shapes are of"),
        (DENOISER, {**denoiser_shapes(), "timestep": (1, 1)}, "timestep"),
        (DENOISER, {**denoiser_shapes(), "latents": (1, 23, 1, 2, 2)}, "latents"),
        (model_of([make_node("Unheard", ["x"], ["y"])], {"x": [1]}, ["y"]), {"x": (1,)}, "Unheard"),
        (model_of([make_node("Odd", ["x"], ["y"], domain="com.microsoft")], {"x": [1]}, ["y"]), {"x": (1,)}, "Odd"),
        (model_of([make_node("NonZero", ["x"], ["y"])], {"x": [2]}, ["y"]), {"x": (2,)}, "NonZero"),
        (model_of([make_node("Neg", ["z"], ["y"])], {"x": [2]}, ["y"]), {"x": (2,)}, "'z'"),
    ],
)
def test_what_cannot_be_told_is_an_error(graph, shapes, message):
    with pytest.raises(EngineError, match=message):
        graph_costs(graph, shapes)


def test_a_range_that_would_fill_memory_is_not_computed():
    bounds = [
        onnx.numpy_helper.from_array(np.int64(value), name) for name, value in (("a", 0), ("b", 10**12), ("s", 1))
    ]
    nodes = [make_node("Range", ["a", "b", "s"], ["r"]), make_node("Cast", ["r"], ["y"], to=FLOAT)]
    found = analyse(model_of(nodes, {"x": [1]}, ["y"], bounds), {"x": (1,)}, "float32")
    assert found.output_bytes == 4 * 10**12
