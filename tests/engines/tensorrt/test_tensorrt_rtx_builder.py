"""Real graphs through a real NVIDIA parser and builder: TensorRT-RTX's, which has TensorRT 11's API and needs no GPU.

It builds for a card that is named instead of present. Opening what it built needs one, and is not tried. Skipped where it
is not installed: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.rtx_builder import Listener, bindings
from helpers.words_bundle import WORDS_REEL

from edgereel.core.errors import EngineError
from edgereel.engines.costs import graph_costs
from edgereel.engines.lowering.lower import lower_for_target, with_plain_weights
from edgereel.engines.lowering.targets import parse_target
from edgereel.engines.options import Compute, Shapes
from edgereel.engines.tensorrt.building import BuildSettings, make_log, make_plan
from edgereel.engines.tensorrt.profiles import RANGES
from edgereel.engines.tensorrt.versions import features_of
from edgereel.runtime.memory.sizes import GPU_ACTIVATION_MARGIN

# TensorRT itself has a timing cache, which the code under test uses.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX .* Timing cache:DeprecationWarning")

GRAPHS = ("text_encoder", "denoiser", "decoder_first", "decoder_next")
SHAPES: Shapes = (("latents", (1, 24, 3, 4, 4)), ("prompt_embeds", (1, 16, 128)), ("timestep", (1,)))


@pytest.fixture
def trt() -> Iterator[Any]:
    yield bindings()
    gc.collect()


def plan_of(
    trt: Any,
    graph: str,
    target: str,
    compute: Compute,
    shapes: Shapes | None = None,
    stream: bool = False,
    workspace: int | None = None,
) -> tuple[int, dict[str, int]]:
    """Return the size of the plan, and how many products of the graph have which type."""
    path = WORDS_REEL / f"{graph}.onnx"
    model = lower_for_target(path, parse_target(target), compute).model
    assert model is not None
    settings = BuildSettings(compute, shapes, RANGES, stream, workspace)
    plan, timings, products = make_plan(trt, make_log(trt), features_of((11, 0)), model, path, settings, b"")
    assert isinstance(timings, bytes)
    return memoryview(plan).nbytes, dict(products)


@pytest.mark.full
@pytest.mark.parametrize("compute", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-11.0"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_builds_in_every_precision(trt: Any, graph: str, target: str, compute: Compute) -> None:
    size, products = plan_of(trt, graph, target, compute)
    assert size > 2**20
    assert products[compute] > 0


@pytest.mark.parametrize("graph", GRAPHS)
def test_plain_weights_build(trt: Any, tmp_path: Path, graph: str) -> None:
    path = WORDS_REEL / f"{graph}.onnx"
    lowered = lower_for_target(path, parse_target("tensorrt-8.6"), "float16").model
    assert lowered is not None
    model, beside = with_plain_weights(lowered, path, tmp_path)
    settings = BuildSettings("float16", None, RANGES, False, None)
    plan, _, products = make_plan(trt, make_log(trt), features_of((11, 0)), model, beside, settings, b"")
    assert memoryview(plan).nbytes > 2**20
    assert products["float16"] > products["float32"]
    assert set(products) <= {"float16", "float32"}


@pytest.mark.parametrize("frames", [9, 81])
@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-11.0"])
def test_a_block_as_wide_as_wan_takes_what_is_planned(trt: Any, wide_denoiser: Path, target: str, frames: int) -> None:
    """At 832x480. With 81 frames all scores of attention would take 25 GB: that it is fused shows here, written out or whole."""
    latents = (1, 16, 1 + (frames - 1) // 4, 60, 104)
    shapes: Shapes = (("latents", latents), ("prompt_embeds", (1, 512, 4096)), ("timestep", (1,)))
    models = [lower_for_target(wide_denoiser, parse_target(name), "float16").model for name in (target, "cuda")]
    assert models[0] is not None
    assert models[1] is not None
    listener = Listener()
    settings = BuildSettings("float16", shapes, RANGES, False, None)
    make_plan(trt, listener, features_of((11, 0)), models[0], wide_denoiser, settings, b"")
    planned = graph_costs(models[1], dict(shapes), "float16", keep=False)
    assert listener.memory["Weights"] == pytest.approx(planned.weight_bytes, rel=0.02)
    assert 0.5 < listener.memory["Activation"] / planned.activation_bytes < GPU_ACTIVATION_MARGIN


@pytest.mark.parametrize(("graph", "target"), [("decoder_first", "tensorrt-10.3"), ("decoder_next", "tensorrt-11.0")])
def test_pictures_and_a_float16_state_build(trt: Any, graph: str, target: str) -> None:
    """Its parser takes bytes as outputs, and half-precision ones in and out; the plan tells their types."""
    path = WORDS_REEL / f"{graph}.onnx"
    model = lower_for_target(path, parse_target(target), "float16", keep=False, pictures=True).model
    assert model is not None
    builder = trt.Builder(log := make_log(trt))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model, str(path))
    outputs = {network.get_output(index).name: network.get_output(index).dtype for index in range(network.num_outputs)}
    assert outputs.pop("pictures") == trt.DataType.UINT8
    assert outputs.pop("frames_mean") == trt.DataType.FLOAT
    assert set(outputs.values()) == {trt.DataType.HALF}
    settings = BuildSettings("float16", None, RANGES, False, None)
    plan, _, _ = make_plan(trt, log, features_of((11, 0)), model, path, settings, b"")
    assert memoryview(plan).nbytes > 2**20


def test_what_contexts_in_given_memory_need_is_in_real_bindings(trt: Any) -> None:
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED.name == "USER_MANAGED"
    assert hasattr(trt.IExecutionContext, "set_device_memory")
    assert hasattr(trt.ICudaEngine, "device_memory_size_v2")


def test_what_filling_a_stripped_plan_needs_is_in_real_bindings(trt: Any) -> None:
    assert {"STRIP_PLAN", "REFIT_IDENTICAL"} <= set(trt.BuilderFlag.__members__)
    assert hasattr(trt.Refitter, "refit_cuda_engine")
    assert "path: str = None" in trt.OnnxParserRefitter.refit_from_bytes.__doc__


@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-11.0"])
def test_fused_attention_sums_in_float32(trt: Any, target: str) -> None:
    """The plan has the source of its kernels: `fp16_traits` are those that sum in float16, `bf16_traits` sum in float32."""
    path = WORDS_REEL / "denoiser.onnx"
    shapes: Shapes = (("latents", (1, 24, 4, 32, 32)), ("prompt_embeds", (1, 16, 128)), ("timestep", (1,)))
    model = lower_for_target(path, parse_target(target), "float16", keep=False).model
    assert model is not None
    settings = BuildSettings("float16", shapes, RANGES, False, None)
    plan, _, _ = make_plan(trt, make_log(trt), features_of((11, 0)), model, path, settings, b"")
    assert set(re.findall(rb"(fp16|bf16)_traits", bytes(memoryview(plan)))) == {b"bf16"}


@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-11.0"])
def test_the_text_encoder_builds_smaller_in_float16(trt: Any, target: str) -> None:
    # In float32 no fused kernel fits its attention, which tensorrt-11.0 keeps whole.
    whole, products = plan_of(trt, "text_encoder", target, "float32")
    assert set(products) == {"float32"}
    half, products = plan_of(trt, "text_encoder", target, "float16")
    assert products["float16"] > products["float32"] > 0
    assert half < 0.85 * whole


def test_fixed_shapes_and_streamed_weights_build(trt: Any) -> None:
    size, _ = plan_of(trt, "denoiser", "tensorrt-11.0", "float16", SHAPES, stream=True)
    assert size > 2**20


def test_weights_are_handed_over_in_memory_where_a_path_has_letters_that_the_parser_cannot_open(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers.linear_graph import write_linear_graph

    folder = tmp_path / "Jörg"
    folder.mkdir()
    path = write_linear_graph(folder, inputs=256, outputs=256)["path"]
    model = lower_for_target(path, parse_target("tensorrt-11.0"), "float16", keep=False).model
    assert model is not None
    settings = BuildSettings("float16", (("x", (64, 256)),), RANGES, False, None)
    plans = []
    for opens in (True, False):
        monkeypatch.setattr("edgereel.engines.tensorrt.building._opens_paths", lambda path, opens=opens: opens)
        plan, _, _ = make_plan(trt, make_log(trt), features_of((11, 0)), model, path, settings, b"")
        plans.append(bytes(memoryview(plan)))
    # The weights are in both: the plans differ in what the builder counts anew each time alone.
    assert len(plans[0]) == len(plans[1]) > 2 * 256 * 256 * 2
    (folder / "graph.data").write_bytes(bytes(len((folder / "graph.data").read_bytes())))
    plan, _, _ = make_plan(trt, make_log(trt), features_of((11, 0)), model, path, settings, b"")
    weights = [np.frombuffer(each, np.uint8) for each in (plans[1], bytes(memoryview(plan)))]
    assert (weights[0] != 0).sum() > (weights[1] != 0).sum() + 2 * 256 * 256 * 2 * 0.9


def test_too_little_workspace_is_told_in_the_builders_words(trt: Any) -> None:
    with pytest.raises(EngineError, match=r"cannot build an engine of text_encoder\.onnx: .*within workspace limit"):
        plan_of(trt, "text_encoder", "tensorrt-10.3", "float16", workspace=2**10)


def test_what_the_parser_cannot_read_is_told_by_node(trt: Any) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("NoSuchOperator", ["x"], ["y"], name="strange")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    settings = BuildSettings("float32", None, RANGES, False, None)
    with pytest.raises(EngineError, match=r"cannot read g\.onnx: NoSuchOperator strange: "):
        make_plan(
            trt, make_log(trt), features_of((11, 0)), model.SerializeToString(), WORDS_REEL / "g.onnx", settings, b""
        )
