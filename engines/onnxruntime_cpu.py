"""ONNX Runtime on plain CPU cores."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingExtraError, brief
from ..interrupts import interrupts_wait
from .base import Engine, EngineOptions, EngineReport, GraphSpecs, Session, Tensor, TensorInfo

_LONGEST_QUOTE = 500
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
_MATRIX_OPERATORS = {
    "MatMul",
    "Gemm",
    "Conv",
    "FusedMatMul",
    "FusedConv",
    "FusedGemm",
    "Attention",
    "MultiHeadAttention",
}
# ONNX Runtime's CPU kernels have no half-precision matrix product: it converts around them and names the converters so.
_HALF_CONVERTER = "InsertedPrecisionFreeCast_"


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


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # where it exists, a process may have been given a part of the cores
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        onnxruntime = _import_onnxruntime()
        threads = options.threads or _usable_cores()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # Idle workers that spin between calls take cores away from the video encoder and everyone else.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
        try:
            session = onnxruntime.InferenceSession(str(graph_path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(
                f"cannot open {graph_path.name} with ONNX Runtime: {brief(error, _LONGEST_QUOTE)}"
            ) from error
        return OnnxRuntimeCpuSession(session, graph_path.name, threads, onnxruntime.__version__)

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Leave the number of threads out, which splits the work but not a sum; see Engine.numerics."""
        return {"engine": self.name, "version": _import_onnxruntime().__version__, "machine": platform.machine()}


class OnnxRuntimeCpuSession(Session):
    """A graph opened by OnnxRuntimeCpu."""

    def __init__(self, session: Any, graph_name: str, threads: int, version: str) -> None:
        self._session: Any | None = session
        self._graph_name = graph_name
        self.specs = GraphSpecs(
            inputs={item.name: _tensor_info(item) for item in session.get_inputs()},
            outputs={item.name: _tensor_info(item) for item in session.get_outputs()},
        )
        nodes, precision = _what_runs(session)
        self.report = EngineReport(
            "cpu", session.get_providers()[0], precision, f"onnxruntime {version}", threads, nodes
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


def _what_runs(session: Any) -> tuple[dict[str, int], str]:
    """Return the number of nodes by provider and the type matrix products calculate in, as the session assigned them."""
    try:
        assigned = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):  # older ONNX Runtime cannot tell
        return {}, "unknown"
    counts: Counter[str] = Counter()
    half = False
    for part in assigned:
        nodes = part.get_nodes()
        counts[part.ep_name] += len(nodes)
        half = half or any(node.name.startswith(_HALF_CONVERTER) for node in nodes)
    return dict(counts), "float32 (from float16 weights)" if half else "float32"
