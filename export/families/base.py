"""What a model family's adapter hands to the exporter: parts to export and facts for the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...bundle.manifest import (
    Condition,
    Defaults,
    FusedLora,
    Held,
    LatentGeometry,
    Recipe,
    Stream,
    TensorSpec,
    TextRules,
)
from ..request import FusedAs, Lora, TinyDecoderFile

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class GraphSource:
    """A torch module about to become one ONNX graph.

    examples, dynamic: tensors to trace with, and for each its varying axes as torch.export dimensions.
    inputs, outputs: names, types and shapes as the manifest gives them, in the module's order.
    facts: the manifest's other keys beside the graph (a denoiser's `sigma_low`, `sigma_high`).
    states_may_idle: whether training may have switched off what reads some of the states: ReLUs that are never above zero.
    """

    name: str
    module: torch.nn.Module
    examples: tuple[torch.Tensor, ...]
    dynamic: tuple[Any, ...]
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    facts: Mapping[str, Any] = field(default_factory=dict)
    states_may_idle: bool = False


@dataclass(frozen=True)
class Trial:
    """Random inputs and what the untouched torch module makes of them, in float32.

    expected: the graph's first output. also: its other outputs, by name.
    The trial of graphs that stream has one input (a `FrameStream`'s `whole`), and expects all that comes of it at once.
    """

    label: str
    inputs: dict[str, Array]
    expected: Array
    also: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameStream:
    """How a clip passes through two graphs, one for its beginning and one for the rest, which hand on states.

    whole: name of the clip in a trial, frames on axis 2, which is no input of the graphs. part: the input that a piece of it
    becomes.
    first, later: how many frames each graph takes. made: the output that is joined.
    """

    whole: str
    part: str
    first: int
    later: int
    made: str


class ModelPart(Protocol):
    """One component of a checkpoint: one set of weights, one or more graphs that share them."""

    name: str

    @property
    def streams(self) -> FrameStream | None:
        """How two graphs share a clip; None where they are graphs of their own."""

    def load(self) -> Any:
        """Return the real torch module in float32, LoRAs fused."""

    def trials(self, module: Any) -> list[Trial]:
        """Return parity trials, made with the module as it was loaded."""

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the graphs to export; this may change the module."""


@dataclass(frozen=True)
class Facts:
    """What the manifest says about a checkpoint, read from its configuration alone."""

    text: TextRules
    latent: LatentGeometry
    recipes: list[Recipe]
    defaults: Defaults
    tokenizer: Path
    quality: dict[str, Any] = field(default_factory=dict)
    denoisers: int = 1
    """How many denoisers share the noise levels."""
    loras: list[FusedLora] = field(default_factory=list)
    """What `add_loras` was given."""
    held: Held | None = None
    condition: Condition | None = None
    stream: Stream | None = None


class Adapter(Protocol):
    """A model family: it checks a checkpoint on construction and then describes it."""

    facts: Facts

    def add_loras(self, loras: Sequence[Lora], fused_as: FusedAs = "fp32") -> None:
        """Check LoRAs against the denoisers, which fuse them as they load, and note them in the facts.

        fused_as: what weights that a LoRA changed are stored as.

        Raises UsageError for a denoiser that the model does not have, CheckpointError for a file that does not fit.
        """

    def add_tiny_decoder(self, given: TinyDecoderFile) -> None:
        """Make a second, small decoder the last of the parts.

        Raises UsageError where none is known for the family's latents, CheckpointError for a file that does not fit.
        """

    @property
    def parts(self) -> Sequence[ModelPart]:
        """Text encoder, denoisers and decoder, in the order they are exported."""
