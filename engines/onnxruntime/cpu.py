"""ONNX Runtime on plain CPU cores."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import EdgereelError, EngineError, MissingExtraError
from ...core.machine import give_back_large_blocks, give_back_memory, usable_cores
from ..base import Engine, EngineReport, Session, Tensor
from ..graphs.read import read_graph, reading
from ..lowering.lower import LoweredGraph, lower_graph, not_lowered, open_lowered
from ..options import EngineOptions
from ..streaming import open_within
from .byte_products import activation_bits, byte_products_are_exact
from .common import (
    AssignedNode,
    Runs,
    assigned_nodes,
    check_inputs,
    count_by_provider,
    failure,
    graph_specs,
    import_onnxruntime,
    model_to_open,
    open_stoppable,
    session_settings,
)

if TYPE_CHECKING:
    from ..graphs.segments import Segment

# ONNX Runtime's CPU kernels have no half-precision matrix product: it converts around them and names the converters so.
_HALF_CONVERTER = "InsertedPrecisionFreeCast_"
_WEIGHTS = ("int8", "uint8", "int4", "uint4", "float8")
_LINEAR_PRECISIONS = {
    "int8 linear, dynamic": "int8 (dynamic)",
    "int8 linear, dynamic, 7 bits": "int8 (dynamic, activations of 7 bits)",
    "int8 linear, static": "int8 (static)",
    **{f"{weights} weights, float activations": f"float32 ({weights} weights)" for weights in _WEIGHTS},
    **{f"{weights} weights, dynamic activations": f"int8 (dynamic, {weights} weights)" for weights in _WEIGHTS},
}


class OnnxRuntimeCpu(Engine):
    """Opens graphs with ONNX Runtime's CPU provider."""

    name = "cpu"

    def unavailable(self) -> str | None:
        """See Engine.unavailable: onnxruntime is all that is needed."""
        try:
            _onnxruntime()
        except (EngineError, MissingExtraError) as error:
            return str(error)
        return None

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        if options.compute not in (None, "float32"):
            raise EngineError(f"the cpu engine calculates in float32, not in {options.compute}")
        version = _onnxruntime().__version__
        return open_lowered(
            graph_path,
            lambda anew: _lower(graph_path, options, version, anew),
            lambda lowered: self._open(graph_path, options, lowered),
        )

    def _open(self, graph_path: Path, options: EngineOptions, lowered: LoweredGraph) -> Session:
        onnxruntime = _onnxruntime()
        threads = options.threads or usable_cores()
        # ONNX Runtime fuses weights-only linears by itself, and quantizes activations (4) unless told to keep float32 (1).
        entries = {"session.qdq_matmulnbits_accuracy_level": "4" if options.activations == "dynamic" else "1"}
        if any(name.startswith("int8 linear") for name in lowered.rewrites):
            # Activations of seven bits are exact in the fast kernels; only static ones have eight in any case.
            largest = 255 if {"int8 linear, static", "int8 linear, dynamic"} & set(lowered.rewrites) else 127
            exact = byte_products_are_exact(onnxruntime, onnxruntime.SessionOptions(), largest)
            entries["session.x64quantprecision"] = "0" if exact else "1"
        if any(name.startswith("float8") for name in lowered.rewrites):
            # It would fuse them as if they were bytes. Unfused, what was rounded to float8 is multiplied in float32.
            entries["session.disable_quant_qdq"] = "1"
        settings = session_settings(onnxruntime, graph_path, threads, entries)
        # By default the decoder's next state is cut out at the very end, so that everything it is made of stays till then.
        settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED

        def open_model(model: str | bytes) -> Session:
            with reading(graph_path.name):
                try:
                    session = open_stoppable(
                        settings,
                        lambda: onnxruntime.InferenceSession(
                            model, settings, providers=["CPUExecutionProvider"], enable_fallback=0
                        ),
                    )
                except EdgereelError:
                    raise
                except Exception as error:
                    raise failure(f"cannot open {graph_path.name} with ONNX Runtime", error) from error
                return OnnxRuntimeCpuSession(onnxruntime, session, graph_path.name, threads, lowered)

        def open_segment(segment: Segment) -> Session:
            settings.enable_cpu_mem_arena = False  # one for each open segment would keep the memory of its largest run
            give_back_large_blocks()  # without an arena every value is one, and passing them on took twice their memory
            return open_model(segment.model)

        if options.weight_budget is None:
            return open_model(model_to_open(graph_path, lowered.model))
        model = read_graph(graph_path) if lowered.model is None else lowered.model
        return open_within(
            options.weight_budget, graph_path.name, model, lambda: open_model(model), open_segment, _held_size
        )

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        """Return the lowered graph; see Engine.graph_to_run."""
        lowered = _lower(graph_path, options, _onnxruntime().__version__)
        return graph_path if lowered.model is None else lowered.model

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Leave the number of threads out, which splits the work but not a sum; see Engine.numerics."""
        of_options = {"activations": options.activations, "lower": str(options.lower)}
        version = _onnxruntime().__version__
        if options.activations == "dynamic" and (bits := activation_bits(_onnxruntime())) != 8:
            of_options["activation_bits"] = str(bits)
        return {"engine": self.name, "version": version, "machine": platform.machine(), **of_options}


def _held_size(element_type: str, count: int) -> int:
    """Return the bytes of a weight as the CPU provider holds it: half precision is widened as the graph is opened."""
    from ..graphs.segments import stored_size

    return stored_size("float32" if element_type == "float16" else element_type, count)


def _onnxruntime() -> Any:
    return import_onnxruntime("onnxruntime", "cpu", "cpu")


def _lower(graph_path: Path, options: EngineOptions, version: str, anew: bool = False) -> LoweredGraph:
    if not options.lower:
        return not_lowered(graph_path, options.part)
    bits = activation_bits(_onnxruntime()) if options.activations == "dynamic" else 8
    return lower_graph(
        graph_path, options.activations, version, keep=options.keep, part=options.part, anew=anew, bits=bits
    )


class OnnxRuntimeCpuSession(Session):
    """A graph opened by OnnxRuntimeCpu."""

    def __init__(self, onnxruntime: Any, session: Any, graph_name: str, threads: int, lowered: LoweredGraph) -> None:
        self._session: Any | None = session
        self._graph_name = graph_name
        self._runs = Runs(onnxruntime, graph_name)
        self.specs = graph_specs(session)
        assigned = assigned_nodes(session)
        self.report = EngineReport(
            "cpu",
            session.get_providers()[0],
            "unknown" if assigned is None else _precision(assigned, lowered.rewrites),
            f"onnxruntime {onnxruntime.__version__}",
            threads,
            count_by_provider(assigned or []),
            lowered.source,
            lowered.rewrites,
        )

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run."""
        session = self._session
        if session is None:
            raise EngineError(f"{self._graph_name} is closed and cannot run")
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        check_inputs(self._graph_name, self.specs, {name: str(array.dtype) for name, array in feeds.items()})
        values = self._runs.run(lambda options: session.run(list(self.specs.outputs), feeds, options))
        return {name: Tensor(value) for name, value in zip(self.specs.outputs, values, strict=True)}

    def stop(self) -> None:
        """See Session.stop."""
        self._runs.stop()

    def close(self) -> None:
        """Release the graph."""
        self._session = None
        give_back_memory()


def _precision(nodes: list[AssignedNode], rewrites: dict[str, int]) -> str:
    """Return the type that matrix products calculate in, as the session assigned them."""
    if any(node.op_type in ("MatMulIntegerToFloat", "DequantizeLinear") for node in nodes):
        return _quantized_precision(rewrites)
    half = any(node.name.startswith(_HALF_CONVERTER) for node in nodes)
    return "float32 (from float16 weights)" if half else "float32"


def _quantized_precision(rewrites: dict[str, int]) -> str:
    """Return what the linears of a quantized graph calculate in, from what lowering saw of them."""
    kinds = [_LINEAR_PRECISIONS[name] for name in _LINEAR_PRECISIONS if name in rewrites]
    return " and ".join(kinds) or "quantized, as ONNX Runtime fuses it"
