"""From a lowered graph to a TensorRT engine: parse, choose profiles and flags, build, and look at what was built.

Written from NVIDIA's documentation and checked name by name against its Python bindings of 8.6, 10.3, 10.15 and 11.0. The
parser and builder of TensorRT-RTX 1.7, which has the API of 11 and builds without a GPU, take the demo's graphs this way
(tests/engines/tensorrt/test_tensorrt_rtx_builder.py); TensorRT's own has not run, since it needs a GPU to begin.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, OutOfMemory, brief, one_line
from ..lowering.summary import weight_places
from ..options import Compute, Shapes
from .inspecting import check_precision, describe_attention, describe_precision, product_types
from .profiles import Range, fixed_profiles, ranged_profiles
from .versions import Features

_MOST_ERRORS = 5
_LONGEST_QUOTE = 500
_SERIOUS = ("INTERNAL_ERROR", "ERROR")
_OUT_OF_MEMORY = "outofmemory"
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "FP8": "float8", "INT4": "int4"}
# By name: a type of layer that a version lacks must not be asked for.
_PRODUCT_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED", "EINSUM", "ATTENTION_INPUT")
# Layers whose values are read as they are: telling them a precision is an error or means nothing.
_NOT_CONSTRAINED = ("CONSTANT", "SHAPE", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "ASSERTION")


@dataclass(frozen=True)
class BuildSettings:
    """What a builder is told beside the graph.

    compute: what products calculate in. shapes: of all inputs, None where they vary within `ranges`. stream_weights: the
    engine can leave weights in host memory. workspace: bytes that one layer may use for itself, None for TensorRT's default.
    strip: leave the weights out of the plan; `refit_engine` puts them in. card: the compute capability to compile for,
    which TensorRT-RTX takes without such a card; None for the card that is there.
    """

    compute: Compute
    shapes: Shapes | None
    ranges: Mapping[str, Range]
    stream_weights: bool
    workspace: int | None
    strip: bool = False
    card: tuple[int, int] | None = None


def make_log(trt: Any) -> Any:
    """Return a logger for TensorRT that keeps what it says of errors, and its last warning; see `explain`."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the base is known when tensorrt is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.warning = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in _SERIOUS:
                self.messages.append(one_line(msg))
            elif severity.name == "WARNING":
                self.warning = one_line(msg)

    return Log()


def explain(log: Any, what: str) -> EngineError:
    """Return an error for what TensorRT could not do, OutOfMemory where it says so, with its own last words.

    Its last warning is quoted where it says nothing else: 8.6 tells so why CUDA does not start.
    """
    silence = f"TensorRT does not say why{log.warning and '; its last warning was: '}{log.warning}"
    said = brief(Exception("; ".join(log.messages[-2:]) or silence), _LONGEST_QUOTE)
    out_of_memory = any(_OUT_OF_MEMORY in message.lower().replace(" ", "") for message in log.messages)
    log.messages.clear()
    log.warning = ""
    if out_of_memory:
        return OutOfMemory(f"{what}: {said}; close other programs that use the GPU, or make the video smaller")
    return EngineError(f"{what}: {said}")


def make_plan(
    trt: Any,
    log: Any,
    features: Features,
    model: bytes,
    graph_path: Path,
    settings: BuildSettings,
    timings: bytes | None,
) -> tuple[Any, bytes, Counter[str]]:
    """Build an engine; return its plan (an object that has the bytes), the timing cache as it is then, and the types of the
    graph's products, which `check_built` compares with the opened engine's.

    model: the lowered graph; weights it names are looked for beside graph_path. timings: an earlier timing cache or b"", None
    for a compiler that has none.
    Raises EngineError where the parser or the builder refuses the graph, OutOfMemory for want of memory.
    """
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # the bindings' way of passing on that there is none
        raise explain(log, "TensorRT cannot start on this GPU") from error
    flag = features.network_flag
    network = builder.create_network(1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag)) if flag else 0)
    held = _parse(trt, log, features, network, model, graph_path)
    wanted = product_inputs(network)
    _allow_attention_in_parts(trt, network)
    if not features.strongly_typed:
        _constrain_precisions(trt, network)
    config = builder.create_builder_config()
    _configure(trt, features, config, settings)
    _add_profile(builder, config, network, settings)
    if timings is not None:
        _set_timings(config, timings)
    log.messages.clear()
    plan = builder.build_serialized_network(network, config)
    del held
    if plan is None:
        raise explain(log, f"TensorRT cannot build an engine of {graph_path.name}")
    return plan, b"" if timings is None else bytes(config.get_timing_cache().serialize()), wanted


def open_engine(trt: Any, log: Any, plan: Any, graph_name: str) -> Any:
    """Return the engine of a plan (anything that has its bytes). Raises EngineError, OutOfMemory for want of memory."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise explain(log, f"TensorRT cannot open the engine of {graph_name}")
    return engine


class RefitError(EngineError):
    """The weights of a plan that has none could not be put in."""


def refit_engine(trt: Any, log: Any, engine: Any, model: bytes, graph_path: Path) -> None:
    """Fill an engine that was built without weights from the lowered graph that it was built of. Raises RefitError, OutOfMemory.

    model, graph_path: as for `make_plan`.
    """
    log.messages.clear()
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if parser.refit_from_bytes(model, str(graph_path.resolve())) and refitter.refit_cuda_engine():
        return
    problem = explain(log, f"TensorRT cannot put the weights into the engine of {graph_path.name}")
    raise problem if isinstance(problem, OutOfMemory) else RefitError(str(problem))


def check_built(trt: Any, engine: Any, wanted: Counter[str], settings: BuildSettings) -> None:
    """Raise EngineError where an engine does not calculate in what was asked for; see `check_precision`."""
    check_precision(read_product_types(trt, engine), wanted, settings.compute)


def read_product_types(trt: Any, engine: Any) -> Counter[str]:
    """Return what an engine's products calculate in, nothing where its inspector does not tell; see `product_types`."""
    try:
        return product_types(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    except ValueError:
        return Counter()


def precision_of(trt: Any, engine: Any) -> str:
    """Return in words what an engine's products calculate in, and its attention where that is less than one would think."""
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    words = describe_precision(read_product_types(trt, engine)), describe_attention(information)
    return ", ".join(filter(None, words))


def product_inputs(network: Any) -> Counter[str]:
    """Return how many layers of a network multiply matrices or convolve, by the type of their first input."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return Counter(
        _TYPES.get(layer.get_input(0).dtype.name, "unknown") for layer in layers if layer.type.name in _PRODUCT_LAYERS
    )


def _parse(
    trt: Any, log: Any, features: Features, network: Any, model: bytes, graph_path: Path
) -> list[NDArray[np.uint8]]:
    """Fill a network from a model; return what its weights lie in, which must stay until it is built."""
    parser = trt.OnnxParser(network, log)
    held: list[NDArray[np.uint8]] = []
    if _opens_paths(graph_path) or not hasattr(parser, "load_model_proto"):
        # The path is where the parser looks for external weights; it does not read the file itself.
        parsed = parser.parse(model, str(graph_path.resolve()))
    else:
        parsed = parser.load_model_proto(model) and _load_weights(parser, model, graph_path, held)
        parsed = parsed and parser.parse_model_proto()
    if parsed:
        return held
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [_told(error, features) for error in errors[:_MOST_ERRORS]] or ["TensorRT does not say why"]
    more = f"; and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
    log.messages.clear()
    raise EngineError(f"TensorRT cannot read {graph_path.name}: {'; '.join(told)}{more}")


def _opens_paths(graph_path: Path) -> bool:
    """Return whether the parser can open files beside a path: on Windows it does so by names of one byte a letter."""
    return os.name != "nt" or str(graph_path.resolve()).isascii()


def _load_weights(parser: Any, model: bytes, graph_path: Path, held: list[NDArray[np.uint8]]) -> bool:
    """Hand the weights in a model's data files to the parser, mapped into memory; return whether it takes them all."""
    files: dict[str, NDArray[np.uint8]] = {}
    for name, location, start, length in weight_places(model):
        if location not in files:
            files[location] = np.memmap(graph_path.resolve().parent / location, np.uint8, "r")
            held.append(files[location])
        content = files[location][start:]
        if not parser.load_initializer(name, content.ctypes.data, content.nbytes if length is None else length):
            return False
    return True


def _told(error: Any, features: Features) -> str:
    node = f"node {error.node()}"
    if features.node_names:
        node = f"{error.node_operator() or 'node'} {one_line(error.node_name() or error.node())}"
    return f"{node}: {brief(Exception(one_line(error.desc())))}"


def _configure(trt: Any, features: Features, config: Any, settings: BuildSettings) -> None:
    for name in features.build_flags[settings.compute]:
        config.set_flag(getattr(trt.BuilderFlag, name))
    # Layer names alone, the default, would leave the report with nothing to read.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorFloat-32 has ten bits of mantissa, float16's: on by default, and not what stays in float32 is kept there for.
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.stream_weights:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    if settings.strip:
        # Identical: the weights that come back are those of now, so that fusion loses nothing by it.
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if settings.card is not None:
        _set_card(trt, config, settings.card)


def _set_card(trt: Any, config: Any, card: tuple[int, int]) -> None:
    """Have the compiler build for a card that need not be there. Raises EngineError where it does not know it."""
    name = f"SM{card[0]}{card[1]}"
    known = getattr(trt.ComputeCapability, name, None)
    if known is None:
        cards = [each[2:] for each in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", each)]
        told = ", ".join(f"{each[:-1]}.{each[-1]}" for each in sorted(cards, key=int))
        raise EngineError(f"the compiler does not know compute capability {card[0]}.{card[1]}: choose from {told}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known, 0)


def _allow_attention_in_parts(trt: Any, network: Any) -> None:
    """Let attention be built of several kernels where no fused one fits, which is so in float32.

    The parser makes one attention of the ONNX operator from 10.14 on, and a builder that may not take it apart refuses it.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_INPUT":
            # Layers come back as their base class; this is how NVIDIA's own samples get at the rest of them.
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _constrain_precisions(trt: Any, network: Any) -> None:
    """Tell every layer to keep the floating type that the graph gives it, which strongly typed networks do unasked."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name in _NOT_CONSTRAINED or not layer.num_outputs:
            continue
        dtype = layer.get_output(0).dtype
        if dtype in (trt.DataType.FLOAT, trt.DataType.HALF):
            layer.precision = dtype
            layer.set_output_type(0, dtype)


def _add_profile(builder: Any, config: Any, network: Any, settings: BuildSettings) -> None:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    inputs = {tensor.name: tuple(tensor.shape) for tensor in tensors}
    if settings.shapes is not None:
        profiles = fixed_profiles(inputs, settings.shapes)
    else:
        names = {tensor.name: _dimension_names(tensor) for tensor in tensors}
        profiles = ranged_profiles(inputs, names, settings.ranges)
    if not profiles:
        return
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in profiles.items():
        profile.set_shape(name, smallest, usual, largest)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses the range of shapes {profiles}")


def _dimension_names(tensor: Any) -> list[str]:
    return [tensor.get_dimension_name(axis) or "" for axis in range(len(tuple(tensor.shape)))]


def _set_timings(config: Any, timings: bytes) -> None:
    # One of another card or version is refused, and an empty one begun.
    if not config.set_timing_cache(config.create_timing_cache(timings), False) and timings:
        config.set_timing_cache(config.create_timing_cache(b""), False)
