"""ONNX Runtime's engines for devices, as far as a machine without a GPU can tell.

The path that tensors take is tested for real on ONNX Runtime's device `cpu`. Nothing here has run on a GPU.
"""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.words_bundle import WORDS_REEL

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from helpers.bfloat16 import bfloat16_in_float32  # noqa: E402
from helpers.bound_sessions import CPU, demo_denoiser_inputs, open_bound, open_plain, plain_run, tensors, write_counter  # noqa: E402

from edgereel.bundle.reader import open_bundle  # noqa: E402
from edgereel.core.errors import EngineError  # noqa: E402
from edgereel.core.machine import Gpu  # noqa: E402
from edgereel.engines import ENGINES, EngineOptions, get_engine, nvidia  # noqa: E402
from edgereel.engines.cache.engines import EngineCache, EngineKey  # noqa: E402
from edgereel.engines.onnxruntime import cuda, cuda_libraries, rtx  # noqa: E402
from edgereel.engines.onnxruntime.bound import BoundSession, FixedShapeSession  # noqa: E402
from edgereel.engines.onnxruntime.common import AssignedNode, assigned_nodes  # noqa: E402
from edgereel.engines.onnxruntime.device_tensor import DeviceTensor  # noqa: E402
from edgereel.engines.onnxruntime.placement import check_placement, misplaced  # noqa: E402
from edgereel.engines.onnxruntime.rtx_kernel_cache import KernelCache  # noqa: E402
from edgereel.runtime.reel import Reel  # noqa: E402


@pytest.fixture
def counter(tmp_path):
    return write_counter(tmp_path)


def nodes_of(*triples):
    return [AssignedNode(*triple) for triple in triples]


def test_compute_on_another_provider_is_refused():
    nodes = nodes_of(
        ("CUDAExecutionProvider", "MatMul", "blocks.0.q"),
        ("CPUExecutionProvider", "Shape", "s"),
        ("CPUExecutionProvider", "Gather", "g"),
        ("CPUExecutionProvider", "Conv", "decoder.conv_in"),
        ("CPUExecutionProvider", "MatMulNBits", "blocks.0.ffn"),
        ("CPUExecutionProvider", "Softmax", ""),
        ("CPUExecutionProvider", "LayerNormalization", "norm"),
    )
    assert [node.op_type for node in misplaced(nodes, "CUDAExecutionProvider")] == [
        "Conv",
        "MatMulNBits",
        "Softmax",
        "LayerNormalization",
    ]
    with pytest.raises(EngineError) as refused:
        check_placement("decoder_next.onnx", nodes, "CUDAExecutionProvider")
    assert str(refused.value) == (
        "decoder_next.onnx cannot run on CUDAExecutionProvider: it leaves Conv decoder.conv_in, MatMulNBits blocks.0.ffn, "
        "Softmax (no name) and 1 more to CPUExecutionProvider; choose another engine or precision"
    )


def test_shape_arithmetic_on_the_cpu_is_fine():
    nodes = nodes_of(
        ("CUDAExecutionProvider", "Attention", "a"),
        *(("CPUExecutionProvider", kind, kind) for kind in ("Shape", "Gather", "Concat", "Mul", "Range", "Cast")),
    )
    check_placement("denoiser.onnx", nodes, "CUDAExecutionProvider")
    check_placement("denoiser.onnx", [], "CUDAExecutionProvider")


def test_a_real_session_is_judged():
    nodes = assigned_nodes(open_plain(WORDS_REEL / "denoiser.onnx"))
    assert {node.provider for node in nodes} == {"CPUExecutionProvider"}
    check_placement("denoiser.onnx", nodes, "CPUExecutionProvider")
    with pytest.raises(EngineError, match=r"cannot run on CUDAExecutionProvider: it leaves .* to CPUExecutionProvider"):
        check_placement("denoiser.onnx", nodes, "CUDAExecutionProvider")


def fake_onnxruntime(folder, cuda_version, providers, version="1.31.1"):
    package = folder / "onnxruntime"
    package.mkdir(exist_ok=True)
    module = types.ModuleType("onnxruntime")
    module.__file__ = str(package / "__init__.py")
    module.__version__ = version
    module.InferenceSession = object
    module.cuda_version = cuda_version
    module.get_available_providers = lambda: providers
    return module


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Plant a GPU and an onnxruntime; return the folder that packages are in."""

    def plant(capability, cuda_version="13.0", providers=(cuda.PROVIDER, "CPUExecutionProvider"), version="1.31.1"):
        found = (Gpu("NVIDIA Test", 2**33, capability, "580"),)
        monkeypatch.setattr(nvidia, "nvidia_gpus", lambda: (found, ""))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setitem(
            sys.modules, "onnxruntime", fake_onnxruntime(tmp_path, cuda_version, list(providers), version)
        )
        return tmp_path

    return plant


def test_an_onnxruntime_without_cuda(machine):
    machine("8.9", "", ("CPUExecutionProvider",))
    assert cuda.OnnxRuntimeCuda().unavailable() == (
        'onnxruntime 1.31.1 is the one without CUDA: pip uninstall -y onnxruntime && pip install "edgereel[gpu]"'
    )


def test_no_onnxruntime_at_all(machine, monkeypatch):
    machine("8.9")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'pip install "edgereel[gpu]"' in cuda.OnnxRuntimeCuda().unavailable()
    assert 'pip install "edgereel[rtx]"' in rtx.OnnxRuntimeRtx().unavailable()


@pytest.mark.parametrize(
    ("capability", "cuda_version", "version", "runs"),
    [
        *(("5.2", "12.8", "1.26.0", False), ("7.0", "12.8", "1.26.0", True), ("12.0", "12.8", "1.26.0", True)),
        *((capability, "13.0", "1.31.1", True) for capability in ("7.5", "8.9", "9.0", "12.0", "12.1")),
        *((capability, "13.0", "1.31.1", False) for capability in ("7.0", "10.0", "10.3", "11.0", "13.0")),
        *(("10.0", "13.0", "1.28.0", True), ("11.0", "13.0", "1.28.0", False), ("11.0", "13.0", "1.32.0", True)),
    ],
)
def test_cards_that_a_package_has_code_for(machine, capability, cuda_version, version, runs):
    machine(capability, cuda_version, version=version)
    assert ("compute capability" not in (cuda.OnnxRuntimeCuda().unavailable() or "")) == runs


def test_an_onnxruntime_that_leaves_convolutions_to_the_processor(machine):
    machine("8.9", "12.8", version="1.23.2")
    assert cuda.OnnxRuntimeCuda().unavailable() == (
        "onnxruntime-gpu 1.23.2 leaves parts of these graphs to the processor: "
        'pip install --upgrade "onnxruntime-gpu[cuda,cudnn]>=1.26"'
    )


def test_libraries_that_older_packages_need():
    newest = cuda_libraries.needed_libraries(13, windows=False)
    assert cuda_libraries.needed_libraries(13, (1, 28), windows=False) == newest
    assert cuda_libraries.needed_libraries(13, (1, 27), windows=False) == (*newest, "libcufft.so.12", "libnvrtc.so.13")
    assert cuda_libraries.needed_libraries(12, (1, 26), windows=False)[-1] == "libcufft.so.11"
    # cuDNN's attention, on cards from 9.0 on, compiles its kernels as it runs.
    assert cuda_libraries.needed_libraries(12, (1, 31), (9, 0), windows=False)[-1] == "libnvrtc.so.12"
    assert cuda_libraries.needed_libraries(13, (1, 27), (12, 0), windows=False).count("libnvrtc.so.13") == 1
    assert cuda_libraries.needed_libraries(13, (1, 31), (8, 9), windows=False) == newest


@pytest.mark.skipif(sys.platform == "win32", reason="names of Linux")
def test_missing_cuda_libraries(machine, monkeypatch):
    folder = machine("8.9")
    monkeypatch.setattr(cuda_libraries, "_ldconfig", lambda: "")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    engine = cuda.OnnxRuntimeCuda()
    assert "libcuda.so.1 is not found (install NVIDIA's driver): nvidia-smi" in engine.unavailable()
    monkeypatch.setattr(
        cuda_libraries, "_ldconfig", lambda: "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1\n1 libs found\n"
    )
    assert engine.unavailable() == (
        "libcudart.so.13, libcublas.so.13, libcublasLt.so.13, libcurand.so.10, libcudnn.so.9 of CUDA 13 and cuDNN 9 not "
        'found: pip install "onnxruntime-gpu[cuda,cudnn]"'
    )
    packages = {"cu13": ("cudart.so.13", "cublas.so.13", "cublasLt.so.13", "curand.so.10"), "cudnn": ("cudnn.so.9",)}
    for package, names in packages.items():
        (folder / "nvidia" / package / "lib").mkdir(parents=True)
        for name in names:
            (folder / "nvidia" / package / "lib" / f"lib{name}").touch()
    assert engine.unavailable() is None
    (folder / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9").unlink()
    assert engine.unavailable().startswith("libcudnn.so.9 of CUDA 13")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "libcudnn.so.9").touch()
    found = cuda_libraries.missing_libraries(
        ["libcudnn.so.9"], folder, environment={"LD_LIBRARY_PATH": f":{folder / 'elsewhere'}"}, known_to_loader=""
    )
    assert found == []


def test_the_loaders_list_is_read_for_real():
    """libc is known to every loader; a library that nobody has is not."""
    if not cuda_libraries._ldconfig():
        pytest.skip("this system has no ldconfig")
    names = ["libc.so.6", "libnobody.so.9"]
    assert cuda_libraries.missing_libraries(names, Path("/none"), environment={}) == ["libnobody.so.9"]


def test_the_cuda_engine_refuses_what_it_cannot_do(machine):
    engine = cuda.OnnxRuntimeCuda()
    machine("8.9", "", ("CPUExecutionProvider",))
    with pytest.raises(
        EngineError, match=r"the cuda engine cannot run here: onnxruntime 1.31.1 is the one without CUDA"
    ):
        engine.open(WORDS_REEL / "denoiser.onnx", EngineOptions())


@pytest.mark.parametrize(
    ("model", "refused"),
    [("NVIDIA Jetson Orin Nano Developer Kit", True), ("NVIDIA Jetson AGX Thor", False), ("NVIDIA DGX Spark", False)],
)
def test_a_jetson_board_is_told_to_use_tensorrt(machine, monkeypatch, model, refused):
    """JetPack 6 has Python 3.10, for which there is no onnxruntime that the engine can use, and PyPI's are for servers."""
    machine("8.7", "", ("CPUExecutionProvider",))
    board = types.SimpleNamespace(model=model)
    monkeypatch.setattr(nvidia.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(nvidia.machine, "read_machine", lambda: board)
    assert cuda.OnnxRuntimeCuda().unavailable().endswith("--engine tensorrt") == refused


PROVIDER_OPTIONS = cuda.provider_options


@pytest.fixture
def cuda_on_the_cpu(monkeypatch):
    """The cuda engine with ONNX Runtime's CPU provider and device in the place of CUDA's: all but the kernels is its own."""
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(cuda, "provider_options", lambda recorded, compute: {})
    monkeypatch.setattr(cuda, "Device", lambda kind: CPU)
    engine = cuda.OnnxRuntimeCuda()
    monkeypatch.setattr(engine, "unavailable", lambda: None)
    return engine


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("compute", "tolerance"), [("float32", 1e-5), (None, 5e-3)])
def test_the_cuda_engine_opens_and_runs_what_was_lowered_for_it(cuda_on_the_cpu, compute, tolerance, fixed):
    path = WORDS_REEL / "denoiser.onnx"
    random = np.random.default_rng()
    trials = [demo_denoiser_inputs(random) for _ in range(3)]
    shapes = tuple(sorted((name, array.shape) for name, array in trials[0].items())) if fixed else None
    with cuda_on_the_cpu.open(path, EngineOptions(threads=1, compute=compute, shapes=shapes)) as session:
        assert isinstance(session, FixedShapeSession) == fixed
        assert session.report.precision == (compute or "float16")
        assert session.report.lowered == "built"
        assert session.report.rewrites["attention"] == 12
        for arrays in trials:
            found = session.run(tensors(arrays))["prediction"]
            assert isinstance(found, DeviceTensor)
            wanted = plain_run(path, arrays)["prediction"]
            assert np.linalg.norm(found.numpy() - wanted) < tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_the_cuda_engine_fetches_weights_in_turn(cuda_on_the_cpu, compute):
    """What a part hands on is in memory of its own: otherwise its weights would stay for as long as that is needed."""
    """Values pass from segment to segment as tensors of the device, and the result is the same bit for bit.

    In float16 it is nearly so here: the CPU provider calculates in float32 and rounds where the graph is cut.
    """
    path = WORDS_REEL / "denoiser.onnx"
    arrays = demo_denoiser_inputs(np.random.default_rng())
    options = EngineOptions(threads=1, compute=compute)
    with cuda_on_the_cpu.open(path, options) as session:
        wanted = session.run(tensors(arrays))["prediction"].numpy()
    with cuda_on_the_cpu.open(path, replace(options, weight_budget=3_000_000)) as session:
        assert session.report.streamed > 2
        found = session.run(tensors(arrays))["prediction"]
        assert isinstance(found, DeviceTensor)
        assert all(part._detached for part in session._resident)
        tolerance = 0 if compute == "float32" else 5e-3 * np.linalg.norm(wanted)
        assert np.linalg.norm(found.numpy() - wanted) <= tolerance


def test_a_clip_with_the_cuda_engine(cuda_on_the_cpu):
    """From prompt to frames: the same clip as the cpu engine's, to a step of 255 here and there; it leaves the device as bytes."""
    bundle = open_bundle(WORDS_REEL)
    clips = []
    for engine, compute in ((get_engine("cpu"), None), (cuda_on_the_cpu, "float32")):
        with Reel(bundle, engine, EngineOptions(threads=1, compute=compute)) as reel:
            clips.append(np.stack(list(reel.generate("a red ball", seed=3, steps=1, frames=5))).astype(int))
            assert {report.engine for report in reel.report().values()} == {engine.name}
            made = {name: report.rewrites.get("pictures", 0) for name, report in reel.report().items()}
            decoders = int(engine is cuda_on_the_cpu)
            assert made == {"text_encoder": 0, "denoiser": 0, "decoder_first": decoders, "decoder_next": decoders}
    assert clips[0].std() > 1
    assert np.abs(clips[0] - clips[1]).max() <= 1


def test_prompt_embeddings_do_not_hold_on_to_the_text_encoder(cuda_on_the_cpu, monkeypatch):
    """They stay on the device, in memory of their own: closing the text encoder frees its weights."""
    detached, used = [], []
    detach, run = DeviceTensor.detached, BoundSession.run

    def noting(tensor):
        detached.append(detach(tensor))
        return detached[-1]

    def watching(session, inputs):
        used.extend(tensor for name, tensor in inputs.items() if name == "prompt_embeds")
        return run(session, inputs)

    monkeypatch.setattr(DeviceTensor, "detached", noting)
    monkeypatch.setattr(BoundSession, "run", watching)
    with Reel(open_bundle(WORDS_REEL), cuda_on_the_cpu, EngineOptions(threads=1)) as reel:
        reel.generate("a red ball", steps=2, frames=5)
    assert used
    assert all(any(tensor is one for one in detached) for tensor in used)


def test_the_cuda_engine_refuses_what_would_run_elsewhere(cuda_on_the_cpu, monkeypatch):
    """ONNX Runtime drops a provider that it cannot make and goes on with the CPU."""
    monkeypatch.setattr(cuda, "PROVIDER", "AzureExecutionProvider")
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider that runs nothing")
    with pytest.raises(EngineError, match=r"denoiser.onnx cannot run on AzureExecutionProvider: it leaves "):
        cuda_on_the_cpu.open(WORDS_REEL / "denoiser.onnx", EngineOptions(threads=1))


@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_half_precision_may_use_tensor_cores(cuda_on_the_cpu, monkeypatch, compute):
    """Without TensorFloat-32, ONNX Runtime takes tensor cores away from convolutions of every type."""
    asked = []
    monkeypatch.setattr(cuda, "provider_options", lambda **given: asked.append(given) or {})
    cuda_on_the_cpu.open(WORDS_REEL / "decoder_first.onnx", EngineOptions(threads=1, compute=compute)).close()
    chosen = PROVIDER_OPTIONS(**asked[-1])
    assert chosen["use_tf32"] == ("0" if compute == "float32" else "1")
    assert chosen["enable_cuda_graph"] == "0"


def test_memory_is_not_held_twice(cuda_on_the_cpu, monkeypatch):
    """No memory pattern, which is a second copy from the second run on; a decoder's state is made as soon as it can be."""
    seen = {}
    make = onnxruntime.InferenceSession

    def noting(model, settings, **more):
        seen[name] = settings.enable_mem_pattern, settings.execution_order
        return make(model, settings, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noting)
    for name in ("denoiser", "decoder_first", "decoder_next"):
        cuda_on_the_cpu.open(WORDS_REEL / f"{name}.onnx", EngineOptions(threads=1)).close()
    order = onnxruntime.ExecutionOrder
    assert seen["denoiser"] == (False, order.DEFAULT)
    assert seen["decoder_first"] == seen["decoder_next"] == (False, order.PRIORITY_BASED)


def test_a_clip_of_four_steps_is_not_recorded(cuda_on_the_cpu):
    arrays = demo_denoiser_inputs(np.random.default_rng())
    shapes = tuple(sorted((name, array.shape) for name, array in arrays.items()))
    with cuda_on_the_cpu.open(WORDS_REEL / "denoiser.onnx", EngineOptions(threads=1, shapes=shapes)) as session:
        assert isinstance(session, FixedShapeSession)
        assert session._recording.longest <= 0.1
        for _ in range(4):
            session.run(tensors(arrays))
        assert session._binding is None


def test_canonical_graphs_run_as_they_are(cuda_on_the_cpu):
    with cuda_on_the_cpu.open(WORDS_REEL / "denoiser.onnx", EngineOptions(threads=1, lower=False)) as session:
        assert (session.report.lowered, session.report.precision) == ("off", "float32")
        arrays = demo_denoiser_inputs(np.random.default_rng())
        wanted = plain_run(WORDS_REEL / "denoiser.onnx", arrays)["prediction"]
        np.testing.assert_array_equal(session.run(tensors(arrays))["prediction"].numpy(), wanted)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_rtx_engine_opens_and_runs_what_was_lowered_for_it(monkeypatch, fixed):
    """With ONNX Runtime's CPU provider, which is an OrtEpDevice like the plugin's, in the place of the plugin."""
    monkeypatch.setattr(rtx, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(rtx, "_register", lambda: None)
    monkeypatch.setattr(rtx, "Device", lambda kind: CPU)
    folders = []
    monkeypatch.setattr(rtx, "provider_options", lambda options, folder: folders.append(folder) or {})
    lower = rtx.lower_for

    def without_bfloat16(*given):
        lowered = lower(*given)
        return replace(lowered, model=bfloat16_in_float32(lowered.model))

    monkeypatch.setattr(rtx, "lower_for", without_bfloat16)
    engine = rtx.OnnxRuntimeRtx()
    monkeypatch.setattr(engine, "unavailable", lambda: None)
    arrays = demo_denoiser_inputs(np.random.default_rng())
    shapes = tuple(sorted((name, array.shape) for name, array in arrays.items())) if fixed else None
    wanted = plain_run(WORDS_REEL / "denoiser.onnx", arrays)["prediction"]
    for source in ("built", "cache"):
        folders.clear()
        with engine.open(WORDS_REEL / "denoiser.onnx", EngineOptions(threads=1, shapes=shapes)) as session:
            assert (session.report.lowered, session.report.build) == (source, source)
            assert (session.report.precision, session.report.provider) == ("float16", "CPUExecutionProvider")
            assert (session.report.build_seconds > 0) == (source == "built")
            for _ in range(3):
                found = session.run(tensors(arrays))["prediction"].numpy()
                assert np.linalg.norm(found - wanted) < 5e-3 * np.linalg.norm(wanted)
            (folder,) = [folder for folder in folders if folder is not None]
            (folder / "kernels").write_bytes(b"as the plugin would")
        assert not folder.exists()


def test_without_a_cuda_graph_where_it_cannot_be_recorded(cuda_on_the_cpu, monkeypatch):
    """ONNX Runtime refuses to open a graph for recording of which parts stay on the CPU; then it runs unrecorded."""
    shapes = tuple(sorted((name, a.shape) for name, a in demo_denoiser_inputs(np.random.default_rng()).items()))
    asked = []
    make = onnxruntime.InferenceSession

    def refusing(model, settings, providers, **more):
        asked.append(providers[0][1]["recorded"])
        if asked[-1]:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user as all ...")
        return make(model, settings, providers=[providers[0][0]], **more)

    monkeypatch.setattr(cuda, "provider_options", lambda recorded, compute: {"recorded": recorded})
    monkeypatch.setattr(onnxruntime, "InferenceSession", refusing)
    with cuda_on_the_cpu.open(WORDS_REEL / "denoiser.onnx", EngineOptions(threads=1, shapes=shapes)) as session:
        assert type(session) is BoundSession
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("capability", "fits"),
    [
        *((capability, False) for capability in ("7.5", "8.0", "8.7", "9.0", "10.0", "10.3", "11.0")),
        *((capability, True) for capability in ("8.6", "8.9", "12.0", "12.1", "13.0")),
    ],
)
def test_cards_of_tensorrt_rtx(machine, monkeypatch, capability, fits):
    machine(capability)
    monkeypatch.setattr(rtx, "find_spec", lambda name: object())
    monkeypatch.setattr(rtx, "missing_libraries", lambda names, folder: [])
    monkeypatch.setattr(rtx, "lacking_libraries", lambda onnxruntime: None)
    monkeypatch.setattr(rtx, "_shows_nvidia_devices", lambda: True)
    reason = rtx.OnnxRuntimeRtx().unavailable()
    expected = (
        f"it runs on GPUs of compute capability 8.6, 8.9, 12.0 and newer, and there is NVIDIA Test ({capability})"
    )
    assert reason == (None if fits else expected)


def test_the_plugin_is_missing_or_onnxruntime_too_old(machine, monkeypatch):
    machine("8.9")
    monkeypatch.setattr(rtx, "find_spec", lambda name: None)
    monkeypatch.setattr(rtx, "_installed_onnxruntime", lambda: "onnxruntime")
    assert rtx.OnnxRuntimeRtx().unavailable().endswith('is not installed: pip install "edgereel[rtx]"')
    monkeypatch.setattr(rtx, "_installed_onnxruntime", lambda: "onnxruntime-gpu")
    assert rtx.OnnxRuntimeRtx().unavailable().endswith(f'pip install "{rtx.DISTRIBUTION}"')
    machine("8.9", version="1.25.1")
    assert rtx.OnnxRuntimeRtx().unavailable().endswith('pip install --upgrade "onnxruntime-gpu>=1.26"')


@pytest.mark.skipif(sys.platform == "win32", reason="names of Linux")
def test_the_plugin_without_a_driver(machine, monkeypatch):
    machine("8.9")
    monkeypatch.setattr(rtx, "find_spec", lambda name: object())
    monkeypatch.setattr(cuda_libraries, "_ldconfig", lambda: "")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert "libcuda.so.1 is not found (install NVIDIA's driver): nvidia-smi" in rtx.OnnxRuntimeRtx().unavailable()


@pytest.mark.skipif(sys.platform != "linux", reason="looks where Linux lists devices")
def test_a_system_that_shows_no_nvidia_device(machine, monkeypatch, tmp_path):
    """ONNX Runtime gives a plugin the GPUs that it finds in /sys; under WSL there are none, though nvidia-smi works."""
    for pattern in ("bus/pci/devices/0000:01:00.0", "class/drm/card0/device"):
        root = tmp_path / pattern.partition("/")[0]
        (root / pattern).mkdir(parents=True)
        (root / pattern / "vendor").write_text("0x8086\n")
        assert not rtx._shows_nvidia_devices(root)
        (root / pattern / "vendor").write_text("0x10de\n")
        assert rtx._shows_nvidia_devices(root)
    machine("8.9")
    monkeypatch.setattr(rtx, "find_spec", lambda name: object())
    monkeypatch.setattr(rtx, "missing_libraries", lambda names, folder: [])
    monkeypatch.setattr(rtx, "_shows_nvidia_devices", lambda: False)
    assert rtx.OnnxRuntimeRtx().unavailable().endswith("(WSL does not): --engine cuda")


def test_beside_an_onnxruntime_with_cuda_its_libraries_are_needed(machine, monkeypatch):
    """It makes tensors on the GPU with its own provider, not the plugin."""
    machine("8.9")
    monkeypatch.setattr(rtx, "find_spec", lambda name: object())
    monkeypatch.setattr(rtx, "_shows_nvidia_devices", lambda: True)
    monkeypatch.setattr(rtx, "missing_libraries", lambda names, folder: [])
    monkeypatch.setattr(cuda_libraries, "missing_libraries", lambda names, folder: ["libcublasLt.so.13"])
    assert "libcublasLt.so.13 of CUDA 13" in rtx.OnnxRuntimeRtx().unavailable()
    machine("8.9", "", ("CPUExecutionProvider",))
    assert rtx.OnnxRuntimeRtx().unavailable() is None


def test_the_plugin_is_given_the_library_that_lies_beside_it(monkeypatch, tmp_path):
    happened = []
    plugin = types.ModuleType("plugin")
    plugin.get_library_path = lambda: str(tmp_path / "libplugin.so")
    for name in ("libcudart.so.13.4.36", "libother.so.1"):
        (tmp_path / name).touch()
    known = types.ModuleType("onnxruntime")
    known.register_execution_provider_library = lambda name, path: happened.append((name, path))
    monkeypatch.setattr(rtx, "import_module", lambda name: plugin)
    monkeypatch.setattr(rtx, "_onnxruntime", lambda: known)
    monkeypatch.setattr(rtx.ctypes, "CDLL", lambda path, mode: happened.append((path, mode)))
    rtx._register.__wrapped__()
    assert happened == [
        (str(tmp_path / "libcudart.so.13.4.36"), rtx.ctypes.RTLD_GLOBAL),
        (rtx.PROVIDER, str(tmp_path / "libplugin.so")),
    ]


def test_the_plugins_options():
    shapes = (("latents", (1, 16, 3, 8, 8)), ("timestep", (1,)))
    chosen = rtx.provider_options(EngineOptions(shapes=shapes, weight_budget=0), Path("/kernels"))
    assert chosen == {
        "enable_cuda_graph": "1",
        **{f"nv_profile_{end}_shapes": "latents:1x16x3x8x8,timestep:1" for end in ("min", "opt", "max")},
        "nv_weight_streaming_budget": "1",
        "nv_runtime_cache_path": "/kernels",
    }
    assert rtx.provider_options(EngineOptions(), None) == {"enable_cuda_graph": "0"}
    assert rtx.provider_options(EngineOptions(weight_budget=2**30), None)["nv_weight_streaming_budget"] == str(2**30)


def test_numerics_tell_what_decides_the_numbers(machine):
    machine("8.9")
    half, full = EngineOptions(), EngineOptions(compute="float32")
    engine = cuda.OnnxRuntimeCuda()
    assert engine.numerics(half) != engine.numerics(full)
    assert engine.numerics(half) == engine.numerics(EngineOptions(compute="float16", threads=3))
    assert len({str(sorted(ENGINES[name]().numerics(half).items())) for name in ("cuda", "rtx")}) == 2


def key_of(graph):
    return EngineKey(graph * 64, "", "rtx kernels", "1", "580", "card", "8.9", "float16")


def test_kernels_are_kept_for_the_same_graph_only(tmp_path):
    cache = EngineCache(tmp_path / "engines")
    content = np.random.default_rng().bytes(5000)
    first = KernelCache(key_of("a"), cache)
    assert (first.source, list(first.folder.iterdir())) == ("built", [])
    (first.folder / "node_0").write_bytes(content)
    (first.folder / "node_1").write_bytes(b"x")
    first.keep()
    assert not first.folder.exists()
    second = KernelCache(key_of("a"), cache)
    assert second.source == "cache"
    assert {path.name: path.read_bytes() for path in second.folder.iterdir()} == {"node_0": content, "node_1": b"x"}
    assert second.folder != first.folder
    second.keep()
    assert KernelCache(key_of("b"), cache).source == "built"
    (entry,) = (tmp_path / "engines").glob("*.engine")
    entry.write_bytes(entry.read_bytes()[:-1])
    assert KernelCache(key_of("a"), cache).source == "built"


def test_kernels_that_cannot_be_used_are_made_again(tmp_path, caplog):
    cache = EngineCache(tmp_path / "engines")
    first = KernelCache(key_of("a"), cache)
    (first.folder / "node").write_bytes(b"of another plugin")
    first.keep()

    def open_it():
        if (kernels.folder / "node").exists():
            raise RuntimeError("these kernels are none of mine")
        return "opened"

    for source, lines in (("built", 1), ("cache", 1)):
        kernels = KernelCache(key_of("a"), cache)
        assert rtx.open_with_kernels(open_it, "a.onnx", kernels) == "opened"
        assert kernels.source == source
        assert len(caplog.records) == lines
        (kernels.folder / "node_0").write_bytes(b"of this one")
        kernels.keep()
    kernels = KernelCache(key_of("b"), cache)
    (kernels.folder / "node").touch()
    with pytest.raises(EngineError, match=r"cannot open a\.onnx with TensorRT-RTX: these kernels"):
        rtx.open_with_kernels(open_it, "a.onnx", kernels)


def test_a_session_that_compiled_nothing_keeps_nothing(tmp_path):
    cache = EngineCache(tmp_path / "engines")
    KernelCache(key_of("a"), cache).keep()
    assert cache.list_entries() == []


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    kernels = KernelCache(key_of("a"), EngineCache(tmp_path / "file" / "engines"))
    (kernels.folder / "node").write_bytes(b"x")
    kernels.keep()
    assert not kernels.folder.exists()


def test_closing_keeps_the_kernels(counter, tmp_path):
    """The plugin writes when its session goes, which is when nothing holds on to it any more."""
    cache = EngineCache(tmp_path / "engines")
    kernels = KernelCache(key_of("a"), cache)
    session = rtx.RtxSession(open_bound(counter), kernels)
    zeros = np.zeros(2, np.float32)
    assert session.run(tensors({"x": zeros, "state": zeros}))["y"].shape == (2,)
    (kernels.folder / "node").write_bytes(b"kernels")
    session.close()
    assert KernelCache(key_of("a"), cache).source == "cache"
    with pytest.raises(EngineError, match="closed"):
        session.run(tensors({"x": zeros, "state": zeros}))
