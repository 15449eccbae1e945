"""OpenVINO as an engine: what it says where it is not installed, and the demo's graphs on it where it is."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import threading

import numpy as np
import pytest
from helpers.words_bundle import WORDS_REEL

onnx = pytest.importorskip("onnx")

from edgereel.core.errors import Cancelled, EngineError, MissingExtraError  # noqa: E402
from edgereel.engines import EngineOptions, Tensor, get_engine  # noqa: E402
from edgereel.engines.openvino.engine import OpenVino, cpu_settings  # noqa: E402

pytestmark = pytest.mark.lean

installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
DECODER = WORDS_REEL / "decoder_first.onnx"
SIZES = {"batch": 1, "frames": 2, "height": 6, "width": 4, "tokens": 5}


def test_where_it_is_not_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    line = 'the openvino engine needs openvino, which is not installed: pip install "edgereel[openvino]"'
    engine = get_engine("openvino")
    assert engine.unavailable() == line
    for use in (lambda: engine.open(DECODER, EngineOptions()), lambda: engine.numerics(EngineOptions())):
        with pytest.raises(MissingExtraError) as raised:
            use()
        assert str(raised.value) == line


def test_memory_is_planned_for_what_it_runs():
    engine = get_engine("openvino")
    assert (engine.device, engine.compute, engine.fixed_shapes) == ("cpu", "float32", True)
    assert engine.graph_to_run(DECODER, EngineOptions()) == DECODER


def test_tokens_get_a_scale_each_where_activations_are_dynamic():
    assert "DYNAMIC_QUANTIZATION_GROUP_SIZE" not in cpu_settings("f32", 2)
    assert cpu_settings("f32", 2, by_token=True)["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == str(2**64 - 1)


def feeds_of(graph, part=None):
    """Return random inputs of a graph or a part of it, by its own extents."""
    with get_engine("cpu").open(graph, EngineOptions(threads=1, part=part)) as session:
        random = np.random.RandomState(3)
        feeds = {}
        for name, info in session.specs.inputs.items():
            shape = [_extent(extent) for extent in info.shape]
            floats = random.randn(*shape).astype(np.float32)
            feeds[name] = np.ones(shape, np.int64) if info.dtype == "int64" else floats
        tensors = {name: Tensor.from_numpy(array) for name, array in feeds.items()}
        return feeds, {name: tensor.numpy() for name, tensor in session.run(tensors).items()}


def _extent(extent):
    if isinstance(extent, int):
        return extent
    name, _, factor = extent.partition("*")
    return SIZES[name] * int(factor or 1)


@installed
@pytest.mark.extras
@pytest.mark.parametrize(
    ("name", "part", "fixed"),
    [
        ("text_encoder", None, True),
        ("denoiser", None, False),
        ("decoder_first", None, True),
        ("decoder_next", "front", False),
        ("decoder_next", "rear", True),
    ],
)
def test_it_computes_what_the_cpu_engine_does(name, part, fixed):
    path = WORDS_REEL / f"{name}.onnx"
    feeds, expected = feeds_of(path, part)
    shapes = tuple(sorted((key, array.shape) for key, array in feeds.items())) if fixed else None
    with get_engine("openvino").open(path, EngineOptions(threads=1, part=part, shapes=shapes)) as session:
        assert session.report.precision == "float32"
        assert session.report.version.startswith("openvino 20")
        tensors = {key: Tensor.from_numpy(array) for key, array in feeds.items()}
        first, second = (session.run(tensors) for _ in range(2))
    assert set(first) == set(expected)
    for key, tensor in first.items():
        scale = max(1.0, float(np.abs(expected[key]).max()))
        np.testing.assert_allclose(tensor.numpy() / scale, expected[key] / scale, atol=1e-4)
        np.testing.assert_array_equal(tensor.numpy(), second[key].numpy())  # and is a copy
    with pytest.raises(EngineError, match="is closed and cannot run"):
        session.run(tensors)


@installed
@pytest.mark.extras
def test_what_it_cannot_do_is_refused(tmp_path):
    engine = OpenVino()
    with pytest.raises(EngineError, match="calculates in float32 or bfloat16, not in float16"):
        engine.open(DECODER, EngineOptions(compute="float16"))
    with pytest.raises(EngineError, match="holds all weights of a graph at once"):
        engine.open(DECODER, EngineOptions(weight_budget=1000))
    damaged = tmp_path / "a.onnx"
    model = onnx.ModelProto.FromString(DECODER.read_bytes())
    model.graph.node[3].input[0] = "nothing that is made"
    for content in (b"not a graph", model.SerializeToString()):
        damaged.write_bytes(content)
        with pytest.raises(EngineError, match=r"cannot open a\.onnx"):
            engine.open(damaged, EngineOptions(threads=1))
    with engine.open(WORDS_REEL / "text_encoder.onnx", EngineOptions(threads=1)) as session:
        one = Tensor.from_numpy(np.ones((1, 4), np.float32))
        with pytest.raises(EngineError, match="input input_ids is float32, the graph takes int64"):
            session.run(dict.fromkeys(session.specs.inputs, one))
        with pytest.raises(EngineError, match="odd is not right"):
            session.run({**dict.fromkeys(session.specs.inputs, one), "odd": one})


@installed
@pytest.mark.extras
def test_a_run_is_stopped(tmp_path):
    names = ["x", *(f"v{at}" for at in range(1, 2000)), "y"]
    pairs = itertools.pairwise(names)
    nodes = [onnx.helper.make_node("MatMul", [one, "w"], [other]) for one, other in pairs]
    weight = onnx.numpy_helper.from_array(np.eye(256, dtype=np.float32)[::-1] * 0.5, "w")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 256]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "main", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "long.onnx").write_bytes(model.SerializeToString())
    ended = threading.Event()
    with get_engine("openvino").open(tmp_path / "long.onnx", EngineOptions(threads=1)) as session:

        def stop_it():
            while not ended.wait(0.1):
                session.stop()

        thread = threading.Thread(target=stop_it)
        thread.start()
        with pytest.raises(Cancelled, match=r"running long\.onnx was stopped"):
            session.run({"x": Tensor.from_numpy(np.ones((2**16, 256), np.float32))})
        ended.set()
        thread.join()
        assert session.run({"x": Tensor.from_numpy(np.ones((1, 256), np.float32))})["y"].shape == (1, 256)


@installed
@pytest.mark.extras
def test_the_demo_makes_the_cpu_engine_s_clip():
    import edgereel
    from edgereel.quality.metrics import psnr

    clips = []
    for engine in ("cpu", "openvino"):
        with edgereel.load(engine=engine, threads=1, cache=False) as reel:
            clips.append(np.stack(list(reel.generate("a red ball bounces over the ocean", steps=1))))
            assert {report.engine for report in reel.report().values()} == {engine}
    assert psnr(*clips) >= 50
