"""ONNX Runtime on an NVIDIA GPU, with its CUDA provider.

Written from ONNX Runtime's documentation and the provider's own list of options. What needs no GPU is tested on the CPU: how
tensors stay on a device, who judges where nodes run, why a machine cannot.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import EdgereelError, EngineError, MissingExtraError, brief
from ...core.machine import usable_cores
from ..base import Engine, Session
from ..graphs.read import read_graph, reading
from ..lowering.lower import LoweredGraph, open_lowered
from ..nvidia import Capability, capability_of, is_jetson, is_thor, no_fitting_gpu, nvidia_gpus
from ..options import Compute, EngineOptions
from ..quantized import first_card
from ..streaming import open_within
from .bound import LARGEST_FIXED, BoundSession, FixedShapeSession, Recording
from .common import (
    failure,
    import_onnxruntime,
    keep_order_of_use,
    model_to_open,
    open_stoppable,
    session_settings,
    version_numbers,
)
from .cuda_libraries import cuda_major, lacking_libraries, load_libraries
from .device_tensor import Device
from .gpu import DEFAULT_COMPUTE, gpu_numerics, gpu_report, lower_for

if TYPE_CHECKING:
    from ..graphs.segments import Segment

PROVIDER = "CUDAExecutionProvider"
# Before it, versions of operators that its kernels do not name go to the CPU: all convolutions in 1.23, Pad in 1.24, and 1.25
# says so of weights that it then runs on the GPU. Tried with these graphs on the provider itself, its libraries replaced.
_OLDEST_ONNXRUNTIME = (1, 26)
_NEWEST_LOOKED_AT = (1, 31)
# `gpu_graph_id` of a run: -1 for one that is neither recorded nor replayed; 0 is ONNX Runtime's own.
_NOT_RECORDED = {"gpu_graph_id": "-1"}
_RECORDED = {"gpu_graph_id": "1"}
_ERROR = 3
LONGEST_RECORDED = 0.05
"""Seconds of a run up to which it is recorded: in longer ones the launching of kernels hides behind the kernels."""
RUNS_BEFORE_RECORDING = 8
"""The recorded run is executed three times, twice before ONNX Runtime records: a clip of few steps would lose by it."""
_NO_GRAPH = "graph capture feature"
"""In what ONNX Runtime says where a CUDA graph cannot be recorded of a model: parts of it stay on the CPU."""


class OnnxRuntimeCuda(Engine):
    """Opens graphs with ONNX Runtime's CUDA provider, in float16 with float32 where the graph needs it."""

    name = "cuda"
    device = "gpu"
    compute = DEFAULT_COMPUTE
    fixed_shapes = True
    blocks_lost = (
        1.25  # its arena keeps blocks of odd sizes: 1.6 for one were counted for a denoiser (tests/gpu_stand_ins/)
    )

    def unavailable(self) -> str | None:
        """See Engine.unavailable: a GPU, its driver, onnxruntime-gpu and the CUDA libraries that it loads."""
        if is_jetson() and not is_thor():
            return "ONNX Runtime has no CUDA package for Jetson boards before Thor: --engine tensorrt"
        if reason := no_fitting_gpu(lambda capability: capability >= (6, 0), "6.0 and newer"):
            return reason
        try:
            onnxruntime = _onnxruntime()
        except (EngineError, MissingExtraError) as error:
            return str(error)
        return _lacking(onnxruntime)

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open. Raises EngineError where nodes that calculate would run on the CPU."""
        if reason := self.unavailable():
            raise EngineError(f"the cuda engine cannot run here: {reason}")
        compute = options.compute or DEFAULT_COMPUTE
        # In other types all releases get the same graph.
        target = f"{self.name}-{_onnxruntime().__version__}" if compute == "bfloat16" else self.name
        return open_lowered(
            graph_path,
            lambda anew: lower_for(target, graph_path, options, compute, anew),
            lambda lowered: self._open(graph_path, options, compute, lowered),
        )

    def _open(self, graph_path: Path, options: EngineOptions, compute: Compute, lowered: LoweredGraph) -> Session:
        onnxruntime = _onnxruntime()
        load_libraries(onnxruntime)
        # It would warn on stderr that its own provider is no plugin; errors are written still.
        onnxruntime.set_default_logger_severity(_ERROR)
        _allocate_what_is_asked_for(onnxruntime)
        name = graph_path.name

        def open_whole(model: str | bytes) -> Session:
            recorded = options.shapes is not None and _small(options)
            with reading(name):
                session, recorded = _open_session(onnxruntime, graph_path, options, model, compute, recorded)
                report = gpu_report(self.name, PROVIDER, onnxruntime, session, name, lowered, compute)
            if options.shapes is None or not recorded:
                copiers = [(PROVIDER, provider_options(recorded=False, compute=compute))]
                return BoundSession(onnxruntime, session, name, Device("cuda"), report, providers=copiers)
            recording = Recording(_NOT_RECORDED, _RECORDED, LONGEST_RECORDED, RUNS_BEFORE_RECORDING)
            return FixedShapeSession(onnxruntime, session, name, Device("cuda"), report, options.shapes, recording)

        def open_segment(segment: Segment) -> Session:
            with reading(name):
                session, _ = _open_session(onnxruntime, graph_path, options, segment.model, compute, False)
                report = gpu_report(self.name, PROVIDER, onnxruntime, session, name, lowered, compute)
            return BoundSession(onnxruntime, session, name, Device("cuda"), report, detached=True)

        if options.weight_budget is None:
            return open_whole(model_to_open(graph_path, lowered.model))
        model = read_graph(graph_path) if lowered.model is None else lowered.model
        return open_within(options.weight_budget, name, model, lambda: open_whole(model), open_segment)

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        """Return the lowered graph; see Engine.graph_to_run."""
        model = lower_for(self.name, graph_path, options, options.compute or DEFAULT_COMPUTE).model
        return graph_path if model is None else model

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Name the kind of GPU and the type that is calculated in; see Engine.numerics."""
        return gpu_numerics(self.name, _onnxruntime().__version__, options)


def provider_options(*, recorded: bool, compute: Compute) -> dict[str, str]:
    """Return the CUDA provider's options. recorded: whether runs may be recorded as CUDA graphs."""
    return {
        "device_id": "0",
        # The default doubles the arena each time: with weights of gigabytes half of the GPU's memory would lie idle.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries all of cuDNN's kernels for each new shape, which takes minutes for a decoder.
        "cudnn_conv_algo_search": "HEURISTIC",
        # What is to be float32 has all of its bits: no products of TensorFloat-32, which keep ten of them. In half precision
        # "0" would keep convolutions off the tensor cores altogether, whatever their type; of products in float32 only the
        # timestep's and those of T5's feed-forward are left there, which get float16's digits with float32's range.
        "use_tf32": "0" if compute == "float32" else "1",
        "enable_cuda_graph": "1" if recorded else "0",
    }


def _allocate_what_is_asked_for(onnxruntime: Any) -> None:
    """Have the arena of tensors that belong to no session take no more than it is asked for; by default it doubles.

    What outlives a session of streamed weights lies there. ONNX Runtime calls this way of telling it old, and has no other for
    that arena; a release without it allocates as it likes.
    """
    module = getattr(getattr(onnxruntime, "capi", None), "_pybind_state", None)
    strategies = getattr(module, "ArenaExtendStrategy", None)
    change = getattr(module, "set_arena_extend_strategy", None)
    if strategies is not None and change is not None:
        change(strategies.kSameAsRequested)


def _onnxruntime() -> Any:
    return import_onnxruntime("onnxruntime-gpu", "gpu", "cuda")


def _lacking(onnxruntime: Any) -> str | None:
    """Return what the installed onnxruntime lacks to run on the GPU."""
    if PROVIDER not in onnxruntime.get_available_providers():
        return (
            f"onnxruntime {onnxruntime.__version__} is the one without CUDA: "
            'pip uninstall -y onnxruntime && pip install "edgereel[gpu]"'
        )
    if version_numbers(onnxruntime.__version__) < _OLDEST_ONNXRUNTIME:
        oldest = ".".join(map(str, _OLDEST_ONNXRUNTIME))
        return (
            f"onnxruntime-gpu {onnxruntime.__version__} leaves parts of these graphs to the processor: "
            f'pip install --upgrade "onnxruntime-gpu[cuda,cudnn]>={oldest}"'
        )
    major = cuda_major(onnxruntime)
    if major is None:
        return None
    runs_on, needed = _runs_on(major, version_numbers(onnxruntime.__version__))
    return no_fitting_gpu(runs_on, needed) or lacking_libraries(onnxruntime, first_card())


def _runs_on(major: int, version: tuple[int, ...]) -> tuple[Callable[[Capability], bool], str]:
    """Return which compute capabilities a package has code for, and these in words; read off the code in its provider.

    Those for CUDA 12 hold intermediate code, which drivers compile for newer cards; those for CUDA 13 have code for single
    generations of cards. Releases that were not looked at are trusted with all.
    """
    if major < 13:
        return lambda capability: capability >= (6, 0), "6.0 and newer"
    if version > _NEWEST_LOOKED_AT:
        return lambda capability: capability >= (7, 5), "7.5 and newer"
    majors = (7, 8, 9, 10, 12) if version < (1, 29) else (7, 8, 9, 12)
    named = "7.5 to 10.x and 12.x" if 10 in majors else "7.5 to 9.0 and 12.x"
    return lambda capability: capability >= (7, 5) and capability[0] in majors, named


def _small(options: EngineOptions) -> bool:
    """Return whether inputs are small enough to be copied into fixed buffers; no type of theirs has more than 8 bytes."""
    return sum(8 * math.prod(shape) for _, shape in options.shapes or ()) <= LARGEST_FIXED


def _open_session(
    onnxruntime: Any, graph_path: Path, options: EngineOptions, model: str | bytes, compute: Compute, recorded: bool
) -> tuple[Any, bool]:
    """Return an onnxruntime.InferenceSession on the GPU, and whether its runs may be recorded as a CUDA graph."""
    threads = options.threads or usable_cores()
    try:
        settings = session_settings(onnxruntime, graph_path, threads, {})
        keep_order_of_use(onnxruntime, settings, model)
        providers = [(PROVIDER, provider_options(recorded=recorded, compute=compute))]
        session = open_stoppable(
            settings,
            lambda: onnxruntime.InferenceSession(model, settings, providers=providers, enable_fallback=0),
        )
    except EdgereelError:
        raise
    except Exception as error:
        if recorded and _NO_GRAPH in str(error):
            return _open_session(onnxruntime, graph_path, options, model, compute, False)
        raise failure(f"cannot open {graph_path.name} with ONNX Runtime on the GPU", error) from error
    if session.get_providers()[0] != PROVIDER:
        # ONNX Runtime goes on with the CPU where the provider cannot be made, and says why on stderr only.
        raise EngineError(f"the cuda engine cannot run here: {_why_not_loaded(onnxruntime)}")
    return session, recorded


def _why_not_loaded(onnxruntime: Any) -> str:
    """Return why the provider's library cannot be loaded, as the system's loader says it."""
    name = "onnxruntime_providers_cuda.dll" if os.name == "nt" else "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / name))
    except OSError as error:
        return f'{brief(error)}: pip install "onnxruntime-gpu[cuda,cudnn]"'
    cards = ", ".join(f"{gpu.name} {capability_of(gpu) or ''}".strip() for gpu in nvidia_gpus()[0])
    return f"ONNX Runtime cannot use the GPU ({cards}), its message on stderr says why: nvidia-smi"
