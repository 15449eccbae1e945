"""The most memory that values take at once while the nodes of a graph run one after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What one node does to memory; values are named, weights are not among them.

    shares: the first value written is the memory of the first one read, seen in another shape. in_place: the first value
    written may take the place of one read here for the last time, where both have the same size. workspace: bytes that
    the node holds only while it runs.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    shares: bool = False
    in_place: bool = False
    workspace: int = 0


def peak_bytes(
    steps: Sequence[Step], sizes: Mapping[str, int], inputs: Collection[str], outputs: Collection[str]
) -> int:
    """Return the greatest sum of bytes alive at once; sizes: bytes by value.

    Inputs are the caller's, who holds them until the run ends; outputs live from their making to the end; any other value
    from its making to its last use.
    """
    owner = _owners(steps, inputs)
    last = {owner[name]: at for at, step in enumerate(steps) for name in (*step.writes, *step.reads)}
    held = {owner[name] for name in (*inputs, *outputs)}
    alive = peak = sum(sizes[name] for name in inputs)
    for at, step in enumerate(steps):
        made = [name for name in step.writes if owner[name] == name]
        ended = {owner[name] for name in step.reads if last[owner[name]] == at} - held
        if step.in_place and made:
            place = next((name for name in sorted(ended) if sizes[name] == sizes[made[0]]), None)
            if place is not None:
                ended.remove(place)
                alive -= sizes[place]
        alive += sum(sizes[name] for name in made)
        peak = max(peak, alive + step.workspace)
        unread = {name for name in made if last[name] == at} - held
        alive -= sum(sizes[name] for name in ended | unread)
    return peak


def _owners(steps: Sequence[Step], inputs: Collection[str]) -> dict[str, str]:
    """Return the value whose memory each value lies in."""
    owner = {name: name for name in inputs}
    for step in steps:
        owner.update((name, name) for name in step.writes)
        if step.shares and step.reads and step.writes:
            owner[step.writes[0]] = owner[step.reads[0]]
    return owner
