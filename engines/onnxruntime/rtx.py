"""ONNX Runtime on an NVIDIA RTX GPU, with the TensorRT-RTX plugin, which compiles a graph for the card it finds.

Written from the plugin's README, its header of options and ONNX Runtime's documentation. What needs no GPU is tested: the
options, the keeping of compiled kernels, why a machine cannot.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...core.errors import EdgereelError, EngineError, MissingExtraError, OutOfMemory, brief
from ...core.interrupts import interrupts_wait
from ...core.machine import usable_cores
from ..base import Engine, Session, Tensor
from ..cache.entry import EngineKey
from ..cache.store import log
from ..compiled.facts import CompiledGraph
from ..compiled.rtx_compiler import explain_for_card
from ..graphs.read import read_graph, reading
from ..lowering.lower import LoweredGraph, open_lowered
from ..lowering.targets import FLOAT8_WEIGHTS
from ..nvidia import Capability, no_fitting_gpu, nvidia_gpus
from ..options import Compute, EngineOptions
from ..quantized import first_card, refuse_float8
from ..tensorrt.building import BuildSettings
from ..tensorrt.profiles import RANGES
from .bound import BoundSession, FixedShapeSession
from .common import (
    LONGEST_QUOTE,
    failure,
    import_onnxruntime,
    model_to_open,
    open_stoppable,
    session_settings,
    version_numbers,
)
from .cuda_libraries import DRIVER, NO_DRIVER, lacking_libraries, load_libraries, missing_libraries
from .device_tensor import Device
from .gpu import DEFAULT_COMPUTE, gpu_numerics, gpu_report, lower_for
from .rtx_kernel_cache import KernelCache

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
DISTRIBUTION = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
PROVIDER = "NvTensorRTRTXExecutionProvider"
# The plugin itself takes 1.24; from 1.26 on ONNX Runtime's Python finds the memory of a plugin's GPU under the name `cuda`.
_OLDEST_ONNXRUNTIME = (1, 26)
_NVIDIA = "0x10de"


class OnnxRuntimeRtx(Engine):
    """Opens graphs with the TensorRT-RTX plugin of ONNX Runtime, in float16 with float32 where the graph needs it."""

    name = "rtx"
    device = "gpu"
    compute = DEFAULT_COMPUTE
    fixed_shapes = True
    streams_from_host = True

    def unavailable(self) -> str | None:
        """See Engine.unavailable: an RTX card, ONNX Runtime of any kind and the plugin."""
        if reason := no_fitting_gpu(runs_on, "8.6, 8.9, 12.0 and newer"):
            return reason
        try:
            onnxruntime = _onnxruntime()
        except (EngineError, MissingExtraError) as error:
            return str(error)
        if version_numbers(onnxruntime.__version__) < _OLDEST_ONNXRUNTIME:
            oldest = ".".join(map(str, _OLDEST_ONNXRUNTIME))
            return (
                f"onnxruntime {onnxruntime.__version__} is too old for the TensorRT-RTX plugin: "
                f'pip install --upgrade "{_installed_onnxruntime()}>={oldest}"'
            )
        if not _plugin_installed():
            # The extra brings the plain onnxruntime, which would overwrite files of another one that is there.
            wanted = "edgereel[rtx]" if _installed_onnxruntime() == "onnxruntime" else DISTRIBUTION
            return f'the TensorRT-RTX plugin is not installed: pip install "{wanted}"'
        if missing_libraries((DRIVER,), Path(onnxruntime.__file__).parents[1]):
            return NO_DRIVER
        if not _shows_nvidia_devices():
            return "ONNX Runtime finds no GPU for plugins, since the system shows no NVIDIA device (WSL does not): --engine cuda"
        return lacking_libraries(onnxruntime)  # one with CUDA of its own makes tensors with that

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open. Raises EngineError where nodes that calculate would run on the CPU."""
        if reason := self.unavailable():
            raise EngineError(f"the rtx engine cannot run here: {reason}")
        compute = options.compute or DEFAULT_COMPUTE
        return open_lowered(
            graph_path,
            lambda anew: lower_for("tensorrt-rtx", graph_path, options, compute, anew),
            lambda lowered: self._open(graph_path, options, compute, lowered),
        )

    def _open(self, graph_path: Path, options: EngineOptions, compute: Compute, lowered: LoweredGraph) -> Session:
        onnxruntime = _onnxruntime()
        refuse_float8(self.name, graph_path.name, bool(lowered.rewrites.get(FLOAT8_WEIGHTS)), first_card())
        model = model_to_open(graph_path, lowered.model)
        content = read_graph(graph_path) if lowered.model is None else lowered.model
        kernels = _kernels(content, onnxruntime, compute, options) if options.keep else None
        settings = session_settings(onnxruntime, graph_path, options.threads or usable_cores(), {})
        load_libraries(onnxruntime)
        _register()
        chosen = provider_options(options, kernels.folder if kernels else None)
        settings.add_provider_for_devices([_first_device(onnxruntime)], chosen)
        started = time.perf_counter()
        session = open_with_kernels(
            lambda: open_stoppable(
                settings, lambda: onnxruntime.InferenceSession(model, sess_options=settings, enable_fallback=0)
            ),
            graph_path.name,
            kernels,
        )
        with reading(graph_path.name):
            report = gpu_report(self.name, PROVIDER, onnxruntime, session, graph_path.name, lowered, compute)
        if kernels is not None:
            seconds = time.perf_counter() - started
            report = replace(report, build=kernels.source, build_seconds=seconds if kernels.source == "built" else 0.0)
        name, device = graph_path.name, Device("cuda")
        if options.shapes is None:
            return RtxSession(BoundSession(onnxruntime, session, name, device, report), kernels)
        return RtxSession(FixedShapeSession(onnxruntime, session, name, device, report, options.shapes), kernels)

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        """Return the lowered graph; see Engine.graph_to_run."""
        model = lower_for("tensorrt-rtx", graph_path, options, options.compute or DEFAULT_COMPUTE).model
        return graph_path if model is None else model

    def explain(self, graph_path: Path, options: EngineOptions, card: tuple[int, int] | None) -> CompiledGraph:
        """Return what TensorRT-RTX's compiler, which needs no card, makes of a graph; see Engine.explain."""
        if card is not None and not runs_on(card):
            raise EngineError(
                f"the rtx engine runs on compute capability 8.6, 8.9, 12.0 and newer, not {card[0]}.{card[1]}"
            )
        compute = options.compute or DEFAULT_COMPUTE
        lowered = lower_for("tensorrt-rtx", graph_path, options, compute)
        refuse_float8(self.name, graph_path.name, bool(lowered.rewrites.get(FLOAT8_WEIGHTS)), card or first_card())
        model = lowered.model
        settings = BuildSettings(compute, options.shapes, RANGES, False, None, card=card)
        return explain_for_card(read_graph(graph_path) if model is None else model, graph_path, settings)

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Name the plugin, the kind of GPU and the type that is calculated in; see Engine.numerics."""
        return gpu_numerics(self.name, f"{_onnxruntime().__version__}, {_plugin_version()}", options)


class RtxSession(Session):
    """A graph opened by OnnxRuntimeRtx. Closing it keeps the kernels that were compiled while it ran."""

    def __init__(self, inner: BoundSession, kernels: KernelCache | None) -> None:
        self._inner = inner
        self._kernels = kernels
        self.specs = inner.specs
        self.report = inner.report

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run. The outputs are DeviceTensors, copied to the host where asked for."""
        return self._inner.run(inputs)

    def stop(self) -> None:
        """See Session.stop."""
        self._inner.stop()

    def close(self) -> None:
        """Release the graph: the plugin writes its kernels then, into a folder of this session's own."""
        self._inner.close()
        if self._kernels is not None:
            self._kernels.keep()
            self._kernels = None


def open_with_kernels(open_it: Callable[[], Any], graph_name: str, kernels: KernelCache | None) -> Any:
    """Return what `open_it` opens. Where it fails with kernels of before, it is tried once without them.

    Raises EngineError, OutOfMemory.
    """
    while True:
        try:
            return open_it()
        except EdgereelError:
            raise
        except Exception as error:
            problem = failure(f"cannot open {graph_name} with TensorRT-RTX", error)
            if kernels is None or kernels.source == "built" or isinstance(problem, OutOfMemory):
                raise problem from error
            log.warning("the kernels of %s in the cache are made again, they cannot be used: %s", graph_name, problem)
            kernels.start_over()


def runs_on(capability: Capability) -> bool:
    """Return whether TensorRT-RTX has kernels for a compute capability, as the plugin's own header says."""
    return capability in ((8, 6), (8, 9)) or capability >= (12, 0)


def provider_options(options: EngineOptions, kernels: Path | None) -> dict[str, str]:
    """Return the plugin's options. kernels: the folder that it reads compiled kernels from and writes them to."""
    chosen = {"enable_cuda_graph": "0" if options.shapes is None else "1"}
    if options.shapes is not None:
        profile = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in options.shapes if shape)
        chosen.update({f"nv_profile_{end}_shapes": profile for end in ("min", "opt", "max")})
    if options.weight_budget is not None:
        # 0 would be no streaming at all; 1 is as few weights on the GPU as can be.
        chosen["nv_weight_streaming_budget"] = str(max(options.weight_budget, 1))
    if kernels is not None:
        chosen["nv_runtime_cache_path"] = str(kernels)
    return chosen


def _onnxruntime() -> Any:
    return import_onnxruntime("onnxruntime", "rtx", "rtx")


def _installed_onnxruntime() -> str:
    """Return the name of the distribution that `import onnxruntime` loads, as far as pip knows."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            version(name)
            return name
    return "onnxruntime"


def _plugin_version() -> str:
    try:
        return f"TensorRT-RTX plugin {version(DISTRIBUTION)}"
    except PackageNotFoundError:
        return "TensorRT-RTX plugin"


def _plugin_installed() -> bool:
    try:
        return find_spec(PLUGIN) is not None
    except ValueError:  # blocked by sys.modules[PLUGIN] = None
        return False


def _shows_nvidia_devices(root: Path = Path("/sys")) -> bool:
    """Return whether Linux lists a device of NVIDIA's where ONNX Runtime looks for GPUs; True elsewhere."""
    if sys.platform != "linux":
        return True
    for pattern in ("bus/pci/devices/*/vendor", "class/drm/card*/device/vendor"):
        for file in root.glob(pattern):
            with contextlib.suppress(OSError):
                if file.read_text().strip() == _NVIDIA:
                    return True
    return False


@lru_cache(maxsize=1)
def _register() -> None:
    """Make the plugin known to ONNX Runtime, once for each process. Raises EngineError where it cannot be loaded."""
    try:
        with interrupts_wait():
            plugin = import_module(PLUGIN)
        # The plugin needs this library, which lies beside it; neither the loader nor its own package looks there.
        for library in sorted(Path(plugin.get_library_path()).parent.glob("libcudart.so.*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        _onnxruntime().register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except Exception as error:
        reason = brief(error, LONGEST_QUOTE)
        raise EngineError(
            f"the TensorRT-RTX plugin cannot be loaded ({reason}): install NVIDIA's driver for CUDA 13, then try nvidia-smi"
        ) from error


def _first_device(onnxruntime: Any) -> Any:
    """Return the onnxruntime.OrtEpDevice to run on: the first GPU that the plugin finds to be one it runs on."""
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        raise EngineError("the TensorRT-RTX plugin finds no GPU that it runs on: nvidia-smi lists those there are")
    return devices[0]


def _kernels(content: bytes, onnxruntime: Any, compute: Compute, options: EngineOptions) -> KernelCache | None:
    """Return the kernels compiled for this graph, card and driver before, which hold no weights; None without a place for them."""
    gpus, _ = nvidia_gpus()
    key = EngineKey(
        graph_sha256=hashlib.sha256(content).hexdigest(),
        data_sha256="",
        backend="rtx kernels",
        backend_version=f"onnxruntime {onnxruntime.__version__}, {_plugin_version()}",
        driver=", ".join(gpu.driver for gpu in gpus),
        card=", ".join(gpu.name for gpu in gpus),
        compute_capability=", ".join(gpu.compute_capability for gpu in gpus),
        precision=compute if options.lower else "float32",
        shapes=options.shapes or (),
        options=provider_options(options, None),
    )
    try:
        return KernelCache(key)
    except OSError:
        return None
