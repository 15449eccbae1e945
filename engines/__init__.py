"""Run one ONNX graph on one device.

session = get_engine("auto").open(path, EngineOptions(threads=2))
outputs = session.run({"latents": Tensor.from_numpy(array), ...})
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.errors import EngineError, UsageError
from .base import Engine, EngineReport, Ring, Session, Tensor
from .choosing import Choice, choose_engine
from .onnxruntime.cpu import OnnxRuntimeCpu
from .options import Activations, Compute, EngineOptions, GraphSpecs, Part, Shapes, TensorInfo, Window

__all__ = [
    "ENGINES",
    "Activations",
    "Choice",
    "Compute",
    "Engine",
    "EngineOptions",
    "EngineReport",
    "GraphSpecs",
    "Part",
    "Ring",
    "Session",
    "Shapes",
    "Tensor",
    "TensorInfo",
    "Window",
    "choose",
    "get_engine",
]


def _rtx() -> Engine:
    from .onnxruntime.rtx import OnnxRuntimeRtx

    return OnnxRuntimeRtx()


def _tensorrt() -> Engine:
    from .tensorrt import TensorRt

    return TensorRt()


def _cuda() -> Engine:
    from .onnxruntime.cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda()


def _openvino() -> Engine:
    from .openvino.engine import OpenVino

    return OpenVino()


def _auto_cpu() -> Engine:
    from .auto_cpu import AutoCpu

    return AutoCpu()


ENGINES: dict[str, Callable[[], Engine]] = {
    "cpu": OnnxRuntimeCpu,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
    "rtx": _rtx,
    "openvino": _openvino,
}
"""Each engine by name. Those that not every machine can run are imported when they are asked for."""


def get_engine(name: str = "auto") -> Engine:
    """Return the engine of that name; `auto` picks the best that can run on this machine, see engines.choosing.

    On the processor `auto` leaves decoders to OpenVINO where that is worth it, see engines.auto_cpu.

    Raises UsageError for an unknown name, EngineError with the reason where an engine for a GPU is asked for by name and
    cannot run here: another is never taken in its place. Engines on the processor say so when they open a graph.
    """
    if name == "auto":
        choice = choose()
        picked = _auto_cpu() if choice.name == "cpu" else ENGINES[choice.name]()
        picked.why = choice.why
        return picked
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}: choose from {', '.join(['auto', *ENGINES])}")
    engine = ENGINES[name]()
    reason = None if engine.device == "cpu" else engine.unavailable()
    if reason is not None:
        raise EngineError(f"the {name} engine cannot run here: {reason}")
    return engine


def choose() -> Choice:
    """Return what `auto` picks on this machine, and why."""
    return choose_engine({name: make() for name, make in ENGINES.items()})
