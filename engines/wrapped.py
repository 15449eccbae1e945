"""Engines around another one: whatever they do not change passes through, so that plans and reports are of the one inside.

Derive from WrappedEngine and change what is to be different; tests/engines/test_wrapped.py compares it with Engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import Engine, Ring, Session, Tensor
from .options import EngineOptions

if TYPE_CHECKING:
    from .compiled.facts import CompiledGraph

Observer = Callable[[str, Mapping[str, Tensor], Mapping[str, Tensor]], None]
"""(name of the graph's file without suffix, inputs, outputs) of each run."""


class WrappedEngine(Engine):
    """Passes everything on to the engine in it."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        for name in Engine.__annotations__:
            setattr(self, name, getattr(inner, name))

    def unavailable(self) -> str | None:
        """See Engine.unavailable."""
        return self.inner.unavailable()

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        return self.inner.open(graph_path, options)

    def for_decoder(self, flops: float, threads: int | None) -> Engine:
        """See Engine.for_decoder: another engine is wrapped alike."""
        other = self.inner.for_decoder(flops, threads)
        if other is self.inner:
            return self
        wrapped = copy(self)
        wrapped.__dict__.update(WrappedEngine(other).__dict__)
        return wrapped

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        """See Engine.graph_to_run."""
        return self.inner.graph_to_run(graph_path, options)

    def explain(self, graph_path: Path, options: EngineOptions, card: tuple[int, int] | None) -> CompiledGraph:
        """See Engine.explain."""
        return self.inner.explain(graph_path, options, card)

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """See Engine.numerics."""
        return self.inner.numerics(options)


class WrappedSession(Session):
    """Passes everything on to the session in it."""

    def __init__(self, inner: Session) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """Return what Session says that every session has, and no class gives: `specs`, and `report` as it is by now."""
        if name not in Session.__annotations__:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run."""
        return self.inner.run(inputs)

    def stop(self) -> None:
        """See Session.stop."""
        self.inner.stop()

    def ring(self, shape: tuple[int, ...], dtype: str) -> Ring:
        """See Session.ring."""
        return self.inner.ring(shape, dtype)

    def close(self) -> None:
        """Release the graph."""
        self.inner.close()


class ObservedEngine(WrappedEngine):
    """Tells an observer what goes in and out of every graph."""

    def __init__(self, inner: Engine, observer: Observer) -> None:
        super().__init__(inner)
        self._observer = observer

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        return _ObservedSession(super().open(graph_path, options), graph_path.stem, self._observer)


class _ObservedSession(WrappedSession):
    def __init__(self, inner: Session, graph: str, observer: Observer) -> None:
        super().__init__(inner)
        self._graph, self._observer = graph, observer

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph and tell the observer; see Session.run."""
        outputs = super().run(inputs)
        self._observer(self._graph, inputs, outputs)
        return outputs
