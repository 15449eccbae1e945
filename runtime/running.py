"""Running a graph for the one output that is wanted of it."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import EngineError
from ..engines import Session, Tensor


def run_graph(session: Session, name: str, inputs: Mapping[str, Tensor], output: str) -> Tensor:
    """Return one output of an opened graph. Raises EngineError where the graph has no such output or running fails."""
    outputs = session.run(inputs)
    if output not in outputs:
        raise EngineError(f"the graph {name} has no output {output}: the bundle is at fault")
    return outputs[output]
