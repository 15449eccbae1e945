"""ONNX Runtime on plain CPU cores."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, MissingExtraError, brief
from ..interrupts import interrupts_wait
from ..machine import usable_cores
from .base import Engine, EngineOptions, EngineReport, GraphSpecs, Session, Tensor, TensorInfo
from .byte_products import byte_products_are_exact
from .lowering import LoweredGraph, lower_graph
from .streaming import open_within

if TYPE_CHECKING:
    from .lowering.segments import Segment

_LONGEST_QUOTE = 500
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
# ONNX Runtime's CPU kernels have no half-precision matrix product: it converts around them and names the converters so.
_HALF_CONVERTER = "InsertedPrecisionFreeCast_"
_WEIGHTS = ("int8", "uint8", "int4", "uint4")
_LINEAR_PRECISIONS = {
    "int8 linear, dynamic": "int8 (dynamic)",
    "int8 linear, static": "int8 (static)",
    **{f"{weights} weights, float activations": f"float32 ({weights} weights)" for weights in _WEIGHTS},
    **{f"{weights} weights, dynamic activations": f"int8 (dynamic, {weights} weights)" for weights in _WEIGHTS},
}


def _import_onnxruntime() -> Any:
    try:
        with interrupts_wait():
            import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise EngineError(f"onnxruntime is installed but lacks a module it needs: {error}") from error
        raise MissingExtraError("onnxruntime", "cpu", "the cpu engine") from error
    except ImportError as error:
        raise EngineError(f"onnxruntime is installed but cannot be loaded: {brief(error, _LONGEST_QUOTE)}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left of the folder where one of two onnxruntimes was uninstalled still imports, as an empty package.
        raise EngineError("onnxruntime is installed but most of it is missing: edgereel doctor says how to repair it")
    return onnxruntime


class OnnxRuntimeCpu(Engine):
    """Opens graphs with ONNX Runtime's CPU provider."""

    name = "cpu"

    def unavailable(self) -> str | None:
        """See Engine.unavailable: onnxruntime is all that is needed."""
        try:
            _import_onnxruntime()
        except (EngineError, MissingExtraError) as error:
            return str(error)
        return None

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        if options.compute not in (None, "float32"):
            raise EngineError(f"the cpu engine calculates in float32, not in {options.compute}")
        onnxruntime = _import_onnxruntime()
        lowered = _lower(graph_path, options, onnxruntime.__version__)
        threads = options.threads or usable_cores()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        for entry, value in _session_entries(graph_path, options, threads).items():
            settings.add_session_config_entry(entry, value)
        if any(name.startswith("int8 linear") for name in lowered.rewrites):
            exact = byte_products_are_exact(onnxruntime, onnxruntime.SessionOptions())
            settings.add_session_config_entry("session.x64quantprecision", "0" if exact else "1")

        def open_model(model: str | bytes) -> Session:
            try:
                session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise EngineError(
                    f"cannot open {graph_path.name} with ONNX Runtime: {brief(error, _LONGEST_QUOTE)}"
                ) from error
            return OnnxRuntimeCpuSession(session, graph_path.name, threads, onnxruntime.__version__, lowered)

        def open_segment(segment: Segment) -> Session:
            settings.enable_cpu_mem_arena = False  # one for each open segment would keep the memory of its largest run
            return open_model(segment.model)

        if options.weight_budget is None:
            return open_model(str(graph_path) if lowered.model is None else lowered.model)
        model = graph_path.read_bytes() if lowered.model is None else lowered.model
        return open_within(
            options.weight_budget, graph_path.name, model, lambda: open_model(model), open_segment, _held_size
        )

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Leave the number of threads out, which splits the work but not a sum; see Engine.numerics."""
        of_options = {"activations": options.activations, "lower": str(options.lower)}
        version = _import_onnxruntime().__version__
        return {"engine": self.name, "version": version, "machine": platform.machine(), **of_options}


def _held_size(element_type: str, count: int) -> int:
    """Return the bytes of a weight as the CPU provider holds it: half precision is widened as the graph is opened."""
    from .lowering.segments import stored_size

    return stored_size("float32" if element_type == "float16" else element_type, count)


def _lower(graph_path: Path, options: EngineOptions, version: str) -> LoweredGraph:
    if not options.lower:
        return LoweredGraph(None, "off")
    try:
        return lower_graph(graph_path, options.activations, version, keep=options.keep)
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot open {graph_path.name}: {brief(error, _LONGEST_QUOTE)}") from error


def _session_entries(graph_path: Path, options: EngineOptions, threads: int) -> dict[str, str]:
    return {
        "session.record_ep_graph_assignment_info": "1",
        "session.intra_op.allow_spinning": "0" if threads == 1 else "1",
        # Idle workers that spin between calls take cores away from the video encoder and everyone else.
        "session.force_spinning_stop": "1",
        # A lowered graph is opened from memory; its weights are where the canonical one has them.
        "session.model_external_initializers_file_folder_path": str(graph_path.resolve().parent),
        # ONNX Runtime fuses weights-only linears by itself, and quantizes activations (4) unless told to keep float32 (1).
        "session.qdq_matmulnbits_accuracy_level": "4" if options.activations == "dynamic" else "1",
    }


class OnnxRuntimeCpuSession(Session):
    """A graph opened by OnnxRuntimeCpu."""

    def __init__(self, session: Any, graph_name: str, threads: int, version: str, lowered: LoweredGraph) -> None:
        self._session: Any | None = session
        self._graph_name = graph_name
        self.specs = GraphSpecs(
            inputs={item.name: _tensor_info(item) for item in session.get_inputs()},
            outputs={item.name: _tensor_info(item) for item in session.get_outputs()},
        )
        nodes, precision = _what_runs(session, lowered.rewrites)
        self.report = EngineReport(
            "cpu",
            session.get_providers()[0],
            precision,
            f"onnxruntime {version}",
            threads,
            nodes,
            lowered.source,
            lowered.rewrites,
        )

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run."""
        if self._session is None:
            raise EngineError(f"{self._graph_name} is closed and cannot run")
        if set(inputs) != set(self.specs.inputs):
            missing = sorted(set(self.specs.inputs) - set(inputs))
            unknown = sorted(set(inputs) - set(self.specs.inputs))
            raise EngineError(f"{self._graph_name}: missing inputs {missing}, unknown inputs {unknown}")
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        for name, array in feeds.items():
            expected = self.specs.inputs[name].dtype
            if str(array.dtype) != expected:
                raise EngineError(f"{self._graph_name}: input {name} is {array.dtype}, the graph takes {expected}")
        try:
            values = self._session.run(list(self.specs.outputs), feeds)
        except Exception as error:
            raise EngineError(f"running {self._graph_name} failed: {brief(error, _LONGEST_QUOTE)}") from error
        return {name: Tensor(value) for name, value in zip(self.specs.outputs, values, strict=True)}

    def close(self) -> None:
        """Release the graph."""
        self._session = None


def _tensor_info(item: Any) -> TensorInfo:
    return TensorInfo(_DTYPES.get(item.type, item.type), tuple(item.shape))


def _what_runs(session: Any, rewrites: dict[str, int]) -> tuple[dict[str, int], str]:
    """Return the number of nodes by provider and the type matrix products calculate in, as the session assigned them."""
    try:
        assigned = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):  # older ONNX Runtime cannot tell
        return {}, "unknown"
    counts: Counter[str] = Counter()
    operators: set[str] = set()
    half = False
    for part in assigned:
        nodes = part.get_nodes()
        counts[part.ep_name] += len(nodes)
        operators.update(node.op_type for node in nodes)
        half = half or any(node.name.startswith(_HALF_CONVERTER) for node in nodes)
    if "MatMulIntegerToFloat" in operators or "DequantizeLinear" in operators:
        return dict(counts), _quantized_precision(rewrites)
    return dict(counts), "float32 (from float16 weights)" if half else "float32"


def _quantized_precision(rewrites: dict[str, int]) -> str:
    """Return what the linears of a quantized graph calculate in, from what lowering saw of them."""
    kinds = [_LINEAR_PRECISIONS[name] for name in _LINEAR_PRECISIONS if name in rewrites]
    return " and ".join(kinds) or "quantized, as ONNX Runtime fuses it"
