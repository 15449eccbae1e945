"""What a graph costs, as figures, and as JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

_MOST = 2**62
"""No count of ours is larger: what says so was not written by us."""


@dataclass(frozen=True)
class OperatorCosts:
    """All nodes of one operator: how many run each time, their FLOPs, the bytes they read and write."""

    count: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class GraphCosts:
    """What one run of a graph costs.

    weight_bytes: all weights as the session holds them. largest_weights: bytes of the largest single ones, largest first,
    32 at most. activation_bytes: greatest sum of values alive at once, inputs and outputs included, weights not.
    input_bytes, output_bytes: of all inputs, of all outputs. flops: 2 for each multiply-add of matrix products,
    convolutions and attention (both of its products); elementwise operators are not counted. bytes_moved: what each node
    reads and writes, weights included; a node that only gives memory another shape moves nothing. by_operator: the same
    by operator, nodes that are computed once at opening left out.
    """

    weight_bytes: int
    largest_weights: tuple[int, ...]
    activation_bytes: int
    input_bytes: int
    output_bytes: int
    flops: int
    bytes_moved: int
    by_operator: dict[str, OperatorCosts]


def to_json(costs: GraphCosts) -> bytes:
    """Return the figures as JSON."""
    return json.dumps(asdict(costs)).encode()


def from_json(content: bytes) -> GraphCosts:
    """Return the figures that `to_json` wrote. Raises ValueError for anything else."""
    facts: Any = json.loads(content)
    if not isinstance(facts, dict) or set(facts) != set(GraphCosts.__dataclass_fields__):
        raise ValueError("not what a graph costs")
    largest, operators = facts.pop("largest_weights"), facts.pop("by_operator")
    if not isinstance(largest, list) or not isinstance(operators, dict):
        raise ValueError("not what a graph costs")
    by_operator = {}
    for name, figures in operators.items():
        if not isinstance(figures, dict) or set(figures) != set(OperatorCosts.__dataclass_fields__):
            raise ValueError("not what an operator costs")
        by_operator[name] = OperatorCosts(**{key: _count(value) for key, value in figures.items()})
    counts = {key: _count(value) for key, value in facts.items()}
    return GraphCosts(**counts, largest_weights=tuple(map(_count, largest)), by_operator=by_operator)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError("not a count")
    return value
