"""OpenVINO on CPU cores, as an engine of ours, so that everything around the graphs is the same program.

It reads the bundle's canonical graphs. For measuring beside our engines: it is not one that edgereel offers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import EngineError, brief, require_packages
from ...core.machine import usable_cores
from .. import Engine, EngineOptions, EngineReport, GraphSpecs, Session, Shapes, Tensor, TensorInfo

EXTRA = "openvino"
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
_PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "uint8"}
_NUMPY = {"int64_t": "int64", "int32_t": "int32", "float": "float32"}


class OpenVino(Engine):
    """Opens graphs with OpenVINO's CPU plugin.

    precision: `float32` or `bfloat16`, which is what the plugin is asked for. cache: the folder that it keeps what it compiled
    in. fixed_shapes: it is told the shapes of all runs, which its kernels are chosen by.
    """

    name = "openvino"
    fixed_shapes = True

    def __init__(self, precision: str, cache: Path) -> None:
        self._precision = precision
        self._cache = cache

    def unavailable(self) -> str | None:
        """See Engine.unavailable."""
        try:
            require_packages(("openvino",), EXTRA, "comparing with OpenVINO")
        except Exception as error:
            return str(error)
        return None

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        require_packages(("openvino",), EXTRA, "comparing with OpenVINO")
        if options.weight_budget is not None:
            raise EngineError("OpenVINO holds all weights of a graph: there is not enough memory to compare with it")
        import openvino

        threads = options.threads or usable_cores()
        started = time.perf_counter()
        try:
            core = openvino.Core()
            core.set_property({"CACHE_DIR": str(self._cache)})
            settings = cpu_settings(PRECISIONS[self._precision], threads, options.activations == "dynamic")
            if options.shapes is None:
                compiled = core.compile_model(graph_path, "CPU", settings)
            else:
                model = core.read_model(graph_path)
                model.reshape(_shapes(options.shapes))
                compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # the library's own, and what its frontend raises
            raise EngineError(f"cannot open {graph_path.name} with OpenVINO: {brief(error)}") from error
        seconds = time.perf_counter() - started
        cached = bool(compiled.get_property("LOADED_FROM_CACHE"))
        report = EngineReport(
            "openvino",
            "CPU",
            _precision_of(compiled),
            f"openvino {openvino.__version__.split('-')[0]}",
            threads,
            build="cache" if cached else "built",
            build_seconds=0.0 if cached else seconds,
        )
        return OpenVinoSession(compiled, graph_path.name, report)


class OpenVinoSession(Session):
    """A graph opened by OpenVino."""

    def __init__(self, compiled: Any, graph_name: str, report: EngineReport) -> None:
        self._request: Any | None = compiled.create_infer_request()
        self._graph_name = graph_name
        self._outputs = {name: index for index, port in enumerate(compiled.outputs) for name in port.get_names()}
        self.specs = GraphSpecs(_specs(compiled.inputs), _specs(compiled.outputs))
        self.report = report

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run. Outputs are copies: the next run writes into the same memory."""
        if self._request is None:
            raise EngineError(f"{self._graph_name} is closed and cannot run")
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        if odd := feeds.keys() ^ self.specs.inputs.keys():
            raise EngineError(
                f"{self._graph_name} has inputs {', '.join(self.specs.inputs)}; {sorted(odd)[0]} is not right"
            )
        try:
            values = list(self._request.infer(feeds, share_inputs=True).values())
        except Exception as error:
            raise EngineError(f"running {self._graph_name} failed: {brief(error)}") from error
        return {name: Tensor(values[index]) for name, index in self._outputs.items()}

    def close(self) -> None:
        """Release the graph."""
        self._request = None


def cpu_settings(precision: str, threads: int, by_token: bool = False) -> dict[str, Any]:
    """Return the CPU plugin's settings. precision: as it names them. by_token: quantize activations with a scale for each token.

    The other cores are left alone: contenders take turns, and pinned threads of one would sit where another's are.
    """
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    # A group as long as the row: one scale for each token, as ours.
    return {**settings, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(2**64 - 1)} if by_token else settings


def _shapes(shapes: Shapes) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes}


def _specs(ports: Any) -> dict[str, TensorInfo]:
    specs = {}
    for port in ports:
        extents = [str(extent) if extent.is_dynamic else extent.get_length() for extent in port.get_partial_shape()]
        kind = port.get_element_type().to_string()
        specs.update({name: TensorInfo(_NUMPY.get(kind, kind), tuple(extents)) for name in port.get_names()})
    return specs


def _precision_of(compiled: Any) -> str:
    """Return the types that matrix products and convolutions calculate in, as the compiled graph tells them."""
    found = set()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        told = operation.get_rt_info()
        if "layerType" in told and told["layerType"].astype(str) in _PRODUCTS and "runtimePrecision" in told:
            found.add(told["runtimePrecision"].astype(str))
    return "/".join(sorted(_TYPES.get(kind, kind) for kind in found)) or "unknown"
