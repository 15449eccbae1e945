"""What an engine may be asked, and what a graph says of its inputs and outputs: words that all of engines/ shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Activations = Literal["float", "dynamic"]
"""What quantized weights are multiplied with: float32, or activations quantized as they come."""
Compute = Literal["float32", "float16", "bfloat16"]
"""What matrix products calculate in; sums that need more (norms, softmax) have float32 in any case."""
Part = Literal["front", "rear"]
"""What of a decoder must see the whole picture or clip, and what may see a tile or window of it; see engines/graphs/parts.py."""
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""(input name, its shape) of every input of a graph, sorted by name: a mapping that can be hashed."""


class Window(NamedTuple):
    """What of a clip the rear of a decoder needs and gives, counted in the frames that the front hands on.

    reach: frames before and after a frame that its pictures depend on, 1 or more. Of `frames` latent frames the front makes
    1 + growth·(frames - 1); of n of those the rear makes 1 + pictures·(n - 1).
    """

    reach: int
    growth: int
    pictures: int


@dataclass(frozen=True)
class EngineOptions:
    """What a caller may ask of an engine.

    threads: CPU threads per operator, None for all cores. activations: what weights that are quantized while their inputs
    are not are multiplied with. lower: rewrite the graph for the device; False runs the canonical one, node by node.
    keep: what is made of the graph may go into the user's cache for the next time; False for graphs that have none.
    compute: the type that matrix products calculate in, None for the engine's own choice; what the engine cannot do it
    refuses. shapes: the shape of each input where all runs will have the same, so that the engine may build for them; None
    where they vary. weight_budget: bytes of weights held on the device at once, None for all of them: the others are
    fetched as they are needed. part: the part of the graph to run, None for all of it; parts are cut as a graph is lowered.
    """

    threads: int | None = None
    activations: Activations = "float"
    lower: bool = True
    keep: bool = True
    compute: Compute | None = None
    shapes: Shapes | None = None
    weight_budget: int | None = None
    part: Part | None = None


@dataclass(frozen=True)
class TensorInfo:
    """Type and shape of one graph input or output; a dimension that may vary is a name."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpecs:
    """The interface of an opened graph, by tensor name."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
