"""The part of fake_tensorrt.py that opens and runs what was built; what it proves, and what not, is said there."""

from __future__ import annotations

import base64
import ctypes
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from helpers.bfloat16 import bfloat16_in_float32
from helpers.fake_tensorrt_building import Fake, ILogger

_INSPECTED = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8"}
# The formats that NVIDIA's documents show: a sentence until 10, two fields from 11 on.
_SENTENCES = {"FLOAT": "Row major linear FP32 format", "HALF": "Row major linear FP16 format"}


class Runtime(Fake):
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


class EngineInspector(Fake):
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


class ICudaEngine(Fake):
    def __init__(self, plan: dict[str, Any], logger: ILogger) -> None:
        self._plan, self._logger = plan, logger
        self._session: Any = None
        self._model = onnx.load_from_string(plan["model"])
        self._values = [*self._model.graph.input, *self._model.graph.output]
        self._contexts: list[IExecutionContext] = []
        self._budget = self._total = plan["weights"]
        if not plan["stripped"]:
            self._fill(plan["model"])

    def _fill(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            bfloat16_in_float32(model), options, providers=["CPUExecutionProvider"]
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

    @property
    def device_memory_size_v2(self) -> int:
        return self.trt.workspace

    @property
    def device_memory_size(self) -> int:
        return self.trt.workspace

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
        if self.trt.context_error:
            self._logger.log(self.trt.severity("ERROR"), self.trt.context_error)
            return None
        self._contexts.append(self.trt.IExecutionContext(self))
        self._contexts[-1]._workspace = 0 if strategy is None or strategy.name == "STATIC" else self.trt.workspace
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


class IExecutionContext(Fake):
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled = False
        self._workspace = 0
        self._given: tuple[int, int] | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        self._given = (memory, size)

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
        if self._workspace and (self._given is None or not cudart.holds(self._given[0], self._workspace)):
            self._engine._logger.log(self.trt.severity("ERROR"), "the context has no memory to run in")
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


def _evaluate(dimension: str, extents: dict[str, int]) -> int:
    """Return what a dimension such as `height*16` is."""
    name, factor = re.fullmatch(r"(\w+)(?:\*(\d+))?", dimension).groups()
    return extents[name] * int(factor or 1)


class Refitter(Fake):
    """Takes the weights of an engine that was built without, and puts them in when told to."""

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        self._engine, self._logger = engine, logger
        self._weights: bytes | None = None

    def refit_cuda_engine(self) -> bool:
        if self._weights is None:
            return False
        self._engine._fill(self._weights)
        self.trt.refits += 1
        return True


class OnnxParserRefitter(Fake):
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter, self._logger = refitter, logger

    def refit_from_bytes(self, model: bytes, path: str | None = None) -> bool:
        if self.trt.refit_error:
            self._logger.log(self.trt.severity("ERROR"), self.trt.refit_error)
            return False
        filled = onnx.load_from_string(model)
        if filled.graph.node != self._refitter._engine._model.graph.node:
            self._logger.log(self.trt.severity("ERROR"), "the weights are of another graph")
            return False
        onnx.load_external_data_for_model(filled, str(Path(str(path)).parent))
        self._refitter._weights = filled.SerializeToString()
        return True
