"""An engine that runs Python functions instead of graphs, for tests of everything above the seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..core.errors import EngineError
from .base import Engine, EngineReport, Session, Tensor
from .options import EngineOptions, GraphSpecs

Arrays = dict[str, NDArray[Any]]


class FakeEngine(Engine):
    """Answers each graph, known by its file's stem, with a function from input arrays to output arrays."""

    name = "fake"

    def __init__(self, graphs: Mapping[str, Callable[[Arrays], Arrays]]) -> None:
        self.graphs = graphs
        self.opened: list[str] = []

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open the function of that name."""
        if graph_path.stem not in self.graphs:
            raise EngineError(f"the fake engine has no graph {graph_path.stem}")
        self.opened.append(graph_path.stem)
        return FakeSession(self.graphs[graph_path.stem])


class FakeSession(Session):
    """A Python function in the place of a graph."""

    def __init__(self, function: Callable[[Arrays], Arrays]) -> None:
        self._function = function
        self.specs = GraphSpecs({}, {})
        self.report = EngineReport("fake", "python", "float32", "0", 1)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Call the function."""
        outputs = self._function({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: Tensor(array) for name, array in outputs.items()}

    def close(self) -> None:
        """Nothing to release."""
