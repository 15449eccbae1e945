"""Watching a model while it samples: a wrapper around an engine whose denoisers tell what goes into their linears.

The graph itself reduces each tensor to a few numbers per channel and a few tokens, as outputs beside its own; sampling
code sees none of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..core.errors import EngineError
from ..engines import Engine, EngineOptions, Session, Tensor
from ..engines.wrapped import WrappedEngine, WrappedSession
from .graph_file import GraphFile
from .statistics import Branch, Slot, Statistics, TensorStatistics

SAMPLED_TOKENS = 8
"""Of each tensor at each run, evenly spaced."""
_PREFIX = "edgereel_seen_"
_PARTS = ("minimum", "maximum", "squares", "tokens", "sampled")


class RecordingEngine(WrappedEngine):
    """Opens the denoisers of a bundle instrumented, everything else as the engine in it does."""

    def __init__(
        self, inner: Engine, graphs: Mapping[str, GraphFile], folder: Path, statistics: Statistics, rows_kept: int
    ) -> None:
        """graphs: the denoisers by file name. folder: an empty one for the instrumented graphs. rows_kept: by slot."""
        super().__init__(inner)
        self._graphs = graphs
        self._folder = folder
        self._sessions: list[RecordingSession] = []
        self._statistics = statistics
        self._rows_kept = rows_kept

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        graph = self._graphs.get(graph_path.name)
        if graph is None:
            return super().open(graph_path, options)
        path = self._folder / graph_path.name
        path.write_bytes(instrumented(graph).SerializeToString(deterministic=True))
        link_data(graph, self._folder)
        session = RecordingSession(
            super().open(path, replace(options, keep=False)), graph, self._statistics, self._rows_kept
        )
        self._sessions.append(session)
        return session

    def begin_clip(self) -> None:
        """Say that another clip begins: the first prompt embedding that comes is the prompt's, another the negative one's."""
        for session in self._sessions:
            session.prompted = None


class RecordingSession(WrappedSession):
    """An instrumented graph: its own outputs go to the caller, the others into the statistics."""

    def __init__(self, inner: Session, graph: GraphFile, statistics: Statistics, rows_kept: int) -> None:
        super().__init__(inner)
        self.prompted: Tensor | None = None
        self._graph = graph
        self._rows_kept = rows_kept
        self._readers = readers_by_tensor(graph)
        statistics.linears[graph.name] = self._readers
        self._seen = statistics.seen.setdefault(graph.name, {tensor: {} for tensor in self._readers})

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph and record; see Session.run. Raises EngineError too where activations are not finite numbers."""
        outputs = super().run(inputs)
        embeddings = inputs["prompt_embeds"]
        if self.prompted is None:
            self.prompted = embeddings
        branch: Branch = "prompted" if embeddings is self.prompted else "negative"
        # Where each latent frame has a timestep of its own, those that are given come first.
        slot = Slot(branch, float(inputs["timestep"].numpy().ravel()[-1]))
        for index, (tensor, readers) in enumerate(self._readers.items()):
            found = [outputs.pop(f"{_PREFIX}{index}_{part}").numpy() for part in _PARTS]
            minimum, maximum, squares, tokens, sampled = found
            if not (np.isfinite(squares).all() and np.isfinite(minimum).all() and np.isfinite(maximum).all()):
                raise EngineError(
                    f"{self._graph.name}: what goes into {readers[0]} at timestep {slot.timestep:g} ({branch}) has values "
                    "that are not finite numbers: the model overflows there and cannot be calibrated"
                )
            seen = self._seen[tensor].setdefault(slot, TensorStatistics.nothing(len(minimum)))
            seen.add(minimum, maximum, squares, int(tokens[0]), sampled, self._rows_kept)
        return outputs


def readers_by_tensor(graph: GraphFile) -> dict[str, list[str]]:
    """Return the names of the linears that read each tensor, in the graph's order."""
    readers: dict[str, list[str]] = {}
    for linear in graph.linears.values():
        readers.setdefault(linear.activations, []).append(linear.name)
    return readers


def instrumented(graph: GraphFile) -> Any:
    """Return the graph's model with five more outputs for each tensor that linears read.

    Minimum, maximum and sum of squares by channel, float32 [K]; the number of tokens, int64 [1]; and a few tokens, [R, K],
    SAMPLED_TOKENS to twice as many of a tensor that has so many. A reshape to [tokens, K] copies nothing; the sum of
    squares is where NaN and infinity show.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    body = model.graph
    constants = {"rows": [0], "one": [1], "count": [SAMPLED_TOKENS], "end": [2**62]}
    for name, values in constants.items():
        body.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), f"{_PREFIX}{name}"))
    rows, one, count, end = (f"{_PREFIX}{name}" for name in constants)
    nodes = list(body.node)
    del body.node[:]
    watched: set[str] = set()
    first_readers = {linear.position: linear for linear in graph.linears.values()}
    for position, node in enumerate(nodes):
        linear = first_readers.get(position)
        # Reductions stand before the reader, where the tensor is fresh: at the end they would keep all of them in memory.
        if linear is not None and linear.activations not in watched:
            prefix = f"{_PREFIX}{len(watched)}"
            watched.add(linear.activations)
            shape = onnx.numpy_helper.from_array(np.array([-1, linear.inputs], np.int64), f"{prefix}_shape")
            body.initializer.append(shape)
            body.node.extend(_reductions(linear.activations, prefix, rows, one, count, end))
            for part in _PARTS:
                kind = onnx.TensorProto.INT64 if part == "tokens" else onnx.TensorProto.FLOAT
                extents = {"tokens": [1], "sampled": [None, linear.inputs]}.get(part, [linear.inputs])
                body.output.append(onnx.helper.make_tensor_value_info(f"{prefix}_{part}", kind, extents))
        body.node.append(node)
    return model


def _reductions(tensor: str, prefix: str, rows: str, one: str, count: str, end: str) -> list[Any]:
    make, flat = onnx.helper.make_node, f"{prefix}_flat"
    return [
        make("Reshape", [tensor, f"{prefix}_shape"], [flat]),
        make("ReduceMin", [flat, rows], [f"{prefix}_minimum"], keepdims=0),
        make("ReduceMax", [flat, rows], [f"{prefix}_maximum"], keepdims=0),
        make("ReduceSumSquare", [flat, rows], [f"{prefix}_squares"], keepdims=0),
        make("Shape", [flat], [f"{prefix}_tokens"], start=0, end=1),
        make("Div", [f"{prefix}_tokens", count], [f"{prefix}_whole_step"]),
        make("Max", [f"{prefix}_whole_step", one], [f"{prefix}_step"]),
        make("Slice", [flat, rows, end, rows, f"{prefix}_step"], [f"{prefix}_sampled"]),
    ]


def link_data(graph: GraphFile, folder: Path) -> None:
    """Put a graph's data file beside a changed copy of the graph, without copying it where the file system allows.

    A symbolic link would not do: ONNX Runtime refuses data outside the graph's folder.
    """
    for location in {graph.place(name).get("location") for name in graph.initializers} - {None}:
        target = folder / str(location)
        if target.exists():
            continue
        try:
            os.link(graph.path.parent / str(location), target)
        except OSError:
            shutil.copyfile(graph.path.parent / str(location), target)
