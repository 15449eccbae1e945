"""What the tensorrt engine keeps of what it builds: plans without weights, and another engine where attention was not fused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.fake_tensorrt import FakeTensorRT, install_fakes
from helpers.linear_graph import write_linear_graph

from edgereel.core import paths
from edgereel.engines import EngineOptions, Tensor
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu
from edgereel.engines.tensorrt import TensorRt
from edgereel.tools.gpu_checks.graphs import BlockSize, write_block

SMALL = BlockSize(heads=2, head=8, hidden=32)
WIDE = {"inputs": 512, "outputs": 512}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_fakes(monkeypatch, "10.3")


def run(engine: Any, path: Path, x: Any, **options: Any) -> tuple[Any, str]:
    with engine.open(path, EngineOptions(compute="float32", **options)) as session:
        return session.run({"x": Tensor.from_numpy(x)})["y"].numpy(), session.report.build


def kept_bytes() -> int:
    return sum(path.stat().st_size for path in paths.cache_folder().glob("engines/*.engine"))


def linear(folder: Path) -> tuple[Path, Any, Any]:
    """Return a graph with 1.5 MB of weights, an input, and what the cpu engine makes of it."""
    path = write_linear_graph(folder, **WIDE)["path"]
    x = np.random.default_rng(2).standard_normal((3, WIDE["inputs"]), dtype=np.float32)
    with OnnxRuntimeCpu().open(path, EngineOptions(threads=1)) as session:
        return path, x, session.run({"x": Tensor.from_numpy(x)})["y"].numpy()


def test_plans_are_kept_without_weights_and_filled_from_the_bundle(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, x, expected = linear(tmp_path)
    shapes = (("x", x.shape),)
    for build in ("built", "cache"):
        made, source = run(TensorRt(), path, x, shapes=shapes)
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
        assert source == build
    assert trt.configs[0]._flags >= {"STRIP_PLAN", "REFIT_IDENTICAL"}
    assert trt.refits == 2
    assert kept_bytes() < 20_000 < (tmp_path / "graph.data").stat().st_size


@pytest.mark.parametrize("version", ["8.6", "10.15", "11.0"])
def test_versions_that_can_do_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    trt = install_fakes(monkeypatch, version)
    path, x, expected = linear(tmp_path)
    made, _ = run(TensorRt(), path, x, shapes=(("x", x.shape),))
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
    assert trt.refits == (version != "8.6")


def test_streamed_weights_stay_in_the_plan(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, x, _ = linear(tmp_path)
    run(TensorRt(), path, x, shapes=(("x", x.shape),), weight_budget=100_000)
    assert "STRIP_PLAN" not in trt.configs[0]._flags
    assert kept_bytes() > 1_000_000


def test_where_weights_cannot_be_put_in_the_engine_is_built_with_them_once(
    trt: FakeTensorRT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, x, expected = linear(tmp_path)
    trt.refit_error = "refitting is not supported here"
    shapes = (("x", x.shape),)
    with caplog.at_level(logging.WARNING):
        made, source = run(TensorRt(), path, x, shapes=shapes)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
    assert (source, len(trt.configs)) == ("built", 2)
    assert ["kept with their weights, which this TensorRT cannot put in", ".*refitting is not supported"][
        0
    ] in caplog.text
    # Another process finds the whole one and builds nothing.
    made, source = run(TensorRt(), path, x, shapes=shapes)
    assert (source, len(trt.configs)) == ("cache", 2)


def softmax_type(content: bytes) -> int:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    (softmax,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    return types[softmax.output[0]]


def test_attention_that_was_not_fused_gets_its_softmax_in_half_precision(
    trt: FakeTensorRT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_block(tmp_path, SMALL)
    options = EngineOptions(shapes=(("x", (1, 64, SMALL.width)),))
    with TensorRt().open(path, options):
        pass
    assert [softmax_type(network._model) for network in trt.networks] == [onnx.TensorProto.FLOAT]
    trt.workspace = 2**29  # all scores
    with caplog.at_level(logging.WARNING), TensorRt().open(path, options):
        pass
    # The first is from the cache.
    assert [softmax_type(network._model) for network in trt.networks[1:]] == [onnx.TensorProto.BFLOAT16]
    assert "with softmax in half precision: attention was not fused" in caplog.text


def test_versions_that_get_attention_whole_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt = install_fakes(monkeypatch, "11.0")
    trt.workspace = 2**29
    options = EngineOptions(shapes=(("x", (1, 64, SMALL.width)),))
    with TensorRt().open(write_block(tmp_path, SMALL), options):
        pass
    assert len(trt.networks) == 1
