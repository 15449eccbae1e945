"""A Wan denoiser that is told more than noise, words and one noise level, as a part of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import Dim

from ....bundle.manifest import TensorSpec
from ....core.errors import CheckpointError
from ...checkpoint import Component
from ..base import GraphSource, Trial
from .conditioned import CONTEXT_TYPES, ConditionedDenoiser, Conditioning
from .parts import DenoiserPart
from .reference import whole_pass

EXAMPLE_CONTEXT = 4
EXAMPLE_TOKENS = 7


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
                f"{component.folder / 'config.json'}: patch_size spans {in_time} latent frames; "
                "held frames and streams need patches of 1 in time"
            )

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials at several batch sizes, lengths, sizes, prompt lengths, noise levels and lengths of the context."""
        generator = self.random()
        if self.conditioning.context is not None:
            # Few frames behind many, one frame alone, and no context at all.
            shapes = (((3, 2, 5), 2, (977.0,), 9), ((1, 3, 2), 3, (731.0, 12.0), 6), ((3, 4, 2), 0, (500.0,), 5))
            return [self._streamed(module, *shape, generator) for shape in shapes]
        shapes = (((2, 3, 5), 0, (977.0,), 9), ((3, 4, 2), 1, (731.0, 12.0), 6))
        return [self._plain(module, *shape, generator) for shape in shapes]

    def _plain(
        self,
        module: Any,
        patches: tuple[int, int, int],
        held: int,
        times: tuple[float, ...],
        tokens: int,
        generator: torch.Generator,
    ) -> Trial:
        """Return a trial without a context; held: how many frames have timestep 0 where each has its own."""
        wanted = self.conditioning
        latents, embeds = self._drawn(len(times), patches, tokens, generator)
        inputs = {"latents": latents, "timestep": torch.tensor(times), "prompt_embeds": embeds}
        told = inputs["timestep"]
        if wanted.levels:
            inputs["timestep"] = told[:, None].repeat(1, patches[0])
            inputs["timestep"][:, :held] = 0
            told = inputs["timestep"].repeat_interleave(patches[1] * patches[2], dim=1)
        seen = latents
        if wanted.condition:
            shape = (latents.shape[0], wanted.condition, *latents.shape[2:])
            inputs["condition"] = torch.randn(shape, generator=generator)
            seen = torch.cat([latents, inputs["condition"]], dim=1)
        images = None
        if wanted.images is not None:
            images = torch.randn(len(times), *wanted.images, generator=generator)
            inputs["image_embeds"] = images
            # Diffusers tells pictures from words by counting 512 of the latter.
            inputs["prompt_embeds"] = torch.randn(len(times), 512, self.config.text_dim, generator=generator)
            # With two pictures its batch is of pictures.
            images = images.reshape(-1, images.shape[1] // self.pictures, images.shape[2])
        prediction = module(seen, told, inputs["prompt_embeds"], images, return_dict=False)[0]
        label = f"{'x'.join(map(str, latents.shape))} latents, {inputs['prompt_embeds'].shape[1]} tokens"
        return Trial(label, {name: tensor.numpy() for name, tensor in inputs.items()}, prediction.numpy())

    def _streamed(
        self,
        module: Any,
        patches: tuple[int, int, int],
        before: int,
        times: tuple[float, ...],
        tokens: int,
        generator: torch.Generator,
    ) -> Trial:
        """Return a trial behind a context of `before` frames, in an order that is not theirs."""
        frames, rows, columns = patches
        latents, embeds = self._drawn(len(times), (before + frames, rows, columns), tokens, generator)
        levels = torch.tensor(times)[:, None].repeat(1, before + frames)
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
            **{_context(index): kept_before[:, order].to(kept) for index, kept_before in enumerate(whole.before)},
        }
        left = {f"{_context(index)}_new": tensor.to(kept).numpy() for index, tensor in enumerate(whole.later)}
        label = f"{'x'.join(map(str, inputs['latents'].shape))} latents behind {before} frames, {tokens} tokens"
        arrays = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        return Trial(label, arrays, whole.prediction.numpy(), left)

    def _drawn(
        self, batch: int, patches: tuple[int, int, int], tokens: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        extent = [count * size for count, size in zip(patches, self.config.patch_size, strict=True)]
        latents = torch.randn(batch, self.channels, *extent, generator=generator)
        return latents, torch.randn(batch, tokens, self.config.text_dim, generator=generator)

    @property
    def channels(self) -> int:
        """How many channels the latents have."""
        return int(self.config.in_channels) - self.conditioning.condition

    @property
    def pictures(self) -> int:
        """How many pictures `image_embeds` are of: two where the model has learned positions for them."""
        return 1 if self.config.pos_embed_seq_len is None else 2

    @property
    def width(self) -> int:
        """How wide keys and values are."""
        return int(self.config.num_attention_heads * self.config.attention_head_dim)

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph; batch, frames, height, width, number of tokens and length of the context dynamic."""
        wanted = self.conditioning
        rows, columns, frames = 2, 5, 3
        patch = list(self.config.patch_size)
        most = self.config.rope_max_seq_len
        counts = [Dim(name, max=most) for name in ("frame_patches", "row_patches", "column_patches")]
        sides = {2 + i: size * count if size > 1 else count for i, (size, count) in enumerate(zip(patch, counts, strict=True))}
        batch = {0: Dim("batch")}
        size = [count * side for count, side in zip((frames, rows, columns), patch, strict=True)]
        latents = TensorSpec(dtype="float32", shape=["batch", self.channels, "frames", "height", "width"])
        inputs = {
            "latents": latents,
            "timestep": TensorSpec(dtype="float32", shape=["batch", "frames"] if wanted.levels else ["batch"]),
            "prompt_embeds": TensorSpec(dtype="float32", shape=["batch", "tokens", self.config.text_dim]),
        }
        examples = [
            torch.zeros(2, self.channels, *size),
            torch.zeros(2, frames) if wanted.levels else torch.zeros(2),
            torch.zeros(2, EXAMPLE_TOKENS, self.config.text_dim),
        ]
        dynamic = [batch | sides, batch | {1: sides[2]} if wanted.levels else batch, batch | {1: Dim("tokens")}]
        rest: list[Any] = []
        if wanted.condition:
            shape = ["batch", wanted.condition, *latents.shape[2:]]
            inputs["condition"] = TensorSpec(dtype="float32", shape=shape)
            examples.append(torch.zeros(2, wanted.condition, *size))
            rest.append(batch | sides)
        if wanted.images is not None:
            inputs["image_embeds"] = TensorSpec(dtype="float32", shape=["batch", *wanted.images])
            examples.append(torch.zeros(2, *wanted.images))
            rest.append(batch)
        outputs = {"prediction": latents}
        if wanted.context is not None:
            names = [_context(index) for index in range(2 * self.config.num_layers)]
            positions, before = torch.arange(EXAMPLE_CONTEXT, EXAMPLE_CONTEXT + frames), torch.arange(EXAMPLE_CONTEXT)
            inputs["positions"] = TensorSpec(dtype="int64", shape=["frames"])
            inputs["context_positions"] = TensorSpec(dtype="int64", shape=["context_frames"])
            kept = TensorSpec(dtype=wanted.context, shape=["batch", "context_frames", "frame_tokens", self.width])
            inputs |= dict.fromkeys(names, kept)
            left = TensorSpec(dtype=wanted.context, shape=["batch", "frames", "frame_tokens", self.width])
            outputs |= {f"{name}_new": left for name in names}
            shape_kept = (2, EXAMPLE_CONTEXT, rows * columns, self.width)
            examples += [positions, before, *(torch.zeros(shape_kept, dtype=CONTEXT_TYPES[wanted.context]) for _ in names)]
            in_context = Dim("context_frames", max=most)
            rest += [{0: sides[2]}, {0: in_context}, *(batch | {1: in_context, 2: Dim.AUTO} for _ in names)]
        return [
            GraphSource(
                name=self.name,
                module=ConditionedDenoiser(module, wanted, compute),
                examples=tuple(examples),
                dynamic=(*dynamic, tuple(rest)),
                inputs=inputs,
                outputs=outputs,
                facts=self._facts,
            )
        ]


def _context(index: int) -> str:
    return f"context_{index:02}"
