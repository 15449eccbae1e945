"""A Wan denoiser that is told more than noise, words and one noise level, as a part of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim

from .....bundle.manifest import TensorSpec
from .....core.errors import CheckpointError
from ....checkpoint import Component
from ...base import GraphSource, Trial
from ..parts import DenoiserPart, times
from .denoiser import CONTEXT_TYPES, ConditionedDenoiser, Conditioning, ContextType
from .reference import whole_pass

EXAMPLE_BATCH, EXAMPLE_CONTEXT, EXAMPLE_TOKENS = 2, 4, 7
EXAMPLE_PATCHES = (3, 2, 5)
DIFFUSERS_TOKENS = 512
"""Diffusers tells pictures from words by counting so many of the latter."""


class _TrialSize(NamedTuple):
    """patches: in time, height and width. given: frames that are held, or that went before. levels: one a clip."""

    patches: tuple[int, int, int]
    given: int
    levels: tuple[float, ...]
    tokens: int


HELD_TRIALS = (_TrialSize((2, 3, 5), 0, (977.0,), 9), _TrialSize((3, 4, 2), 1, (731.0, 12.0), 6))
STREAM_TRIALS = (
    _TrialSize((3, 2, 5), 2, (977.0,), 9),
    _TrialSize((1, 3, 2), 3, (731.0, 12.0), 6),
    _TrialSize((3, 4, 2), 0, (500.0,), 5),
)
"""Few frames behind others, one frame alone, and no context at all."""


@dataclass
class _Interface:
    """The inputs of a graph: what the manifest says of them, tensors to trace with, and their varying axes."""

    specs: dict[str, TensorSpec] = field(default_factory=dict)
    examples: list[Tensor] = field(default_factory=list)
    axes: list[dict[int, Any]] = field(default_factory=list)

    def add(self, name: str, spec: TensorSpec, example: Tensor, axes: dict[int, Any]) -> None:
        self.specs[name] = spec
        self.examples.append(example)
        self.axes.append(axes)


class ConditionedDenoiserPart(DenoiserPart):
    """WanTransformer3DModel with a `Conditioning` to `denoiser.onnx` (or `denoiser_2.onnx`)."""

    def __init__(
        self, name: str, component: Component, facts: Mapping[str, Any] | None, conditioning: Conditioning
    ) -> None:
        """Raises CheckpointError where a patch spans several latent frames, but each is to have a noise level."""
        super().__init__(name, component, facts)
        self.conditioning = conditioning
        in_time = self.config.patch_size[0]
        if in_time != 1 and (conditioning.levels or conditioning.context is not None):
            raise CheckpointError(
                f"{component.config_path}: patch_size spans {in_time} latent frames; "
                "held frames and streams need patches of 1 in time"
            )

    @property
    def channels(self) -> int:
        """How many channels the latents have."""
        return int(self.config.in_channels) - self.conditioning.condition

    @property
    def width(self) -> int:
        """How wide keys and values are."""
        return int(self.config.num_attention_heads * self.config.attention_head_dim)

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials at several batch sizes, lengths, sizes, prompt lengths, noise levels and lengths of the context."""
        generator = self._random()
        if self.conditioning.context is not None:
            return [self._streamed(module, size, generator) for size in STREAM_TRIALS]
        return [self._whole(module, size, generator) for size in HELD_TRIALS]

    def _whole(self, module: Any, size: _TrialSize, generator: torch.Generator) -> Trial:
        """Return a trial without a context, frames held at timestep 0 where each has its own."""
        wanted, batch = self.conditioning, len(size.levels)
        tokens = size.tokens if wanted.images is None else DIFFUSERS_TOKENS
        latents, embeds = self._drawn(batch, size.patches, tokens, generator)
        timestep = told = torch.tensor(size.levels)
        if wanted.levels:
            timestep = timestep[:, None].repeat(1, size.patches[0])
            timestep[:, : size.given] = 0
            told = timestep.repeat_interleave(size.patches[1] * size.patches[2], dim=1)
        inputs = {"latents": latents, "timestep": timestep, "prompt_embeds": embeds}
        if wanted.condition:
            shape = (batch, wanted.condition, *latents.shape[2:])
            inputs["condition"] = torch.randn(shape, generator=generator)
        if wanted.images is not None:
            inputs["image_embeds"] = torch.randn(batch, *wanted.images, generator=generator)
        prediction = self.predict(module, inputs, told)
        return _trial(f"{_by(latents)} latents, {tokens} tokens", inputs, prediction, {})

    def predict(self, module: Any, inputs: Mapping[str, Tensor], timestep: Tensor) -> Tensor:
        """Return what the untouched module predicts. timestep: as it takes them, one a clip or one a token."""
        given = [inputs[name] for name in ("latents", "condition") if name in inputs]
        images = inputs.get("image_embeds")
        prediction: Tensor = module(
            torch.cat(given, dim=1),
            timestep,
            inputs["prompt_embeds"],
            None if images is None else self._by_picture(images),
            return_dict=False,
        )[0]
        return prediction

    def traced(self, module: Any, compute: torch.dtype) -> torch.nn.Module:
        """Return the module that becomes the graph."""
        return ConditionedDenoiser(module, self.conditioning, compute)

    def _by_picture(self, image_embeds: Tensor) -> Tensor:
        """Return embeddings as diffusers takes them: where positions are learned for two pictures, one row for each."""
        if self.config.pos_embed_seq_len is None:
            return image_embeds
        return image_embeds.reshape(2 * image_embeds.shape[0], -1, image_embeds.shape[2])

    def _streamed(self, module: Any, size: _TrialSize, generator: torch.Generator) -> Trial:
        """Return a trial behind a context, in an order that is not the frames' own."""
        (frames, rows, columns), before = size.patches, size.given
        latents, embeds = self._drawn(len(size.levels), (before + frames, rows, columns), size.tokens, generator)
        levels = torch.tensor(size.levels)[:, None].repeat(1, before + frames)
        levels[:, :before] = 0
        kept = CONTEXT_TYPES[self.conditioning.context or "float32"]
        whole = whole_pass(module, latents, levels, embeds, before, kept)
        order = torch.randperm(before, generator=generator)
        inputs = {
            "latents": latents[:, :, before:],
            "timestep": levels[:, before:],
            "prompt_embeds": embeds,
            "positions": torch.arange(before, before + frames),
            "context_positions": order,
        }
        inputs |= zip(self._contexts(), (tensor[:, order].to(kept) for tensor in whole.before), strict=True)
        left = {f"{name}_new": tensor.to(kept) for name, tensor in zip(self._contexts(), whole.later, strict=True)}
        label = f"{_by(inputs['latents'])} latents behind {before} frames, {size.tokens} tokens"
        return _trial(label, inputs, whole.prediction, left)

    def _drawn(
        self, batch: int, patches: Sequence[int], tokens: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        extent = [count * size for count, size in zip(patches, self.config.patch_size, strict=True)]
        latents = torch.randn(batch, self.channels, *extent, generator=generator)
        return latents, torch.randn(batch, tokens, self.config.text_dim, generator=generator)

    def _contexts(self) -> list[str]:
        """Return the names of keys and values: of layer l, `context_{2l}` and `context_{2l + 1}`."""
        count = 2 * self.config.num_layers
        return [f"context_{index:0{max(2, len(str(count - 1)))}}" for index in range(count)]

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph; batch, frames, height, width, number of tokens and length of the context dynamic."""
        wanted = self.conditioning
        patch = list(self.config.patch_size)
        most = self.config.rope_max_seq_len
        counts = [Dim(name, max=most) for name in ("frame_patches", "row_patches", "column_patches")]
        in_time, in_height, in_width = (times(size, count) for size, count in zip(patch, counts, strict=True))
        batch, sides = {0: Dim("batch")}, {2: in_time, 3: in_height, 4: in_width}
        extent = [count * size for count, size in zip(EXAMPLE_PATCHES, patch, strict=True)]
        latents = _float("batch", self.channels, "frames", "height", "width")
        inputs = _Interface()
        inputs.add("latents", latents, torch.zeros(EXAMPLE_BATCH, self.channels, *extent), batch | sides)
        if wanted.levels:
            levels = torch.zeros(EXAMPLE_BATCH, extent[0])
            inputs.add("timestep", _float("batch", "frames"), levels, batch | {1: in_time})
        else:
            inputs.add("timestep", _float("batch"), torch.zeros(EXAMPLE_BATCH), batch)
        text = torch.zeros(EXAMPLE_BATCH, EXAMPLE_TOKENS, self.config.text_dim)
        inputs.add("prompt_embeds", _float("batch", "tokens", self.config.text_dim), text, batch | {1: Dim("tokens")})
        named = len(inputs.axes)
        if wanted.condition:
            condition = _float("batch", wanted.condition, "frames", "height", "width")
            example = torch.zeros(EXAMPLE_BATCH, wanted.condition, *extent)
            inputs.add("condition", condition, example, batch | sides)
        if wanted.images is not None:
            example = torch.zeros(EXAMPLE_BATCH, *wanted.images)
            inputs.add("image_embeds", _float("batch", *wanted.images), example, batch)
        outputs = {"prediction": latents}
        if wanted.context is not None:
            outputs |= self._add_context(inputs, wanted.context, batch, in_time)
        return [
            GraphSource(
                name=self.name,
                module=self.traced(module, compute),
                examples=tuple(inputs.examples),
                # What follows the named arguments is one tuple to the tracer, where there is any.
                dynamic=(*inputs.axes[:named], *([tuple(inputs.axes[named:])] if inputs.axes[named:] else [])),
                inputs=inputs.specs,
                outputs=outputs,
                facts=self._facts,
            )
        ]

    def _add_context(
        self, inputs: _Interface, kept: ContextType, batch: dict[int, Any], in_time: Any
    ) -> dict[str, TensorSpec]:
        """Add positions and context to the inputs; return what the graph gives of them."""
        before, most = EXAMPLE_CONTEXT, self.config.rope_max_seq_len
        frames, rows, columns = EXAMPLE_PATCHES
        length = Dim("context", max=most)
        inputs.add(
            "positions",
            TensorSpec(dtype="int64", shape=["frames"]),
            torch.arange(before, before + frames),
            {0: in_time},
        )
        inputs.add("context_positions", TensorSpec(dtype="int64", shape=["context"]), torch.arange(before), {0: length})
        given = TensorSpec(dtype=kept, shape=["batch", "context", "patches", self.width])
        left = TensorSpec(dtype=kept, shape=["batch", "frames", "patches", self.width])
        for name in self._contexts():
            example = torch.zeros(EXAMPLE_BATCH, before, rows * columns, self.width, dtype=CONTEXT_TYPES[kept])
            inputs.add(name, given, example, batch | {1: length, 2: Dim.AUTO})
        return {f"{name}_new": left for name in self._contexts()}


def _trial(label: str, inputs: Mapping[str, Tensor], expected: Tensor, also: Mapping[str, Tensor]) -> Trial:
    given, others = (
        {name: tensor.contiguous().numpy() for name, tensor in tensors.items()} for tensors in (inputs, also)
    )
    return Trial(label, given, expected.numpy(), others)


def _float(*shape: int | str) -> TensorSpec:
    return TensorSpec(dtype="float32", shape=list(shape))


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
