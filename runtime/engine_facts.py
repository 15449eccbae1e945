"""Which engine, provider and precision made a clip, for its settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..bundle.manifest import Manifest
from ..engines import Engine, EngineReport
from ..engines.quantized import Weights, first_card, quantized_fit


def engine_facts(reports: Mapping[str, EngineReport], ran_before: Collection[tuple[str, str]]) -> dict[str, Any]:
    """Return in one record what ran, for a video's settings; empty where nothing did.

    reports: of the graphs that were opened. ran_before: (provider, precision) of the text encoders that made the prompts'
    embeddings at another time: the record is the same whether a prompt was cached or not.
    """
    if not reports:
        return {}
    opened = list(reports.values())
    first = opened[0]
    ran = {(report.provider, report.precision) for report in opened} | set(ran_before)
    not_lowered = [report.lowered for report in opened if report.lowered not in ("cache", "built", "off")]
    return {
        **({"not_lowered": not_lowered[0]} if not_lowered else {}),
        "engine": first.engine,
        "version": first.version,
        "threads": first.threads,
        "provider": sorted({provider for provider, _ in ran}),
        "precision": sorted({precision for _, precision in ran}),
    }


def quantized_words(manifest: Manifest, engine: Engine) -> str:
    """Return in words what an engine on a GPU does with the quantized linears of a bundle's denoisers, "" where none are."""
    if engine.device == "cpu":
        return ""
    graphs = manifest.roles.graphs()
    said: dict[str, None] = {}
    for name in manifest.roles.denoiser_names():
        quantization = graphs[name].quantization
        kinds: tuple[Weights, ...] = ("int8", "int4", "fp8")
        for kind in kinds:
            if quantization is not None and quantization.linears.get(kind):
                said[quantized_fit(engine.name, kind, quantization.activations, first_card()).why] = None
    return "; ".join(said)
