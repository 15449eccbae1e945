"""The demo's graphs through a real NVIDIA parser and builder: TensorRT-RTX's, which has TensorRT 11's API and needs no GPU.

It builds for a card that is named instead of present. Opening what it built needs one, and is not tried. Skipped where it
is not installed: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import DEMO_REEL

from edgereel.engines.base import Compute, Shapes
from edgereel.engines.lowering import lower_for_target, parse_target
from edgereel.engines.tensorrt.building import BuildSettings, make_log, make_plan
from edgereel.engines.tensorrt.profiles import RANGES
from edgereel.engines.tensorrt.versions import features_of
from edgereel.errors import EngineError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

# TensorRT itself has a timing cache, which the code under test uses.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX .* Timing cache:DeprecationWarning")

GRAPHS = ("text_encoder", "denoiser", "decoder_first", "decoder_next")
SHAPES: Shapes = (("latents", (1, 24, 3, 4, 4)), ("prompt_embeds", (1, 16, 128)), ("timestep", (1,)))


class Builder:
    """The real builder, told to build for an Ada card."""

    def __init__(self, log: Any) -> None:
        self._builder = rtx.Builder(log)

    def create_builder_config(self) -> Any:
        config = self._builder.create_builder_config()
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)


@pytest.fixture
def trt() -> Iterator[Any]:
    yield SimpleNamespace(**{name: getattr(rtx, name) for name in dir(rtx) if name[0] != "_"} | {"Builder": Builder})
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
    path = DEMO_REEL / f"{graph}.onnx"
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
            trt, make_log(trt), features_of((11, 0)), model.SerializeToString(), DEMO_REEL / "g.onnx", settings, b""
        )
