"""The tensorrt engine from end to end, against stand-ins for TensorRT and CUDA that compute on the CPU.

What the stand-ins prove, and what not, is at the head of fake_tensorrt.py.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.fake_tensorrt import FakeTensorRT, install_fakes
from helpers.words_bundle import WORDS_REEL
from numpy.typing import NDArray

from edgereel.bundle.reader import open_bundle
from edgereel.core import paths
from edgereel.core.errors import EngineError, OutOfMemory
from edgereel.engines import EngineOptions, Session, Tensor
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu
from edgereel.engines.tensorrt import TensorRt
from edgereel.engines.tensorrt.device_memory import DeviceBuffer
from edgereel.runtime.decoding.decoder import decode_frames
from edgereel.runtime.reel import Reel

DENOISER = WORDS_REEL / "denoiser.onnx"
FLOAT32 = EngineOptions(compute="float32")
CPU = EngineOptions(threads=1)
Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_fakes(monkeypatch, "10.3")


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: Tensor.from_numpy(array) for name, array in arrays.items()}


def denoiser_inputs(seed: int, frames: int = 2) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "latents": random.standard_normal((1, 24, frames, 4, 4), dtype=np.float32),
        "timestep": random.uniform(0, 1000, 1).astype(np.float32),
        "prompt_embeds": random.standard_normal((1, 9, 128), dtype=np.float32),
    }


def shapes_of(arrays: Arrays) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, array.shape) for name, array in arrays.items()))


def on_cpu(graph: Path, arrays: Arrays) -> Arrays:
    with OnnxRuntimeCpu().open(graph, CPU) as session:
        return {name: tensor.numpy() for name, tensor in session.run(tensors(arrays)).items()}


def write_linear(folder: Path, dtype: int = onnx.TensorProto.FLOAT) -> tuple[Path, Arrays]:
    """Write a graph of one product of [rows, 6] with weights in a file of their own; return it and inputs for it."""
    weights = np.random.default_rng(5).standard_normal((6, 4), dtype=np.float32)
    if dtype == onnx.TensorProto.INT64:
        nodes = [onnx.helper.make_node("Gather", ["w", "x"], ["y"], axis=0)]
        outputs: list[int | str] = ["rows", 6, 4]
    else:
        nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")]
        outputs = ["rows", 4]
    graph = onnx.helper.make_graph(
        nodes,
        "linear",
        [onnx.helper.make_tensor_value_info("x", dtype, ["rows", 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, outputs)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "linear.onnx"
    onnx.save(model, path, save_as_external_data=True, location="linear.data", size_threshold=0)
    inputs = np.random.default_rng(6).integers(0, 6, (3, 6)).astype(onnx.helper.tensor_dtype_to_np_dtype(dtype))
    return path, {"x": inputs}


ROWS = {"rows": (1, 2, 8)}


@pytest.mark.parametrize("version", ["8.6", "10.3", "10.15", "11.0"])
def test_the_denoiser_gives_the_cpu_engines_numbers_in_float32(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install_fakes(monkeypatch, version)
    arrays = denoiser_inputs(seed=11)
    with TensorRt().open(DENOISER, FLOAT32) as session:
        prediction = session.run(tensors(arrays))["prediction"].numpy()
        assert session.report.precision == "float32"
        assert session.report.provider == f"TensorrtEngine {version}"
    np.testing.assert_allclose(prediction, on_cpu(DENOISER, arrays)["prediction"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("version", ["8.6", "10.3", "11.0"])
def test_float16_is_the_default_and_what_was_built_is_reported(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install_fakes(monkeypatch, version)
    arrays = denoiser_inputs(seed=12)
    with TensorRt().open(DENOISER, EngineOptions()) as session:
        prediction = session.run(tensors(arrays))["prediction"].numpy()
        assert session.report.precision.startswith("float16")
        assert session.report.rewrites["float16 node"] > 0
    expected = on_cpu(DENOISER, arrays)["prediction"]
    difference = np.abs(prediction - expected).max()
    assert 1e-5 < difference < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("version", ["8.6", "10.3"])
def test_frames_of_the_demo_are_those_of_the_cpu_engine(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Its weights are in bfloat16, which 8.6 does not know."""
    install_fakes(monkeypatch, version)
    frames = {}
    for engine, options in ((TensorRt(), FLOAT32), (OnnxRuntimeCpu(), CPU)):
        with Reel(open_bundle(WORDS_REEL), engine, options) as reel:
            video = reel.generate("a red ball bounces over the ocean", seed=3, steps=2, size=(64, 64), frames=9)
            frames[engine.name] = np.stack(list(video)).astype(int)
    assert frames["cpu"].std() > 1
    assert np.abs(frames["tensorrt"] - frames["cpu"]).max() <= 1  # of 255: rounding falls on either side
    kept = {path.suffix for path in (paths.cache_folder() / "engines").iterdir()}
    assert kept == {".engine", ".json", ".lock"}  # what is written for a parser is gone


def test_decoded_frames_agree_to_a_hundred_thousandth(trt: FakeTensorRT) -> None:
    latents = np.random.default_rng(13).standard_normal((2, 1, 24, 1, 4, 4), dtype=np.float32)
    engine = TensorRt()
    decoded: dict[str, list[NDArray[Any]]] = {"tensorrt": [], "cpu": []}
    for opened, options in ((engine, FLOAT32), (OnnxRuntimeCpu(), CPU)):
        with (
            opened.open(WORDS_REEL / "decoder_first.onnx", options) as first,
            opened.open(WORDS_REEL / "decoder_next.onnx", options) as following,
        ):
            outputs = first.run({"latent": Tensor.from_numpy(latents[0])})
            state = {name: tensor for name, tensor in outputs.items() if name != "frames"}
            after = following.run({"latent": Tensor.from_numpy(latents[1]), **state})
            decoded[opened.name] += [outputs["frames"].numpy(), after["frames"].numpy()]
    for ours, expected in zip(decoded["tensorrt"], decoded["cpu"], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_version_8_is_told_the_precision_of_every_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt = install_fakes(monkeypatch, "8.6")
    path, arrays = write_linear(tmp_path)
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        result = session.run(tensors(arrays))["y"].numpy()
    np.testing.assert_allclose(result, on_cpu(path, arrays)["y"], rtol=1e-6)
    assert trt.flagged(trt.networks[0]._flags, "EXPLICIT_BATCH")
    with TensorRt(ROWS).open(path, EngineOptions(compute="float16")) as session:
        assert session.report.precision == "float16"
    assert {"FP16", "OBEY_PRECISION_CONSTRAINTS"} <= trt.configs[-1]._flags
    constrained = {
        layer.type.name: layer.precision for layer in trt.networks[-1]._layers if layer.precision is not None
    }
    assert constrained == {"MATRIX_MULTIPLY": trt.DataType.HALF}


def test_version_8_takes_int64_inputs_as_int32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_fakes(monkeypatch, "8.6")
    path, arrays = write_linear(tmp_path, onnx.TensorProto.INT64)
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        assert session.specs.inputs["x"].dtype == "int64"
        np.testing.assert_array_equal(session.run(tensors(arrays))["y"].numpy(), on_cpu(path, arrays)["y"])
        with pytest.raises(EngineError, match="beyond 32 bits"):
            session.run(tensors({"x": arrays["x"] + 2**40}))


@pytest.mark.parametrize(("version", "typed"), [("10.3", True), ("10.15", True), ("11.0", False)])
def test_networks_are_strongly_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, typed: bool
) -> None:
    trt = install_fakes(monkeypatch, version)
    path, _ = write_linear(tmp_path)
    TensorRt(ROWS, workspace=2**20).open(path, EngineOptions(compute="float16")).close()
    (network,) = trt.networks
    assert trt.flagged(network._flags, "STRONGLY_TYPED") is typed  # the only kind there is in 11
    # No TensorFloat-32, which is on by default.
    assert trt.configs[0]._flags == {"STRIP_PLAN", "REFIT_IDENTICAL"}
    assert trt.configs[0]._pools == {"WORKSPACE": 2**20}


def test_an_engine_is_built_once_and_again_when_anything_it_depends_on_changes(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgereel.core import machine

    path, arrays = write_linear(tmp_path)

    def build(options: EngineOptions = FLOAT32, ranges: Any = ROWS, workspace: int | None = None) -> str:
        with TensorRt(ranges, workspace).open(path, options) as session:
            session.run(tensors(arrays))
            return session.report.build

    assert [build(), build()] == ["built", "cache"]
    assert build(EngineOptions(compute="float16")) == "built"
    assert build(EngineOptions(compute="float32", shapes=shapes_of(arrays))) == "built"
    assert build(EngineOptions(compute="float32", weight_budget=10)) == "built"
    assert build(EngineOptions(compute="float32", weight_budget=20)) == "cache"  # the budget is set at run time
    assert build(ranges={"rows": (1, 2, 9)}) == "built"
    assert build(workspace=2**20) == "built"
    card = machine.Gpu("NVIDIA H100", 80 * 2**30, "9.0", "590.01")
    monkeypatch.setattr(machine, "find_gpus", lambda: ([card], ""))
    assert build() == "built"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert build() == "built"
    weights = bytearray((tmp_path / "linear.data").read_bytes())
    weights[0] ^= 1
    (tmp_path / "linear.data").write_bytes(weights)
    assert [build(), build()] == ["built", "cache"]


def test_the_second_engine_starts_from_the_timing_cache_of_the_first(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, _ = write_linear(tmp_path)
    TensorRt(ROWS).open(path, FLOAT32).close()
    seen = []
    create = trt.IBuilderConfig.create_timing_cache
    trt.IBuilderConfig.create_timing_cache = lambda config, data: seen.append(data) or create(config, data)
    TensorRt({"rows": (1, 3, 8)}).open(path, FLOAT32).close()
    assert seen == [b"10.3.0 measured 1"]


def test_a_timing_cache_of_another_version_is_not_used(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, _ = write_linear(tmp_path)
    TensorRt(ROWS).open(path, FLOAT32).close()
    trt.__version__ = "10.4.0"
    TensorRt(ROWS).open(path, FLOAT32).close()
    assert trt.configs[1]._timings._data == b"10.4.0 measured 2"


def test_a_builder_that_makes_float32_of_float16_is_found_out(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, _ = write_linear(tmp_path)
    trt.builds_float32 = True
    with pytest.raises(EngineError, match="asked for float16 and built 1 of 1 product layers in float32"):
        TensorRt(ROWS).open(path, EngineOptions())
    trt.builds_float32 = False
    with TensorRt(ROWS).open(path, EngineOptions()) as session:
        assert session.report.build == "built"  # the wrong one was not kept
    assert len(trt.engines) == 2  # each that was built is opened once: what is checked is what runs


def test_parser_errors_name_the_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, _ = write_linear(tmp_path)
    for version, told in (("10.3", "MatMul linear: no importer for MatMul"), ("8.6", "node 0: no importer for MatMul")):
        trt = install_fakes(monkeypatch, version)
        trt.unsupported = {"MatMul"}
        with pytest.raises(EngineError, match=rf"TensorRT cannot read linear\.onnx: {told}"):
            TensorRt(ROWS).open(path, FLOAT32)


def test_what_tensorrt_says_is_in_the_error(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)
    trt.build_error = "Could not find any implementation for node linear"
    with pytest.raises(EngineError, match=r"cannot build an engine of linear\.onnx: Could not find any"):
        TensorRt(ROWS).open(path, FLOAT32)
    trt.build_error = "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)"
    with pytest.raises(OutOfMemory, match="Requested size"):
        TensorRt(ROWS).open(path, FLOAT32)
    trt.build_error = ""
    trt.context_error = "Cuda Runtime (out of memory)"
    with pytest.raises(OutOfMemory, match="make room for running"):
        TensorRt(ROWS).open(path, FLOAT32)
    trt.context_error = ""
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        trt.execute_error = "illegal memory access"
        with pytest.raises(EngineError, match=r"running linear\.onnx failed: illegal memory access"):
            session.run(tensors(arrays))
        trt.execute_error = ""
        assert session.run(tensors(arrays))["y"].shape == (3, 4)
    trt.no_device = True
    with pytest.raises(
        EngineError, match=r"cannot start on this GPU: .*its last warning was: CUDA initialization failure"
    ):
        TensorRt({"rows": (1, 1, 1)}).open(path, FLOAT32)


def test_a_compute_that_a_version_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_fakes(monkeypatch, "8.6")
    path, _ = write_linear(tmp_path)
    with pytest.raises(EngineError, match=r"8\.6\.0 cannot calculate in bfloat16: choose from float32, float16"):
        TensorRt(ROWS).open(path, EngineOptions(compute="bfloat16"))
    with pytest.raises(EngineError, match="the canonical graph calculates in float32"):
        TensorRt(ROWS).open(path, EngineOptions(compute="float16", lower=False))
    with TensorRt(ROWS).open(path, EngineOptions(lower=False)) as session:
        assert (session.report.lowered, session.report.precision) == ("off", "float32")


def test_shapes_out_of_range_are_refused_with_the_range(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, _ = write_linear(tmp_path)
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        assert session.specs.inputs["x"].shape == ("x_0", 6)
        for rows in (1, 8, 2):
            assert session.run(tensors({"x": np.ones((rows, 6), np.float32)}))["y"].shape == (rows, 4)
        with pytest.raises(EngineError, match=r"shape \[9, 6\], the engine was built for \[1, 6\] to \[8, 6\]"):
            session.run(tensors({"x": np.ones((9, 6), np.float32)}))
        assert session.run(tensors({"x": np.ones((8, 6), np.float32)}))["y"].shape == (8, 4)


def test_wrong_inputs_are_refused(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        with pytest.raises(EngineError, match=r"missing inputs \['x'\], unknown inputs \['z'\]"):
            session.run(tensors({"z": arrays["x"]}))
        with pytest.raises(EngineError, match="input x is float64, the graph takes float32"):
            session.run(tensors({"x": arrays["x"].astype(np.float64)}))
    with pytest.raises(EngineError, match="is closed"):
        session.run(tensors(arrays))
    with pytest.raises(EngineError, match=r"cannot have shape \[3, 5\]"):
        TensorRt().open(path, EngineOptions(compute="float32", shapes=(("x", (3, 5)),)))
    with pytest.raises(EngineError, match="a dimension 'rows' for which there is no range"):
        TensorRt().open(path, FLOAT32)


def decoder_state(first: Session) -> dict[str, Tensor]:
    latent = np.random.default_rng(1).standard_normal((1, 24, 1, 2, 2), dtype=np.float32)
    outputs = first.run({"latent": Tensor.from_numpy(latent)})
    return {name: tensor for name, tensor in outputs.items() if name != "frames"}


def test_the_decoders_state_is_handed_on_without_copies_in_two_sets_of_buffers(trt: FakeTensorRT) -> None:
    engine = TensorRt()
    latents = np.random.default_rng(14).standard_normal((1, 24, 7, 2, 2), dtype=np.float32)
    geometry = open_bundle(WORDS_REEL).manifest.latent
    with (
        engine.open(WORDS_REEL / "decoder_first.onnx", FLOAT32) as first,
        engine.open(WORDS_REEL / "decoder_next.onnx", FLOAT32) as following,
    ):
        in_use = []
        for index, _ in enumerate(decode_frames(first, following, latents, geometry)):
            if index % 4 == 0:
                in_use.append(trt.cudart.in_use)
        copies = [name for name, _ in trt.cudart.calls].count("cudaMemcpyAsync")
        assert copies == 7 + 7  # a latent in and frames out for each of seven, no state
        assert in_use[2] == in_use[-1] == trt.cudart.most
    gc.collect()
    assert trt.cudart.in_use == 0


def test_what_a_caller_holds_is_not_overwritten(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        results = [session.run(tensors({"x": arrays["x"] + k}))["y"] for k in range(4)]
        for k, result in enumerate(results):
            expected = on_cpu(path, {"x": arrays["x"] + k})["y"]
            np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[0].numpy(), on_cpu(path, arrays)["y"], rtol=1e-5, atol=1e-5)  # after close, too
    held = results[1]
    assert isinstance(held, DeviceBuffer)
    held.free()
    with pytest.raises(EngineError, match="after its GPU memory was given back"):
        held.numpy()


def test_a_tensor_that_was_freed_cannot_go_in(trt: FakeTensorRT) -> None:
    engine = TensorRt()
    with (
        engine.open(WORDS_REEL / "decoder_first.onnx", FLOAT32) as first,
        engine.open(WORDS_REEL / "decoder_next.onnx", FLOAT32) as following,
    ):
        state = decoder_state(first)
        freed = state["state_03"]
        assert isinstance(freed, DeviceBuffer)
        freed.free()
        with pytest.raises(EngineError, match="the memory of input state_03 was given back"):
            following.run({"latent": Tensor.from_numpy(np.zeros((1, 24, 1, 2, 2), np.float32)), **state})


def test_tensors_of_another_engine_object_are_copied(trt: FakeTensorRT) -> None:
    with (
        TensorRt().open(WORDS_REEL / "decoder_first.onnx", FLOAT32) as first,
        TensorRt().open(WORDS_REEL / "decoder_next.onnx", FLOAT32) as following,
    ):
        state = decoder_state(first)
        before = trt.cudart.names().count("cudaMemcpyAsync")
        following.run({"latent": Tensor.from_numpy(np.zeros((1, 24, 1, 2, 2), np.float32)), **state})
        assert trt.cudart.names().count("cudaMemcpyAsync") - before == 1 + 2 * len(state)


def test_too_little_memory_is_out_of_memory_and_the_session_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_fakes(monkeypatch, "10.3", memory=4196)
    path, arrays = write_linear(tmp_path)
    with TensorRt(ROWS).open(path, FLOAT32) as session:
        with pytest.raises(OutOfMemory, match=r"allocating 48 bytes .*, 28 bytes are free"):
            session.run(tensors(arrays))
        small = {"x": arrays["x"][:2]}
        np.testing.assert_allclose(session.run(tensors(small))["y"].numpy(), on_cpu(path, small)["y"], rtol=1e-6)


def test_weights_can_be_streamed(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)  # 96 bytes of weights
    with TensorRt(ROWS).open(path, EngineOptions(compute="float32", weight_budget=40)) as session:
        assert session.report.streamed == 3
        assert "WEIGHT_STREAMING" in trt.configs[-1]._flags
        assert trt.engines[-1].weight_streaming_budget_v2 == 40
        np.testing.assert_allclose(session.run(tensors(arrays))["y"].numpy(), on_cpu(path, arrays)["y"], rtol=1e-6)
    with TensorRt(ROWS).open(path, EngineOptions(compute="float32", weight_budget=1000)) as session:
        assert session.report.streamed == 1
        assert trt.engines[-1].weight_streaming_budget_v2 == 96


def test_a_version_that_cannot_stream_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_fakes(monkeypatch, "8.6")
    with pytest.raises(EngineError, match=r"8\.6\.0 cannot leave weights in host memory, 10\.1 and newer can"):
        TensorRt(ROWS).open(write_linear(tmp_path)[0], EngineOptions(weight_budget=10))


def test_runs_of_fixed_shapes_are_replayed_with_new_values(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)
    options = EngineOptions(compute="float32", shapes=shapes_of(arrays))
    with TensorRt().open(path, options) as session:
        for k in range(5):
            shifted = {"x": arrays["x"] + k}
            result = session.run(tensors(shifted))["y"].numpy()
            np.testing.assert_allclose(result, on_cpu(path, shifted)["y"], rtol=1e-5, atol=1e-5)
        assert trt.plain_runs == 1
        assert trt.cudart.names().count("cudaGraphLaunch") == 4
        assert trt.cudart.names().count("cudaStreamBeginCapture") == 1
    assert trt.cudart.graphs == {}


def test_the_decoder_alternates_between_two_graphs(trt: FakeTensorRT) -> None:
    engine = TensorRt()
    latents = np.random.default_rng(15).standard_normal((9, 1, 24, 1, 2, 2), dtype=np.float32)
    first_options = EngineOptions(compute="float32", shapes=(("latent", (1, 24, 1, 2, 2)),))
    with engine.open(WORDS_REEL / "decoder_first.onnx", first_options) as first:
        state = decoder_state(first)
        shapes = tuple(sorted([("latent", (1, 24, 1, 2, 2)), *((name, state[name].shape) for name in state)]))
        plain = EngineOptions(compute="float32")
        with (
            engine.open(WORDS_REEL / "decoder_next.onnx", EngineOptions(compute="float32", shapes=shapes)) as fixed,
            engine.open(WORDS_REEL / "decoder_next.onnx", plain) as varying,
        ):
            results = {}
            for session in (varying, fixed):
                current = dict(state)
                for latent in latents:
                    outputs = session.run({"latent": Tensor.from_numpy(latent), **current})
                    results[session] = outputs["frames"].numpy()
                    current = {name.removesuffix("_next"): value for name, value in outputs.items() if name != "frames"}
                    del outputs
            np.testing.assert_array_equal(results[fixed], results[varying])
            assert trt.cudart.names().count("cudaStreamBeginCapture") == 2
            assert trt.cudart.names().count("cudaGraphLaunch") >= 4


def test_an_engine_that_cannot_be_captured_runs_as_any_other(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)
    trt.cannot_be_captured = True
    with TensorRt().open(path, EngineOptions(compute="float32", shapes=shapes_of(arrays))) as session:
        for k in range(4):
            shifted = {"x": arrays["x"] + k}
            result = session.run(tensors(shifted))["y"].numpy()
            np.testing.assert_allclose(result, on_cpu(path, shifted)["y"], rtol=1e-5, atol=1e-5)
    assert trt.plain_runs == 4
    assert trt.cudart.names().count("cudaStreamBeginCapture") == 1


def test_varying_shapes_and_streamed_weights_are_not_captured(trt: FakeTensorRT, tmp_path: Path) -> None:
    path, arrays = write_linear(tmp_path)
    streamed = EngineOptions(compute="float32", shapes=shapes_of(arrays), weight_budget=10)
    for options in (FLOAT32, streamed):
        with TensorRt(ROWS).open(path, options) as session:
            for _ in range(3):
                session.run(tensors(arrays))
    assert "cudaStreamBeginCapture" not in trt.cudart.names()


def test_all_graphs_run_in_one_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is as large as the most that one of them needs; a larger one moves it, and what was recorded is not replayed there."""
    trt = install_fakes(monkeypatch, "10.3")
    engine = TensorRt()
    sizes = (50_000, 20_000, 70_000)
    sessions = []
    path, arrays = write_linear(tmp_path)
    for size in sizes:
        trt.workspace = size
        sessions.append(engine.open(path, EngineOptions(compute="float32", shapes=shapes_of(arrays))))
    assert engine._pool is not None
    workspace = engine._pool.workspace
    assert workspace._size == 70_000
    assert sum(array.nbytes == 70_000 for array in trt.cudart.allocations.values()) == 1
    assert not any(array.nbytes in sizes[:2] for array in trt.cudart.allocations.values())
    expected = on_cpu(path, arrays)["y"]
    for _ in range(3):
        for size, session in zip(sizes, sessions, strict=True):
            trt.workspace = size
            np.testing.assert_allclose(session.run(tensors(arrays))["y"].numpy(), expected, rtol=0, atol=1e-2)
    for session in sessions:
        session.close()
    assert workspace._size == 0
    assert not any(array.nbytes in sizes for array in trt.cudart.allocations.values())


def test_idle_memory_is_given_back_where_there_is_no_room_for_a_context(trt: FakeTensorRT, tmp_path: Path) -> None:
    """TensorRT allocates by itself, and does not see what our pool holds for later."""
    engine = TensorRt()
    path, arrays = write_linear(tmp_path)
    with engine.open(path, EngineOptions(compute="float32", shapes=shapes_of(arrays))) as session:
        session.run(tensors(arrays))
        assert engine._pool is not None
        held = sum(len(addresses) for addresses in engine._pool._idle.values())
        assert held > 0
        trt.context_error = "out of memory"
        with pytest.raises(OutOfMemory, match="TensorRT cannot make room"):
            engine.open(path, EngineOptions(compute="float32", shapes=shapes_of(arrays)))
        assert sum(len(addresses) for addresses in engine._pool._idle.values()) == 0


def test_numerics_name_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fakes(monkeypatch, "10.3")
    engine = TensorRt()
    base = engine.numerics(EngineOptions())
    assert (base["version"], base["card"], base["compute"]) == ("10.3.0", "NVIDIA H100", "float16")
    assert engine.numerics(EngineOptions(threads=3, keep=False)) == base
    for other in (FLOAT32, EngineOptions(shapes=(("x", (1,)),)), EngineOptions(weight_budget=5)):
        assert engine.numerics(other) != base
