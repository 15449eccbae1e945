"""What the two engines of ONNX Runtime on an NVIDIA GPU share: lowering, what is reported, what decides the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.machine import usable_cores
from ..base import EngineReport
from ..lowering.lower import LoweredGraph, lower_for_target, not_lowered
from ..lowering.targets import parse_target
from ..nvidia import nvidia_gpus
from ..options import Compute, EngineOptions
from .common import AssignedNode, assigned_nodes, count_by_provider
from .placement import check_placement

DEFAULT_COMPUTE: Compute = "float16"
"""What both calculate in where it is not chosen; lowering keeps what needs more in float32."""


def lower_for(
    target: str, graph_path: Path, options: EngineOptions, compute: Compute, anew: bool = False
) -> LoweredGraph:
    """Return a graph lowered for a target; see engines.lowering.lower. Raises EngineError where the graph cannot be read."""
    if not options.lower:
        return not_lowered(graph_path, options.part)
    wanted = parse_target(target)
    alone = all(shape[:1] in ((), (1,)) for name, shape in options.shapes or (("", (2,)),))
    return lower_for_target(
        graph_path,
        replace(wanted, folds_modulation=alone and wanted.fused_attention),
        compute,
        keep=options.keep,
        part=options.part,
        pictures=options.pictures,
        anew=anew,
    )


def gpu_report(
    engine: str, provider: str, onnxruntime: Any, session: Any, graph_name: str, lowered: LoweredGraph, compute: Compute
) -> EngineReport:
    """Return what runs of an opened session. Raises EngineError where nodes that calculate run on another provider."""
    nodes = assigned_nodes(session)
    check_placement(graph_name, nodes or [], provider)
    return EngineReport(
        engine,
        provider,
        precision_of(nodes or [], compute if lowered.source != "off" else "float32"),
        f"onnxruntime {onnxruntime.__version__}",
        usable_cores(),
        count_by_provider(nodes or []),
        lowered.source,
        lowered.rewrites,
    )


def precision_of(nodes: list[AssignedNode], compute: Compute) -> str:
    """Return what matrix products calculate in: the type that the graph was lowered to, and where weights have fewer bits."""
    if any(node.op_type in ("DequantizeLinear", "MatMulNBits") for node in nodes):
        return f"{compute} (quantized weights)"
    return compute


def gpu_numerics(engine: str, version: str, options: EngineOptions) -> dict[str, str]:
    """Return what decides the numbers of an engine on an NVIDIA GPU; see Engine.numerics."""
    gpus, _ = nvidia_gpus()
    return {
        "engine": engine,
        "version": version,
        "gpu": ", ".join(gpu.name for gpu in gpus),
        "compute": options.compute or DEFAULT_COMPUTE,
        "activations": options.activations,
        "lower": str(options.lower),
    }
