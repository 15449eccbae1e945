"""Run one ONNX graph on one device.

session = get_engine("auto").open(path, EngineOptions(threads=2))
outputs = session.run({"latents": Tensor.from_numpy(array), ...})
"""

from __future__ import annotations

from ..errors import UsageError
from .base import (
    Activations,
    Compute,
    Engine,
    EngineOptions,
    EngineReport,
    GraphSpecs,
    Session,
    Shapes,
    Tensor,
    TensorInfo,
)
from .onnxruntime_cpu import OnnxRuntimeCpu

__all__ = [
    "ENGINES",
    "Activations",
    "Compute",
    "Engine",
    "EngineOptions",
    "EngineReport",
    "GraphSpecs",
    "Session",
    "Shapes",
    "Tensor",
    "TensorInfo",
    "get_engine",
]

ENGINES: dict[str, type[Engine]] = {"cpu": OnnxRuntimeCpu}


def get_engine(name: str = "auto") -> Engine:
    """Return the engine of that name; `auto` picks the best that this version has for the machine.

    Raises UsageError for an unknown name.
    """
    if name == "auto":
        return OnnxRuntimeCpu()
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}: choose from {', '.join(['auto', *ENGINES])}")
    return ENGINES[name]()
