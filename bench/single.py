"""A measurement of one bundle on one engine: what it makes, and the record around what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..core.errors import UsageError
from ..core.progress import Progress
from ..core.units import parse_bytes
from ..runtime.planning import plan_bundle
from ..runtime.request import OpenRequest
from .grid import Plan, plan_rows
from .records.record import Record
from .resources.machine import find_machine, find_versions
from .rows import Measured, row_of


def plan_one(
    bundle: Path | None,
    engine: str,
    prompts: Sequence[str],
    threads: int | None = None,
    memory: str | None = None,
    on_progress: Progress | None = None,
) -> Plan:
    """Return the plan of a bundle's default clips (None: the built-in bundle).

    Raises as `plan_rows` does, UsageError, and PlanError where they do not fit into memory.
    """
    if memory is not None:
        parse_bytes(memory)
    planned = plan_rows([bundle], [engine], None, [None], [None], prompts, threads, on_progress=on_progress)[0].job
    plan_bundle(planned.bundle.folder, memory=memory, engine=engine)
    request = OpenRequest(prompts[0]).complete(planned.bundle.manifest)
    name = f"{planned.bundle.manifest.name}, {request.steps} step{'s' * (request.steps != 1)}"
    return Plan(name, "edgereel", replace(planned, request=request, memory=memory))


def record_one(
    kind: Literal["soak", "mlperf"],
    row: Measured,
    prompts: Sequence[str],
    *,
    started: str,
    seconds: float,
    partial: bool,
    command: Sequence[str],
) -> Record:
    """Return the record of the only row, to which the caller adds what its kind is about."""
    return Record(
        kind=kind,
        partial=partial,
        started=started,
        seconds=seconds,
        command=list(command),
        machine=find_machine(),
        versions=find_versions(),
        rows=[row_of(row, prompts, None, own_limits=False)],
        notes=["Embeddings of prompts are not cached: every clip runs the text encoder."],
    )


def check_count(name: str, value: int, least: int, most: int) -> None:
    """Raise UsageError where a number is out of its range."""
    if not least <= value <= most:
        raise UsageError(f"{name} {value}: choose from {least} to {most}")
