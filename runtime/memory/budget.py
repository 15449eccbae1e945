"""How much memory a run may use: what the user says, or what is free less a margin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.errors import one_line
from ...core.machine import Machine, free_gpu_memory, free_host_memory, read_machine
from ...core.units import format_bytes, parse_bytes

LEAST_MARGIN = 256 * 2**20
LEAST_MARGIN_OF_GROUP = 32 * 2**20
MARGIN = 0.1
"""What is free is not all taken: others on the machine grow too, and a plan is an estimate."""
UNKNOWN = 2**62
"""The budget where the system does not tell what is free."""


@dataclass(frozen=True)
class Budget:
    """bytes: what may be used at most. source: where that comes from, in words."""

    bytes: int
    source: str


def budget_of(memory: int | str | None, device: str, root: Path = Path("/")) -> Budget:
    """Return how much memory of a device (`cpu` or `gpu`) a run may use.

    memory: bytes or text as parse_bytes takes it, None for what is free less a margin. On unified memory the GPU's is the
    machine's. Raises UsageError.
    """
    if memory is not None:
        count = parse_bytes(memory) if isinstance(memory, str) else memory
        there = _memory_there_is(read_machine(root)) if device == "cpu" else None
        more = there is not None and count > there
        return Budget(
            count, f"as asked for, of the {format_bytes(there or 0)} that there are" if more else "as asked for"
        )
    free = free_gpu_memory() if device == "gpu" else None
    of = "free on the GPU"
    least = LEAST_MARGIN
    if free is None:
        free = free_host_memory(root)
        of = "free"
        machine = read_machine(root)
        limit = machine.memory_limit
        # In a control group nothing grows but what is in it, whatever the rest of the machine does.
        if limit is not None and limit.left < (machine.free_memory or UNKNOWN):
            least, of = LEAST_MARGIN_OF_GROUP, f"left of what the control group {one_line(limit.group)} allows"
    if free is None:
        return Budget(UNKNOWN, "the system does not tell what is free")
    margin = max(least, int(free * MARGIN))
    return Budget(max(0, free - margin), f"{format_bytes(free)} {of}, less {format_bytes(margin)}")


def _memory_there_is(machine: Machine) -> int | None:
    """Return the bytes of memory that the machine has, or its container's limit; None where neither is told."""
    limit = None if machine.memory_limit is None else machine.memory_limit.limit
    return min((count for count in (machine.memory, limit) if count is not None), default=None)
