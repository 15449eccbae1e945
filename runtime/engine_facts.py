"""Which engine, provider and precision made a clip, for its settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..engines import EngineReport


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
