"""An engine around another one that shows an observer what goes in and out of every graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..engines.base import Engine, Session, Tensor
from ..engines.options import EngineOptions

# (name of the graph's file without suffix, inputs, outputs)
Observer = Callable[[str, Mapping[str, Tensor], Mapping[str, Tensor]], None]


class ObservedEngine(Engine):
    """Runs graphs with another engine and tells an observer of every run."""

    def __init__(self, engine: Engine, observer: Observer) -> None:
        self.name = engine.name
        self._engine = engine
        self._observer = observer

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        return _ObservedSession(self._engine.open(graph_path, options), graph_path.stem, self._observer)


class _ObservedSession(Session):
    def __init__(self, session: Session, graph: str, observer: Observer) -> None:
        self.specs, self.report = session.specs, session.report
        self._session, self._graph, self._observer = session, graph, observer

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph and tell the observer; see Session.run."""
        outputs = self._session.run(inputs)
        self._observer(self._graph, inputs, outputs)
        return outputs

    def close(self) -> None:
        """Release the graph."""
        self._session.close()
