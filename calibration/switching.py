"""An engine that runs other graphs in the place of a bundle's, and changes which while its sessions stay in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..engines import Engine, EngineOptions, Session, Tensor
from ..engines.options import Activations
from ..engines.wrapped import WrappedEngine


class SwitchingEngine(WrappedEngine):
    """Opens other graphs in the place of some, and changes which while sessions stay in use."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        self._others: dict[str, tuple[Path, Activations]] = {}
        self._sessions: dict[str, _SwitchingSession] = {}

    def switch(self, file_name: str, other: Path | None, activations: Activations = "float") -> None:
        """Run this file in the place of the bundle's graph of that file name from now on; None: the bundle's own."""
        self._others.pop(file_name, None)
        if other is not None:
            self._others[file_name] = (other, activations)
        if file_name in self._sessions:
            self._sessions[file_name].close()

    def release(self) -> None:
        """Close every graph; those that are run again are opened again."""
        for session in self._sessions.values():
            session.close()

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""

        def open_current() -> Session:
            if graph_path.name not in self._others:
                return self.inner.open(graph_path, options)
            other, activations = self._others[graph_path.name]
            return self.inner.open(other, replace(options, activations=activations, keep=False))

        session = self._sessions[graph_path.name] = _SwitchingSession(open_current)
        return session


class _SwitchingSession(Session):
    """Whatever graph is current, opened when it is run."""

    def __init__(self, open_current: Callable[[], Session]) -> None:
        self._open_current = open_current
        self._current: Session | None = open_current()
        self.specs = self._current.specs
        self.report = self._current.report

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the current graph; see Session.run."""
        if self._current is None:
            self._current = self._open_current()
        return self._current.run(inputs)

    def stop(self) -> None:
        """See Session.stop."""
        if (current := self._current) is not None:
            current.stop()

    def close(self) -> None:
        """Release the current graph; the next run opens the one that is current then."""
        if self._current is not None:
            self._current.close()
        self._current = None
