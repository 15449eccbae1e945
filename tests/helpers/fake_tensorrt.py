"""TensorRT's Python API as versions 8.6, 10.3, 10.15 and 11.0 have it, computing with ONNX Runtime on the CPU.

Every object has the attributes that the same object has in NVIDIA's bindings of that version, of those that are written
here, and no others: fake_tensorrt_attributes.json holds what `dir` says of the real ones. A "plan" is the ONNX model with
its profile; a context reads its inputs from the device memory of fake_cudart.py at the addresses it was given, runs the
model, and writes the outputs to theirs. It enforces what TensorRT documents: shapes within the profile, addresses
before a run, a plain run before a capture, no change of the weight budget once there is a context.

It proves the order of calls, the names, and what becomes of the numbers. It does not prove that TensorRT accepts a graph, a
flag or an order of calls: no part of TensorRT runs here.
"""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from helpers.fake_cudart import FakeCudart
from helpers.fake_tensorrt_building import (
    TYPE_NAMES,
    Builder,
    Fake,
    IAttention,
    IAttentionInputLayer,
    IBuilderConfig,
    ILayer,
    ILogger,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    ITimingCache,
    Lacking,
    OnnxParser,
    ParserError,
)
from helpers.fake_tensorrt_running import (
    EngineInspector,
    ICudaEngine,
    IExecutionContext,
    OnnxParserRefitter,
    Refitter,
    Runtime,
)

_TABLE = json.loads((Path(__file__).parent / "fake_tensorrt_attributes.json").read_text())
_CLASSES: tuple[type[Fake], ...] = (
    ILogger,
    ITensor,
    ILayer,
    IAttention,
    IAttentionInputLayer,
    INetworkDefinition,
    ParserError,
    OnnxParser,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    Builder,
    Runtime,
    EngineInspector,
    ICudaEngine,
    IExecutionContext,
)


class FakeTensorRT(ModuleType):
    """A module to stand in `sys.modules` for tensorrt of one version: `8.6`, `10.3`, `10.15` or `11.0`.

    The attributes that the real module lacks say what shall go wrong, and record what was built.
    """

    def __init__(self, version: str, cudart: FakeCudart) -> None:
        super().__init__("tensorrt")
        self.__version__ = f"{version}.0"
        major, minor = map(int, version.split("."))
        self.version = (major, minor)
        self.cudart = cudart
        self.unsupported: set[str] = set()
        self.build_error = self.deserialize_error = self.context_error = self.execute_error = ""
        self.no_device = self.builds_float32 = self.cannot_be_captured = False
        self.configs: list[Any] = []
        self.networks: list[Any] = []
        self.engines: list[Any] = []
        self.refit_error = ""
        self.plain_runs = self.refits = 0
        self.workspace = 4096
        for name, versions in _TABLE["enums"].items():
            if version in versions:
                setattr(self, name, enum.IntEnum(name, versions[version], start=0))
        if self.version >= (10, 0):  # as TensorRT-RTX's bindings have it, which a test compares
            members = ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
            self.ExecutionContextAllocationStrategy = enum.IntEnum("Strategy", members, start=0)
        for base in _CLASSES:
            setattr(self, base.__name__, self._of_version(base, version))
        if self.version >= (10, 0):  # likewise
            self.Refitter = type("Refitter", (Refitter,), {"trt": self})
            self.OnnxParserRefitter = type("OnnxParserRefitter", (OnnxParserRefitter,), {"trt": self})

    def _of_version(self, base: type[Fake], version: str) -> type[Fake]:
        table = _TABLE["classes"][base.__name__]
        real = {name for versions, names in table.items() if version in versions.split() for name in names}
        written = {name for name in vars(base) if not name.startswith("_")}
        lacking = {name: Lacking() for name in written - real - {"trt"}}
        return type(base.__name__, (base,), {**lacking, "trt": self})

    def type_of(self, elem_type: int) -> Any:
        name = TYPE_NAMES[elem_type]
        return self.DataType[name if name in self.DataType.__members__ else "INT32"]

    @staticmethod
    def numpy_type(dtype: Any) -> Any:
        return {
            "FLOAT": np.float32,
            "HALF": np.float16,
            "INT32": np.int32,
            "INT64": np.int64,
            "BOOL": np.bool_,
            "UINT8": np.uint8,
        }[dtype.name]

    @staticmethod
    def severity(name: str) -> Any:
        return enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])[name]

    def flagged(self, flags: int, name: str) -> bool:
        members = self.NetworkDefinitionCreationFlag.__members__
        return name in members and bool(flags & (1 << int(members[name])))


def install_fakes(monkeypatch: Any, version: str, memory: int = 2**30) -> FakeTensorRT:
    """Put the stand-ins in the places of tensorrt and cuda-python, and an H100 into the machine; return tensorrt's."""
    from edgereel.core import machine

    cudart = FakeCudart(memory)
    trt = FakeTensorRT(version, cudart)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cudart  # type: ignore[attr-defined]
    modules = {"tensorrt": trt, "cuda": ModuleType("cuda"), "cuda.bindings": bindings, "cuda.bindings.runtime": cudart}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(machine, "find_gpus", lambda: ([machine.Gpu("NVIDIA H100", 80 * 2**30, "9.0", "580.65")], ""))
    return trt
