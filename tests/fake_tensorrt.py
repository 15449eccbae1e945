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

import base64
import ctypes
import enum
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cudart import FakeCudart

_TABLE = json.loads((Path(__file__).parent / "fake_tensorrt_attributes.json").read_text())
_TYPE_NAMES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.BOOL: "BOOL",
}
_INSPECTED = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8"}
_LAYER_NAMES = {"MatMul": "MATRIX_MULTIPLY", "Conv": "CONVOLUTION", "Attention": "ATTENTION_INPUT", "Cast": "CAST"}
# The formats that NVIDIA's documents show: a sentence until 10, two fields from 11 on.
_SENTENCES = {"FLOAT": "Row major linear FP32 format", "HALF": "Row major linear FP16 format"}


class _Lacking:
    """An attribute that the real class does not have in this version."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.text = f"{owner.__name__!r} object has no attribute {name!r} in this version of TensorRT"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        raise AttributeError(self.text)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(self.text)


class _Object:
    """Base of all: like pybind11's objects, takes no attribute that its class does not have; classes derived from it may."""

    trt: FakeTensorRT

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and "trt" in vars(type(self)):
            getattr(type(self), name)  # raises where there is none
        object.__setattr__(self, name, value)


class ILogger(_Object):
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class ITensor(_Object):
    dtype: Any = None
    name: str = ""
    shape: tuple[int, ...] = ()

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...] = (), names: Sequence[str] = ()) -> None:
        self.name, self.dtype, self.shape, self._names = name, dtype, shape, names

    def get_dimension_name(self, index: int) -> str:
        return self._names[index]


class ILayer(_Object):
    type: Any = None
    name: str = ""
    precision: Any = None
    num_outputs: int = 1

    def __init__(self, name: str, kind: Any, source: ITensor, result: ITensor) -> None:
        self.name, self.type, self._source, self._result = name, kind, source, result

    def get_input(self, index: int) -> ITensor:
        assert index == 0
        return self._source

    def get_output(self, index: int) -> ITensor:
        assert index == 0
        return self._result

    def set_output_type(self, index: int, dtype: Any) -> None:
        assert index == 0
        self._output_type = dtype


class INetworkDefinition(_Object):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._inputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._model = b""
        self._folder = ""

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class ParserError(_Object):
    def __init__(self, node: int, name: str, operator: str, text: str) -> None:
        self._node, self._name, self._operator, self._text = node, name, operator, text

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator

    def desc(self) -> str:
        return self._text


class OnnxParser(_Object):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        trt = self.trt
        folder = "" if path is None else str(Path(path).parent)
        parsed = onnx.load_from_string(model)
        for index, node in enumerate(parsed.graph.node):
            if node.op_type in trt.unsupported:
                self._errors.append(trt.ParserError(index, node.name, node.op_type, f"no importer for {node.op_type}"))
        for tensor in parsed.graph.initializer:
            location = {entry.key: entry.value for entry in tensor.external_data}.get("location")
            if location is not None and not (Path(folder) / location).is_file():
                self._errors.append(trt.ParserError(-1, "", "", f"cannot open {location}"))
        if self._errors:
            return False
        network = self._network
        network._model, network._folder = model, folder
        for value in parsed.graph.input:
            dimensions = value.type.tensor_type.shape.dim
            shape = tuple(-1 if d.dim_param else d.dim_value for d in dimensions)
            names = [d.dim_param for d in dimensions]
            network._inputs.append(trt.ITensor(value.name, trt.type_of(value.type.tensor_type.elem_type), shape, names))
        types = _value_types(parsed)
        for node in parsed.graph.node:
            if types.get(node.input[0] if node.input else "") is None or types.get(node.output[0]) is None:
                continue
            kind = trt.LayerType.__members__.get(
                _LAYER_NAMES.get(node.op_type, "ELEMENTWISE"), trt.LayerType.ELEMENTWISE
            )
            source, result = (trt.ITensor(name, trt.type_of(types[name])) for name in (node.input[0], node.output[0]))
            network._layers.append(trt.ILayer(node.name, kind, source, result))
        return True


class IOptimizationProfile(_Object):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache(_Object):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> Any:
        return _bytes_like(self._data)


class IBuilderConfig(_Object):
    profiling_verbosity: Any = None

    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._pools: dict[str, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._timings: ITimingCache | None = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool.name] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return self.trt.ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._data and not cache._data.startswith(self.trt.__version__.encode()):
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timings

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1


class Builder(_Object):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        if self.trt.no_device:
            logger.log(self.trt.severity("ERROR"), "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return self.trt.INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        self.trt.configs.append(self.trt.IBuilderConfig())
        return self.trt.configs[-1]

    def create_optimization_profile(self) -> IOptimizationProfile:
        return self.trt.IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        trt = self.trt
        trt.networks.append(network)
        if trt.build_error:
            self._logger.log(trt.severity("ERROR"), trt.build_error)
            return None
        dynamic = [tensor.name for tensor in network._inputs if -1 in tensor.shape]
        shapes = config._profiles[0]._shapes if config._profiles else {}
        if set(dynamic) - set(shapes):
            self._logger.log(trt.severity("ERROR"), f"no profile for {dynamic}")
            return None
        strong = trt.version >= (11, 0) or trt.flagged(network._flags, "STRONGLY_TYPED")
        if "WEIGHT_STREAMING" in config._flags and not strong:
            self._logger.log(trt.severity("ERROR"), "weight streaming needs a strongly typed network")
            return None
        if config._timings is not None:
            config._timings._data = f"{trt.__version__} measured {len(trt.networks)}".encode()
        layers = [
            (layer.name, layer.type.name, "FLOAT" if trt.builds_float32 else layer.get_input(0).dtype.name)
            for layer in network._layers
        ]
        plan = {
            "version": trt.__version__,
            "model": base64.b64encode(network._model).decode(),
            "folder": network._folder,
            "shapes": shapes,
            "layers": layers if config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED else [],
            "streams": "WEIGHT_STREAMING" in config._flags,
        }
        return _bytes_like(json.dumps(plan).encode())


class Runtime(_Object):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        plan = json.loads(bytes(serialized_engine))
        plan["model"] = base64.b64decode(plan["model"])
        plan["shapes"] = {name: tuple(map(tuple, shapes)) for name, shapes in plan["shapes"].items()}
        if plan["version"] != self.trt.__version__ or self.trt.deserialize_error:
            self._logger.log(self.trt.severity("ERROR"), self.trt.deserialize_error or "another version")
            return None
        engine = self.trt.ICudaEngine(plan, self._logger)
        self.trt.engines.append(engine)
        return engine


class EngineInspector(_Object):
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        layers = [
            {
                "Name": name,
                "LayerType": {"MATRIX_MULTIPLY": "gemm", "CONVOLUTION": "CaskConvolution"}.get(kind, "kgen"),
                "Inputs": [self._tensor(name + ".in", dtype)],
                "Outputs": [self._tensor(name + ".out", dtype)],
            }
            for name, kind, dtype in self._plan["layers"]
        ]
        return json.dumps({"Layers": layers})

    def _tensor(self, name: str, dtype: str) -> dict[str, Any]:
        if self.trt.version >= (11, 0):
            return {
                "Name": name,
                "DataType": _INSPECTED.get(dtype, dtype),
                "Format": "Row major linear format (kLINEAR)",
            }
        return {"Name": name, "Format/Datatype": _SENTENCES.get(dtype, _INSPECTED.get(dtype, dtype))}


class ICudaEngine(_Object):
    def __init__(self, plan: dict[str, Any], logger: ILogger) -> None:
        self._plan, self._logger = plan, logger
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", plan["folder"])
        self._session = onnxruntime.InferenceSession(plan["model"], options, providers=["CPUExecutionProvider"])
        self._model = onnx.load_from_string(plan["model"])
        self._values = [*self._model.graph.input, *self._model.graph.output]
        self._contexts: list[IExecutionContext] = []
        self._budget = self._total = sum(
            int(entry.value)
            for t in self._model.graph.initializer
            for entry in t.external_data
            if entry.key == "length"
        )

    @property
    def num_layers(self) -> int:
        return len(self._plan["layers"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return self._values[index].name

    def _value(self, name: str) -> Any:
        return next(value for value in self._values if value.name == name).type.tensor_type

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.type_of(self._value(name).elem_type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if (fixed := self._fixed(name)) is not None:
            return fixed
        return tuple(-1 if d.dim_param else d.dim_value for d in self._value(name).shape.dim)

    def _fixed(self, name: str) -> tuple[int, ...] | None:
        """TensorRT folds dimensions for which a profile has one value."""
        shapes = self._plan["shapes"].get(name)
        return shapes[0] if shapes is not None and len(set(shapes)) == 1 else None

    def get_tensor_location(self, name: str) -> Any:
        return self.trt.TensorLocation.DEVICE

    def get_tensor_mode(self, name: str) -> Any:
        inputs = {value.name for value in self._model.graph.input}
        return self.trt.TensorIOMode.INPUT if name in inputs else self.trt.TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return list(self._plan["shapes"][name])

    def create_engine_inspector(self) -> EngineInspector:
        return self.trt.EngineInspector(self._plan)

    def create_execution_context(self) -> IExecutionContext | None:
        if self.trt.context_error:
            self._logger.log(self.trt.severity("ERROR"), self.trt.context_error)
            return None
        self._contexts.append(self.trt.IExecutionContext(self))
        return self._contexts[-1]

    @property
    def streamable_weights_size(self) -> int:
        return self._total if self._plan["streams"] else 0

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        if self._plan["streams"] and not self._contexts and 0 <= budget <= self._total:
            self._budget = budget


class IExecutionContext(_Object):
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled = False

    def set_input_shape(self, name: str, shape: Any) -> bool:
        limits = self._engine._plan["shapes"].get(name)
        shape = tuple(shape)
        if limits is None:
            fits = shape == self._engine.get_tensor_shape(name)
        else:
            fits = len(shape) == len(limits[0]) and all(
                low <= extent <= high for low, extent, high in zip(limits[0], shape, limits[2], strict=True)
            )
        if fits:
            self._settled = self._settled and self._shapes.get(name) == shape
            self._shapes[name] = shape
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        extents: dict[str, int] = {}
        for value in self._engine._model.graph.input:
            for dimension, extent in zip(value.type.tensor_type.shape.dim, self._shapes[value.name], strict=True):
                if dimension.dim_param.isidentifier():
                    extents[dimension.dim_param] = extent
        return tuple(
            _evaluate(d.dim_param, extents) if d.dim_param else d.dim_value for d in self._engine._value(name).shape.dim
        )

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cudart = self._engine.trt.cudart
        stream = cudart.streams[stream_handle]
        addresses = dict(self._addresses)
        if len(addresses) != self._engine.num_io_tensors or self._engine.trt.execute_error:
            self._engine._logger.log(
                self.trt.severity("ERROR"), self._engine.trt.execute_error or "addresses are missing"
            )
            return False
        if stream.recorded is not None:
            if not self._settled or self._engine.trt.cannot_be_captured:
                stream.spoilt = True
                return False
            shapes = dict(self._shapes)
            stream.recorded.append(lambda: self._compute(addresses, shapes))
            return True
        self._engine.trt.plain_runs += 1
        self._settled = True
        return self._compute(addresses, self._shapes)

    def _compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> bool:
        engine = self._engine
        cudart = engine.trt.cudart
        feeds = {}
        for value in engine._session.get_inputs():
            dtype = engine.trt.numpy_type(engine.get_tensor_dtype(value.name))
            array = np.empty(shapes[value.name], dtype)
            if not cudart.holds(addresses[value.name], array.nbytes):
                return False
            ctypes.memmove(array.ctypes.data, addresses[value.name], array.nbytes)
            feeds[value.name] = array.astype(np.int64) if value.type == "tensor(int64)" else array
        names = [value.name for value in engine._session.get_outputs()]
        for name, result in zip(names, engine._session.run(names, feeds), strict=True):
            array = np.ascontiguousarray(result)
            if not cudart.holds(addresses[name], array.nbytes):
                return False
            ctypes.memmove(addresses[name], array.ctypes.data, array.nbytes)
        return True


_CLASSES: tuple[type[_Object], ...] = (
    ILogger,
    ITensor,
    ILayer,
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
        self.plain_runs = 0
        for name, versions in _TABLE["enums"].items():
            if version in versions:
                setattr(self, name, enum.IntEnum(name, versions[version], start=0))
        for base in _CLASSES:
            setattr(self, base.__name__, self._of_version(base, version))

    def _of_version(self, base: type[_Object], version: str) -> type[_Object]:
        table = _TABLE["classes"][base.__name__]
        real = {name for versions, names in table.items() if version in versions.split() for name in names}
        written = {name for name in vars(base) if not name.startswith("_")}
        lacking = {name: _Lacking() for name in written - real - {"trt"}}
        return type(base.__name__, (base,), {**lacking, "trt": self})

    def type_of(self, elem_type: int) -> Any:
        name = _TYPE_NAMES[elem_type]
        return self.DataType[name if name in self.DataType.__members__ else "INT32"]

    @staticmethod
    def numpy_type(dtype: Any) -> Any:
        return {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}[
            dtype.name
        ]

    @staticmethod
    def severity(name: str) -> Any:
        return enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])[name]

    def flagged(self, flags: int, name: str) -> bool:
        members = self.NetworkDefinitionCreationFlag.__members__
        return name in members and bool(flags & (1 << int(members[name])))


def _bytes_like(data: bytes) -> Any:
    """IHostMemory has the buffer protocol, which Python classes have from 3.12 on only."""
    return memoryview(data)


def _evaluate(dimension: str, extents: dict[str, int]) -> int:
    """Return what a dimension such as `height*16` is."""
    name, factor = re.fullmatch(r"(\w+)(?:\*(\d+))?", dimension).groups()
    return extents[name] * int(factor or 1)


def _value_types(model: Any) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return {name: kind for name, kind in types.items() if kind in _TYPE_NAMES}


def install_fakes(monkeypatch: Any, version: str, memory: int = 2**30) -> FakeTensorRT:
    """Put the stand-ins in the places of tensorrt and cuda-python, and an H100 into the machine; return tensorrt's."""
    from edgereel import machine

    cudart = FakeCudart(memory)
    trt = FakeTensorRT(version, cudart)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cudart  # type: ignore[attr-defined]
    modules = {"tensorrt": trt, "cuda": ModuleType("cuda"), "cuda.bindings": bindings, "cuda.bindings.runtime": cudart}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(machine, "find_gpus", lambda: ([machine.Gpu("NVIDIA H100", 80 * 2**30, "9.0", "580.65")], ""))
    return trt
