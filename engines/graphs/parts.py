"""The parts of a decoder's graph: its front, which has to see the whole picture, and its rear, which may see a tile of it.

`onnx` is imported only where a graph is cut; cut.py says how.
"""

from __future__ import annotations

from pathlib import Path

from ...core.errors import MissingExtraError
from ...core.interrupts import interrupts_wait
from ..options import Part, Window
from .operators import check_operators
from .read import read_graph, reading

IN_PARTS = "running a part of a graph, as decoding in tiles does,"
"""What needs onnx, for MissingExtraError."""


def canonical_part(graph_path: Path, part: Part) -> bytes:
    """Return a part of a canonical graph, serialized and not lowered.

    Raises EngineError where the graph cannot be read or has no such part, MissingExtraError where onnx is not installed.
    """
    try:
        with interrupts_wait():
            from .cut import cut_part
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtraError("onnx", "cpu", IN_PARTS) from error
    content = read_graph(graph_path)
    with reading(graph_path.name):
        check_operators(content, graph_path.name)
        return cut_part(content, part, graph_path.name)


def part_inputs(graph_path: Path, part: Part) -> dict[str, tuple[int | str, ...]]:
    """Return the shape of each input of a part of a canonical graph, in the extents' names; raises as canonical_part does."""
    content = canonical_part(graph_path, part)
    from .segments import interface_of

    with reading(graph_path.name):
        return {name: info.shape for name, info in interface_of(content).inputs.items()}


def rear_window(graph_path: Path) -> Window:
    """Return what the rear of a decoder that takes a whole clip needs beside each frame; raises as canonical_part does.

    Raises EngineError too where the rear sees all frames at once.
    """
    content = canonical_part(graph_path, "rear")
    from .reach import window_of

    with reading(graph_path.name):
        return window_of(content, graph_path.name)
