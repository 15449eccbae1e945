"""The part of fake_tensorrt.py that reads graphs and builds; what it proves, and what not, is said there."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from helpers.fake_tensorrt import FakeTensorRT

TYPE_NAMES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}
_LAYER_NAMES = {"MatMul": "MATRIX_MULTIPLY", "Conv": "CONVOLUTION", "Attention": "ATTENTION_INPUT", "Cast": "CAST"}


class Lacking:
    """An attribute that the real class does not have in this version."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.text = f"{owner.__name__!r} object has no attribute {name!r} in this version of TensorRT"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        raise AttributeError(self.text)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(self.text)


class Fake:
    """Base of all: like pybind11's objects, takes no attribute that its class does not have; classes derived from it may."""

    trt: FakeTensorRT

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and "trt" in vars(type(self)):
            getattr(type(self), name)  # raises where there is none
        object.__setattr__(self, name, value)


class ILogger(Fake):
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class ITensor(Fake):
    dtype: Any = None
    name: str = ""
    shape: tuple[int, ...] = ()

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...] = (), names: Sequence[str] = ()) -> None:
        self.name, self.dtype, self.shape, self._names = name, dtype, shape, names

    def get_dimension_name(self, index: int) -> str:
        return self._names[index]


class ILayer(Fake):
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


class IAttention(Fake):
    decomposable: bool = False


class IAttentionInputLayer(Fake):
    """What an ILayer is made by setting its class; it shares the layer's attributes."""

    type: Any = None

    @property
    def attention(self) -> IAttention:
        return self.__dict__.setdefault("_attention", self.trt.IAttention())


class INetworkDefinition(Fake):
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


class ParserError(Fake):
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


class OnnxParser(Fake):
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
            if trt.version < (10, 0) and (wish := _unlike_8(node)):
                self._errors.append(trt.ParserError(index, node.name, node.op_type, wish))
        for tensor in parsed.graph.initializer:
            location = {entry.key: entry.value for entry in tensor.external_data}.get("location")
            if location is not None and not (Path(folder) / location).is_file():
                self._errors.append(trt.ParserError(-1, "", "", f"cannot open {location}"))
            if tensor.data_type == onnx.TensorProto.BFLOAT16 and "BF16" not in trt.DataType.__members__:
                self._errors.append(trt.ParserError(-1, "", "", f"unsupported type of {tensor.name}"))
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


class IOptimizationProfile(Fake):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache(Fake):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> Any:
        return _bytes_like(self._data)


class IBuilderConfig(Fake):
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


class Builder(Fake):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        if self.trt.no_device:
            logger.log(self.trt.severity("WARNING"), "CUDA initialization failure with error: 35")
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
        fused = [
            getattr(layer, "_attention", None) for layer in network._layers if layer.type.name == "ATTENTION_INPUT"
        ]
        if any(attention is None or not attention.decomposable for attention in fused):
            self._logger.log(trt.severity("ERROR"), "Attention operation was not supported by a dedicated kernel")
            return None
        if config._timings is not None:
            config._timings._data = f"{trt.__version__} measured {len(trt.networks)}".encode()
        layers = [
            (layer.__dict__["name"], layer.type.name, "FLOAT" if trt.builds_float32 else layer._source.dtype.name)
            for layer in network._layers
        ]
        model = onnx.load_from_string(network._model)
        weights = sum(
            int(entry.value) for t in model.graph.initializer for entry in t.external_data if entry.key == "length"
        )
        strips = "STRIP_PLAN" in config._flags
        if strips and "REFIT_IDENTICAL" not in config._flags:
            self._logger.log(trt.severity("ERROR"), "a stripped plan is to be refitted with the same weights")
            return None
        if not strips:
            onnx.load_external_data_for_model(model, network._folder)  # an engine has its weights in it
        plan = {
            "version": trt.__version__,
            "model": base64.b64encode(model.SerializeToString()).decode(),
            "weights": weights,
            "shapes": shapes,
            "layers": layers if config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED else [],
            "streams": "WEIGHT_STREAMING" in config._flags,
            "stripped": strips,
        }
        return _bytes_like(json.dumps(plan).encode())


def _unlike_8(node: Any) -> str:
    """What TensorRT 8.6's parser, or its builder, is known to say against a node; "" for nothing."""
    if node.op_type == "LayerNormalization" and len(node.input) < 3:
        return "vector::_M_range_check"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "Int8 precision has been set for a layer or layer output, but int8 is not configured in the builder"
    return ""


def _bytes_like(data: bytes) -> Any:
    """IHostMemory has the buffer protocol, which Python classes have from 3.12 on only."""
    return memoryview(data)


def _value_types(model: Any) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return {name: kind for name, kind in types.items() if kind in TYPE_NAMES}
