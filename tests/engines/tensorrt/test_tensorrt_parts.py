"""The parts of the tensorrt engine that need no TensorRT: versions, inspector's JSON, profiles, CUDA calls, refusals."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import HELPERS
from helpers.fake_cudart import CudaError, FakeCudart
from helpers.fake_tensorrt import FakeTensorRT, install_fakes
from hypothesis import given
from hypothesis import strategies as st

from edgereel.core import machine, paths
from edgereel.core.errors import EngineError, MissingExtraError, OutOfMemory
from edgereel.engines.cache.store import read_timings, timings_key, write_timings
from edgereel.engines.nvidia import NO_GPU
from edgereel.engines.tensorrt import TensorRt, installed
from edgereel.engines.tensorrt.device_memory import BufferPool, CudaDevice, DeviceBuffer, import_cudart
from edgereel.engines.tensorrt.inspecting import (
    OPAQUE,
    check_precision,
    compiled_of,
    describe_attention,
    describe_precision,
    product_types,
)
from edgereel.engines.tensorrt.profiles import RANGES, fixed_profiles, ranged_profiles
from edgereel.engines.tensorrt.versions import FEATURES, features_of, parse_version, supports_card

ATTRIBUTES = json.loads((HELPERS / "fake_tensorrt_attributes.json").read_text())


@pytest.mark.parametrize(
    ("text", "version"), [("8.6.1", (8, 6)), ("10.3.0", (10, 3)), ("10.15.1.29", (10, 15)), ("11.0.0.114", (11, 0))]
)
def test_versions_are_read(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(EngineError, match="no version that can be read: 'dev'"):
        parse_version("dev")


@pytest.mark.parametrize(
    ("version", "since"),
    [
        ((8, 6), (8, 6)),
        ((10, 0), (10, 0)),
        ((10, 3), (10, 1)),
        ((10, 15), (10, 5)),
        ((11, 4), (11, 0)),
        ((12, 1), (11, 0)),
    ],
)
def test_each_version_has_the_features_of_the_last_change(version: tuple[int, int], since: tuple[int, int]) -> None:
    assert features_of(version).since == since


@pytest.mark.parametrize("version", [(7, 2), (8, 5), (9, 3)])
def test_versions_that_cannot_be_used_say_which_can(version: tuple[int, int]) -> None:
    with pytest.raises(EngineError, match=r'8\.6 and 10\.0 or newer can: pip install --upgrade "edgereel\[tensorrt\]"'):
        features_of(version)


def test_the_table_is_in_order() -> None:
    assert [features.since for features in FEATURES] == sorted(features.since for features in FEATURES)


@pytest.mark.parametrize("version", ["8.6", "10.3", "10.15", "11.0"])
def test_the_table_names_only_what_nvidias_bindings_have(version: str) -> None:
    features = features_of(parse_version(version))
    enums = {name: versions.get(version, []) for name, versions in ATTRIBUTES["enums"].items()}
    assert not features.network_flag or features.network_flag in enums["NetworkDefinitionCreationFlag"]
    assert {flag for flags in features.build_flags.values() for flag in flags} <= set(enums["BuilderFlag"])
    assert features.weight_streaming == ("WEIGHT_STREAMING" in enums["BuilderFlag"])
    assert features.stripped_plans == ({"STRIP_PLAN", "REFIT_IDENTICAL"} <= set(enums["BuilderFlag"]))
    parser_error = ATTRIBUTES["classes"]["ParserError"]
    named = any("node_name" in names for versions, names in parser_error.items() if version in versions.split())
    assert features.node_names == named
    assert features.strongly_typed == ("STRONGLY_TYPED" in enums["NetworkDefinitionCreationFlag"])


@pytest.mark.parametrize(
    ("version", "card", "supported"),
    [
        ((10, 3), "7.0", True),
        ((10, 5), "7.0", False),
        ((11, 0), "7.5", True),
        ((8, 6), "3.7", False),
        ((11, 0), "12.0", True),
        ((10, 3), "", True),
        ((10, 3), "[N/A]", True),
    ],
)
def test_old_cards_are_told_from_new_ones(version: tuple[int, int], card: str, supported: bool) -> None:
    assert supports_card(features_of(version), card) is supported


def layer(kind: str, *types: str, tactic: str = "", weights: str = "") -> dict[str, Any]:
    """A layer as TensorRT 8 to 10 tell it, its last type that of the output."""
    tensors = [{"Name": f"t{n}", "Dimensions": [1, 4], "Format/Datatype": text} for n, text in enumerate(types)]
    told: dict[str, Any] = {"Name": "n", "LayerType": kind, "Inputs": tensors[:-1], "Outputs": tensors[-1:]}
    if tactic:
        told["TacticName"] = tactic
    if weights:
        told["Weights"] = {"Type": weights, "Count": 16}
    return told


def of_11(kind: str, *types: str) -> dict[str, Any]:
    """The same as TensorRT 11 tells it."""
    tensors = [{"Name": "t", "DataType": text, "Format": "Row major linear format (kLINEAR)"} for text in types]
    return {"Name": "n", "LayerType": kind, "Inputs": tensors[:-1], "Outputs": tensors[-1:]}


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        (layer("gemm", "Half", "Half", "Half"), "float16"),
        (layer("gemm", "Half", "Half", "Float", "Float"), "float16"),  # a residual of float32 is added
        (layer("gemm", "Half", "Half", "Half", "Float", "Float", "Half"), "float16"),  # alpha and beta are float32
        (layer("CaskConvolution", "Row major linear FP16 format", "Row major linear FP32 format"), "float16"),
        (layer("CaskConvolution", "Row major linear FP32", "Row major linear FP32", weights="Float"), "float32"),
        (
            layer(
                "CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format.", "Half", weights="Int8"
            ),
            "int8",
        ),
        (layer("gemm", "BFloat16", "BFloat16", "BFloat16"), "bfloat16"),
        (layer("gemm", "BF16", "BF16", "Float"), "bfloat16"),
        (layer("gemm", "Half", "Int8", "Half"), "float16 (int8 weights)"),
        (layer("gemm", "FP8", "FP8", "Float", "Half"), "float8"),
        (layer("fusion", "Half", "Half", tactic="sm80_xmma_gemm_f16f16_f16f16_f16_tn"), "float16"),
        (layer("kgen", "Half", "Half"), None),
        (layer("Reformat", "Float", "Half"), None),
        (layer("Myelin", "Float", "Float"), OPAQUE),
        (layer("gemm", "something new", "something new"), "unknown"),
        (of_11("gemm", "Half", "Half", "Half"), "float16"),
        (of_11("conv", "Float", "Float"), "float32"),
        (of_11("gemm", "BFloat16", "BFloat16", "BFloat16"), "bfloat16"),
    ],
)
def test_layers_are_counted_by_what_they_calculate_in(told: dict[str, Any], counted: str | None) -> None:
    assert product_types(json.dumps({"Layers": [told], "Bindings": []})) == Counter([counted] if counted else [])


def test_the_inspectors_layers_become_facts() -> None:
    layers = [
        layer("gemm", "Half", "Half", "Half"),
        layer("gemm", "Int8", "Int8", "Half"),
        layer("CaskConvolution", "Half", "Half", weights="Half"),
        {**layer("fused_mha", "BFloat16", "BFloat16", "BFloat16", "BFloat16", tactic="_gemm_mha_v2_0x1")},
        {**layer("fused_mha", "Half", "Half", "Half", "Half", tactic="_gemm_mha_v2_0x2")},
        {**layer("kgen", "Half", "Half"), "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]"},
    ]
    told = compiled_of(json.dumps({"Layers": layers}), "TensorRT 10.3.0", "sm87")
    assert {(each.operands, each.scores, each.count) for each in told.attention} == {
        ("bfloat16", "float32", 1),
        ("float16", "unknown", 1),
    }
    assert told.product_operands == {("float16", "float16"): 2, ("int8", "int8"): 1}
    assert {(each.name, each.nodes) for each in told.kernels} >= {("kgen", 2), ("gemm", 2)}
    assert describe_attention(json.dumps({"Layers": layers})) == "1 of attention in float16, summed in float16"
    assert describe_attention(json.dumps({"Layers": layers[:4]})) == describe_attention("names") == ""
    with pytest.raises(ValueError, match="layer names only"):
        compiled_of('{"Layers": ["gemm"]}', "TensorRT", "sm87")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 3}', '{"Layers": ["conv + relu", "gemm"]}', "\0", "null"])
def test_what_tells_no_layers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="engine inspector"):
        product_types(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["gemm", "Half", "Float"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["LayerType", "Inputs", "Weights", "Type"]), inner)
    ),
    max_leaves=12,
)


@given(st.lists(_JSON, max_size=4))
def test_no_answer_of_the_inspector_makes_anything_but_counts_or_a_refusal(layers: list[Any]) -> None:
    try:
        counts = product_types(json.dumps({"Layers": layers}))
    except ValueError:
        return
    assert sum(counts.values()) <= len(layers)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "unknown"),
        ({OPAQUE: 3, "unknown": 1}, "unknown"),
        ({"float16": 30}, "float16"),
        ({"float16": 30, "float32": 2, OPAQUE: 1}, "float16 (2 of 32 layers float32)"),
    ],
)
def test_precision_is_told_in_words(counts: dict[str, int], words: str) -> None:
    assert describe_precision(Counter(counts)) == words


def test_float32_in_the_place_of_float16_is_refused() -> None:
    check_precision(Counter(float16=38, float32=4), Counter(float16=60, float32=3), "float16")
    check_precision(Counter(float32=40), Counter(float32=40), "float32")
    check_precision(Counter({OPAQUE: 1}), Counter(float16=60), "float16")
    with pytest.raises(
        EngineError, match="asked for float16 and built 40 of 40 product layers in float32, the graph has 3"
    ):
        check_precision(Counter(float32=40), Counter(float16=60, float32=3), "float16")
    with pytest.raises(EngineError, match="bfloat16"):
        check_precision(Counter(bfloat16=20, float32=10), Counter(bfloat16=30), "bfloat16")


def test_ranges_follow_the_names_of_dimensions() -> None:
    inputs = {"latent": (-1, 24, 1, -1, -1), "state": (-1, 56, 2, -1, -1), "fixed": (3, 4)}
    names = {
        "latent": ["batch", "", "", "height", "width"],
        "state": ["batch", "", "", "height*4", "width * 2"],
        "fixed": ["", ""],
    }
    profiles = ranged_profiles(inputs, names, {"batch": (1, 1, 2), "height": (2, 3, 5), "width": (1, 4, 7)})
    assert profiles == {
        "latent": ((1, 24, 1, 2, 1), (1, 24, 1, 3, 4), (2, 24, 1, 5, 7)),
        "state": ((1, 56, 2, 8, 2), (1, 56, 2, 12, 8), (2, 56, 2, 20, 14)),
    }


@pytest.mark.parametrize("name", ["", "rows", "height+1", "height*width"])
def test_a_dimension_without_a_range_is_refused(name: str) -> None:
    with pytest.raises(EngineError, match="for which there is no range"):
        ranged_profiles({"x": (-1,)}, {"x": [name]}, RANGES)


def test_every_default_range_is_one() -> None:
    assert all(smallest <= usual <= largest for smallest, usual, largest in RANGES.values())
    assert {name: smallest for name, (smallest, _, _) in RANGES.items() if smallest != 1} == {"context": 0}


def test_fixed_shapes_must_fit_the_graph() -> None:
    inputs = {"x": (-1, 6), "y": (2,)}
    assert fixed_profiles(inputs, (("x", (5, 6)), ("y", (2,)))) == {"x": ((5, 6),) * 3}
    for wrong in ((5, 7), (5,), (-1, 6)):
        with pytest.raises(EngineError, match="input x cannot have shape"):
            fixed_profiles(inputs, (("x", wrong), ("y", (2,))))
    with pytest.raises(EngineError, match=r"shapes are for the inputs \['x'\], the graph has \['x', 'y'\]"):
        fixed_profiles(inputs, (("x", (5, 6)),))


def test_values_survive_the_way_to_the_device_and_back() -> None:
    pool = BufferPool(CudaDevice(FakeCudart()))
    random = np.random.default_rng(21)
    for dtype in (np.float32, np.float16, np.int64, np.bool_):
        for shape in ((), (3,), (2, 0), (4, 5, 6)):
            values = np.asarray(random.integers(0, 2, shape)).astype(dtype)
            buffer = DeviceBuffer(pool, shape, np.dtype(dtype))
            pool.device.upload(buffer.address, values)
            assert buffer.shape == shape
            np.testing.assert_array_equal(buffer.numpy(), values, strict=True)


def test_every_cuda_error_has_its_name_and_text_and_is_cleared() -> None:
    cudart = FakeCudart()
    device = CudaDevice(cudart)
    cudart.fail["cudaStreamSynchronize"] = CudaError.cudaErrorIllegalAddress
    with pytest.raises(
        EngineError, match=r"cudaStreamSynchronize failed on the GPU \(cudaErrorIllegalAddress: the text of"
    ) as caught:
        device.synchronize()
    assert not isinstance(caught.value, OutOfMemory)
    assert cudart.names()[-1] == "cudaGetLastError"


def test_idle_memory_is_given_back_before_there_is_too_little() -> None:
    cudart = FakeCudart(memory=1000)
    pool = BufferPool(CudaDevice(cudart))
    DeviceBuffer(pool, (600,), np.dtype(np.uint8)).free()
    assert cudart.in_use == 600
    held = DeviceBuffer(pool, (700,), np.dtype(np.uint8))
    assert cudart.in_use == 700
    with pytest.raises(OutOfMemory, match=r"allocating 400 bytes of GPU memory failed, 300 bytes are free"):
        DeviceBuffer(pool, (400,), np.dtype(np.uint8))
    held.free()
    held.free()  # a second time is nothing
    assert pool.trim() == 700
    assert cudart.in_use == 0


def test_a_dropped_tensors_memory_is_used_again() -> None:
    cudart = FakeCudart()
    pool = BufferPool(CudaDevice(cudart))
    address = DeviceBuffer(pool, (8,), np.dtype(np.float32)).address
    assert DeviceBuffer(pool, (2, 4), np.dtype(np.float32)).address == address
    assert cudart.names().count("cudaMalloc") == 1


def test_a_failed_capture_leaves_the_stream_usable() -> None:
    cudart = FakeCudart()
    device = CudaDevice(cudart)
    with pytest.raises(EngineError, match="cudaErrorStreamCaptureUnsupported"):
        device.capture(device.synchronize)
    device.synchronize()
    device.close()
    assert cudart.streams == {}


def test_the_older_cuda_python_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    older = ModuleType("cuda")
    older.cudart = FakeCudart()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", older)
    monkeypatch.setitem(sys.modules, "cuda.cudart", older.cudart)
    monkeypatch.delitem(sys.modules, "cuda.bindings", raising=False)
    assert import_cudart() is older.cudart


def test_timings_are_kept_and_damage_is_noticed() -> None:
    key = timings_key({"tensorrt": "10.3.0", "card": "H100"})
    assert key != timings_key({"tensorrt": "10.4.0", "card": "H100"})
    assert read_timings(key) == b""
    write_timings(key, b"measured")
    assert read_timings(key) == b"measured"
    path = paths.cache_folder() / "timings" / key
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    for damaged in (b"", path.read_bytes()[:-1], path.read_bytes()[:10]):
        path.write_bytes(damaged)
        assert read_timings(key) == b""


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_fakes(monkeypatch, "10.3")


def test_nothing_is_missing_and_no_device_was_touched(trt: FakeTensorRT) -> None:
    assert TensorRt().unavailable() is None
    assert trt.cudart.calls == []


def use_card(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    card = machine.Gpu("Some card", 2**33, capability, "580")
    monkeypatch.setattr(machine, "find_gpus", lambda: ([card], ""))


def test_what_is_missing_is_told_with_a_command(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        text = TensorRt().unavailable()
        assert text is not None
        assert "\n" not in text
        return text

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cuda", None)
        patch.setitem(sys.modules, "cuda.bindings", None)
        assert 'needs cuda-python, which is not installed: pip install "edgereel[tensorrt]"' in told()
        with pytest.raises(MissingExtraError):
            import_cudart()
    with monkeypatch.context() as patch:
        use_card(patch, "6.1")
        assert "TensorRT 10.3.0 needs a card of compute capability 7.0, Some card has 6.1" in told()
    with monkeypatch.context() as patch:
        patch.setattr(machine, "find_gpus", lambda: ([], ""))
        assert told() == NO_GPU
        patch.setattr(machine, "find_gpus", lambda: ([], "nvidia-smi failed: exit code 9"))
        assert told() == "nvidia-smi failed: exit code 9: nvidia-smi"
    with monkeypatch.context() as patch:
        patch.setattr(trt, "__version__", "8.4.3")
        assert "TensorRT 8.4 cannot be used" in told()
        patch.setattr(trt, "__version__", "13.0.0")
        assert TensorRt().unavailable() is None  # tried, and told in the report
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
        assert told() == (
            'tensorrt is installed as a placeholder without its libraries: pip install "edgereel[tensorrt]"'
        )


def test_a_tensorrt_that_is_not_there_or_does_not_load(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert TensorRt().unavailable() == (
        'the tensorrt engine needs tensorrt, which is not installed: pip install "edgereel[tensorrt]"'
    )
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    importlib.invalidate_caches()
    assert TensorRt().unavailable() == (
        "tensorrt is installed but cannot be loaded (libnvinfer.so.10: cannot open shared object file): "
        'pip install "edgereel[tensorrt]"'
    )


@pytest.mark.parametrize(
    ("driver", "packages", "runs"),
    [
        ("550.54.15", {"cuda-bindings": "13.4.0"}, False),
        ("540.4.0", {"cuda-python": "13.0.1"}, False),
        ("580.65", {"cuda-bindings": "13.4.0"}, True),
        ("550.54.15", {"cuda-bindings": "12.9.2", "cuda-python": "13.0.0"}, True),
        ("not known", {"cuda-bindings": "13.4.0"}, True),
        ("550.54.15", {}, True),
    ],
)
def test_a_driver_too_old_for_cuda_python(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, driver: str, packages: dict[str, str], runs: bool
) -> None:
    def version(package: str) -> str:
        if package not in packages:
            raise installed.metadata.PackageNotFoundError(package)
        return packages[package]

    monkeypatch.setattr(installed.metadata, "version", version)
    monkeypatch.setattr(machine, "find_gpus", lambda: ([machine.Gpu("NVIDIA H100", 2**36, "9.0", driver)], ""))
    told = TensorRt().unavailable()
    if runs:
        assert told is None
    else:
        needs = f"cuda-python {next(iter(packages.values()))} needs NVIDIA's driver 580 or newer, and this one is {driver}: "
        assert told == needs + 'pip install "cuda-python<13"'


def test_jetson_boards_get_tensorrt_from_jetpack(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    board = machine.Machine("Linux", "Cortex", 6, None, 2**33, None, "NVIDIA Jetson Orin Nano Developer Kit")
    monkeypatch.setattr(machine, "read_machine", lambda: board)
    monkeypatch.setattr(machine, "find_gpus", lambda: ([], ""))
    monkeypatch.setattr(installed.platform, "machine", lambda: "aarch64")
    assert TensorRt().unavailable() is None  # its nvidia-smi may be missing, its GPU is not
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    text = TensorRt().unavailable()
    assert text is not None
    assert "sudo apt install python3-libnvinfer" in text


@pytest.mark.parametrize("model", ["", "NVIDIA DGX Spark", "NVIDIA Jetson AGX Thor Developer Kit"])
def test_arm_servers_and_thor_get_tensorrt_from_pypi(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """The extra alone brings none there, so that it would be named for ever."""
    board = machine.Machine("Linux", "Arm", 6, None, 2**33, None, model)
    monkeypatch.setattr(machine, "read_machine", lambda: board)
    monkeypatch.setattr(installed.platform, "machine", lambda: "aarch64")
    assert installed.install_command() == 'pip install "edgereel[tensorrt]" tensorrt-cu13'


def test_the_stand_in_lacks_what_the_version_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install_fakes(monkeypatch, "8.6")
    engine: Any = trt.ICudaEngine.__new__(trt.ICudaEngine)
    with pytest.raises(AttributeError, match="weight_streaming_budget_v2"):
        engine.weight_streaming_budget_v2 = 5
    with pytest.raises(AttributeError, match="STRONGLY_TYPED"):
        _ = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        trt.IBuilderConfig().max_workspace = 1
    newest = install_fakes(monkeypatch, "11.0")
    with pytest.raises(AttributeError, match="FP16"):
        _ = newest.BuilderFlag.FP16  # type: ignore[attr-defined]
