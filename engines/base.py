"""The seam between the runtime and whatever runs a graph: tensors, sessions, engines.

An engine opens a graph and gives a session; a session takes named tensors and returns named tensors. A tensor may live on
the device; it is copied to or from numpy only where a caller asks for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import EngineError
from .options import Compute, EngineOptions, GraphSpecs

if TYPE_CHECKING:
    from .compiled.facts import CompiledGraph


class Tensor:
    """An array on the host or on a device. This base class holds it on the host; device engines derive from it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    @staticmethod
    def from_numpy(array: NDArray[Any]) -> Tensor:
        """Wrap a host array without copying it; whoever runs it moves it where it is needed."""
        return Tensor(np.ascontiguousarray(array))

    def numpy(self) -> NDArray[Any]:
        """Return the values as a host array."""
        return self._array

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of all dimensions."""
        return tuple(self._array.shape)

    def detached(self) -> Tensor:
        """Return the same values, on the same device, in memory that does not keep the session alive that made them.

        Many an engine's outputs lie in their session's own pool of memory, and hold on to all of it, weights included.
        """
        return Tensor(self._array.copy())


class Ring:
    """Room for some frames side by side where a session reads its inputs, written in place, frame by frame.

    This base class holds it on the host.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        """shape: (frames, ...), what each frame has."""
        self._array = np.zeros((1, *shape), np.dtype(dtype))

    def tensor(self, count: int) -> Tensor:
        """Return the first `count` frames, [1, count, ...], without a copy: they change as the ring is written to."""
        return Tensor.from_numpy(self._array[:, :count])

    def write(self, place: int, made: Tensor, index: int) -> None:
        """Put the frame `index` of a tensor [1, F, ...] into a place of the ring."""
        self._array[:, place] = made.numpy()[:, index]


@dataclass(frozen=True)
class EngineReport:
    """What really runs, as the opened session tells it, not as it was asked for.

    precision: the type that matrix products calculate in. nodes: number of graph nodes by provider.
    lowered: where the graph that runs came from: `cache`, `built`, or `off` and other reasons for running the canonical one.
    rewrites: how often each rewrite was applied to it. streamed: number of parts that it is run in, each part's weights
    fetched when its turn comes; 1 where all are held. build: where a built engine came from: `cache`, `built`, or "" for
    engines that build nothing; build_seconds: how long building took, 0 where it was not needed.
    """

    engine: str
    provider: str
    precision: str
    version: str
    threads: int
    nodes: dict[str, int] = field(default_factory=dict)
    lowered: str = "off"
    rewrites: dict[str, int] = field(default_factory=dict)
    streamed: int = 1
    build: str = ""
    build_seconds: float = 0.0


class Session(ABC):
    """One opened graph."""

    specs: GraphSpecs
    report: EngineReport

    @abstractmethod
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph once on all of its inputs; return all of its outputs.

        Raises EngineError where an input is missing, unknown or of the wrong type or shape, or where running fails,
        OutOfMemory where the device has not enough memory for it, Cancelled where it is stopped; the session can still be
        run again or closed then.
        """

    def stop(self) -> None:  # noqa: B027  what cannot be stopped goes on
        """End the runs that are under way in other threads: they raise Cancelled soon. It changes nothing where there are none.

        May be called from any thread. Where a device was given a run in one piece (TensorRT, a replayed CUDA graph), it ends
        when that does. Ctrl-C needs no call: it comes into a run by itself, see engines/stopping.py.
        """

    def ring(self, shape: tuple[int, ...], dtype: str) -> Ring:
        """Return a new ring of frames that this session reads, and that outlives it. shape: (frames, ...).

        Raises OutOfMemory.
        """
        return Ring(shape, dtype)

    @abstractmethod
    def close(self) -> None:
        """Release the graph and its memory; the session cannot run afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_graph(session: Session, name: str, inputs: Mapping[str, Tensor], output: str) -> Tensor:
    """Return one output of an opened graph. Raises EngineError where the graph has no such output or running fails."""
    outputs = session.run(inputs)
    if output not in outputs:
        raise EngineError(f"the graph {name} has no output {output}: the bundle is at fault")
    return outputs[output]


class Engine(ABC):
    """A way of running graphs. Nothing of the device is touched before `open`.

    device: whose memory it takes. compute: what it calculates in where EngineOptions does not say. fixed_shapes: whether it
    does better where it is told the shapes of all runs. streams_from_host: weights beyond a weight_budget lie in the host's
    memory, which is of no use where that is the device's too. blocks_lost: bytes that its allocator holds for one that the
    activations of a graph take, beyond what is set aside for every engine; decoders run in an order that loses none.
    why: what `auto` says of having picked it, "" where it was asked for.
    """

    name: str
    device: Literal["cpu", "gpu"] = "cpu"
    compute: Compute = "float32"
    fixed_shapes: bool = False
    streams_from_host: bool = False
    blocks_lost: float = 1.0
    why: str = ""

    def unavailable(self) -> str | None:
        """Return in one line why this engine cannot run on this machine, and the command that changes it; None where it can.

        Nothing of the device is touched to find out, and nothing is raised.
        """
        return None

    @abstractmethod
    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open an ONNX graph with the external data beside it.

        Raises EngineError where the graph cannot be opened (OutOfMemory where for want of memory), MissingExtraError
        where the engine is not installed.
        """

    def for_decoder(self, flops: float, threads: int | None) -> Engine:
        """Return the engine to open a decoder with, the whole of which runs so many FLOPs for a clip: this one, or a faster one.

        threads: as in EngineOptions. What is returned for the same arguments is the same.
        """
        return self

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        """Return the graph that `open` would run, as a file or serialized, so that what it costs can be counted.

        Needs no device. Raises EngineError where it cannot be made, MissingExtraError where what makes it is not installed.
        """
        if options.part is None:
            return graph_path
        from .graphs.parts import canonical_part

        return canonical_part(graph_path, options.part)

    def explain(self, graph_path: Path, options: EngineOptions, card: tuple[int, int] | None) -> CompiledGraph:
        """Return what this engine's compiler makes of a graph: types, fusions, what lies in memory; see engines.compiled.

        card: compute capability to compile for without such a card, None for the one that is there. Raises EngineError where
        the engine compiles nothing, cannot run here or refuses the graph.
        """
        raise EngineError(f"the {self.name} engine compiles nothing that could be explained: --engine rtx or tensorrt")

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Return all that decides, beside a graph and its inputs, what numbers come out of it, as known before `open`.

        What was computed under other numerics is not used again. An engine that knows its version adds it, and leaves out
        the options that do not matter. Raises MissingExtraError where the engine is not installed.
        """
        return {"engine": self.name, **{name: repr(value) for name, value in asdict(options).items()}}
