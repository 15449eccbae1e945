"""Wan's denoiser where it is told more than noise, words and one noise level: see `Conditioning`.

The weights are WanTransformer3DModel's, unchanged. Its forward pass is written anew, since diffusers has a noise level for
each token (here: for each latent frame, the same numbers for a fraction of the memory) and keeps no context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..modules import RotaryTables, cast_denoiser

ContextType = Literal["float32", "float16"]
CONTEXT_TYPES: dict[ContextType, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is given beside `latents`, `prompt_embeds` and `timestep`.

    levels: `timestep` is [B, F], a noise level for each latent frame, instead of [B].
    condition: channels of `condition` [B, Cc, F, H, W], put behind those of the latents; 0 where there is none.
    images: embeddings [B, N, D] of pictures, as (N, D); None where there are none.
    context: type of `context_NN` [B, P, S, D], the key and the value of each layer for every frame that went before, keys
        before rotation; None where there is no context. `positions` [F] and `context_positions` [P] go with it.
    """

    levels: bool = False
    condition: int = 0
    images: tuple[int, int] | None = None
    context: ContextType | None = None

    def __bool__(self) -> bool:
        """Whether there is anything of it."""
        return self != UNCONDITIONED


UNCONDITIONED = Conditioning()


class ConditionedDenoiser(nn.Module):
    """WanTransformer3DModel with what a `Conditioning` names, in this order: `condition`, `image_embeds`, `positions`,
    `context_positions`, `context_00`, ... It gives `prediction` [B, C, F, H, W] and, with a context, `context_00_new`, ...

    In fp16 norms, modulation, time embedding and rotary tables keep float32, as diffusers keeps them.
    """

    def __init__(self, model: Any, conditioning: Conditioning, compute: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.conditioning = conditioning
        self.compute = compute
        self.patch = list(model.config.patch_size)
        model.rope = RotaryTables(model.rope)
        cast_denoiser(model, compute)

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, *given: Tensor) -> Any:
        """Return the predicted velocity, float32, and the keys and values of the latents' frames, if there is a context."""
        rest = iter(given)
        model, embedder = self.model, self.model.condition_embedder
        frames, rows, columns = self.patches(latents)
        x = latents = latents.to(self.compute)
        if self.conditioning.condition:
            x = torch.cat([x, next(rest).to(self.compute)], dim=1)
        x = model.patch_embedding(x).flatten(2).transpose(1, 2)
        images = next(rest).to(self.compute) if self.conditioning.images is not None else None
        context = _Context(self, latents, rest) if self.conditioning.context is not None else None
        rotation = model.rope(latents) if context is None else context.rotation
        levels = timestep.reshape(-1)
        batch = latents.shape[0]
        of_frame = frames if self.conditioning.levels else 1
        level = embedder.time_embedder(embedder.timesteps_proj(levels)).to(self.compute)
        modulation = embedder.time_proj(embedder.act_fn(level)).float().reshape(batch, of_frame, 1, 6, -1)
        text = embedder.text_embedder(prompt_embeds.to(self.compute))
        if images is not None:
            images = self._embed_images(images)
        for block in model.blocks:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = (
                block.scale_shift_table[:, None, None] + modulation
            ).unbind(3)
            y = _modulate(block.norm1(x.float()), shift, scale).to(x.dtype)
            mixed = self._attend_to_itself(block.attn1, y, rotation, context)
            x = (x.float() + _gate(mixed, gate)).to(x.dtype)
            y = block.norm2(x.float()).to(x.dtype)
            x = x + _attend_to_words(block.attn2, y, text, images)
            y = _modulate(block.norm3(x.float()), ff_shift, ff_scale).to(x.dtype)
            x = (x.float() + _gate(block.ffn(y).float(), ff_gate)).to(x.dtype)
        ends = model.scale_shift_table[:, None, None] + level.float().reshape(batch, of_frame, 1, 1, -1)
        shift, scale = ends.unbind(3)
        x = model.proj_out(_modulate(model.norm_out(x.float()), shift, scale).to(x.dtype))
        x = x.reshape(batch, frames, rows, columns, *self.patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        prediction = x.reshape(batch, -1, *latents.shape[2:]).float()
        return prediction if context is None else (prediction, *context.made)

    def patches(self, latents: Tensor) -> list[int]:
        """Return how many patches latents [B, C, F, H, W] have in time, height and width."""
        return [extent // patch for extent, patch in zip(latents.shape[2:], self.patch, strict=True)]

    def _embed_images(self, images: Tensor) -> Tensor:
        embedder = self.model.condition_embedder.image_embedder
        if embedder.pos_embed is not None:
            images = images + embedder.pos_embed
        hidden = embedder.ff(embedder.norm1(images.float()).to(self.compute))
        embedded: Tensor = embedder.norm2(hidden.float()).to(self.compute)
        return embedded

    def _attend_to_itself(
        self, attn: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor], context: _Context | None
    ) -> Tensor:
        query, key, value = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        query, rotated = _rotate(attn, query, rotation), _rotate(attn, key, rotation)
        if context is not None:
            rotated, value = context.join(attn, key, rotated, value)
        mixed, *_ = torch.onnx.ops.attention(query, rotated, value, q_num_heads=attn.heads, kv_num_heads=attn.heads)
        output: Tensor = attn.to_out[0](mixed)
        return output


class _Context:
    """The context of one call: what is given of it is read layer by layer, what the call leaves is collected."""

    def __init__(self, denoiser: ConditionedDenoiser, latents: Tensor, given: Iterator[Tensor]) -> None:
        """given: positions, context_positions, then key and value of each layer."""
        conditioning = denoiser.conditioning
        assert conditioning.context is not None
        self._type, self._compute = CONTEXT_TYPES[conditioning.context], denoiser.compute
        positions, before = next(given), next(given)
        _, rows, columns = denoiser.patches(latents)
        self._frames, self._tokens = positions.shape[0], rows * columns
        rope = denoiser.model.rope
        self.rotation = rope.at(positions, latents)
        self._rotation_before = rope.at(before, latents)
        self._given = given
        self.made: list[Tensor] = []

    def join(self, attn: Any, key: Tensor, rotated: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys, rotated, and values of the frames before and of the call's own; keep the latter for the next call."""
        for own in (key, value):
            self.made.append(own.reshape(own.shape[0], self._frames, self._tokens, -1).to(self._type))
        keys, values = (self._read(next(self._given)) for _ in range(2))
        return torch.cat([_rotate(attn, keys, self._rotation_before), rotated], 1), torch.cat([values, value], 1)

    def _read(self, kept: Tensor) -> Tensor:
        batch, frames, _, width = kept.shape
        return kept.to(self._compute).reshape(batch, frames * self._tokens, width)


def _rotate(attn: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    rotated: Tensor = torch.onnx.ops.rotary_embedding(hidden, *rotation, interleaved=True, num_heads=attn.heads)
    return rotated


def _attend_to_words(attn: Any, hidden: Tensor, text: Tensor, images: Tensor | None) -> Tensor:
    """Attend to the prompt and, apart from it, to the pictures."""
    query = attn.norm_q(attn.to_q(hidden))
    key, value = attn.norm_k(attn.to_k(text)), attn.to_v(text)
    mixed, *_ = torch.onnx.ops.attention(query, key, value, q_num_heads=attn.heads, kv_num_heads=attn.heads)
    if images is not None:
        key, value = attn.norm_added_k(attn.add_k_proj(images)), attn.add_v_proj(images)
        seen, *_ = torch.onnx.ops.attention(query, key, value, q_num_heads=attn.heads, kv_num_heads=attn.heads)
        mixed = mixed + seen
    output: Tensor = attn.to_out[0](mixed)
    return output


def _modulate(hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift [B, S, D] by [B, F or 1, 1, D]: all tokens of a frame alike."""
    batch, frames = shift.shape[:2]
    return (hidden.reshape(batch, frames, -1, hidden.shape[-1]) * (1 + scale) + shift).reshape(hidden.shape)


def _gate(hidden: Tensor, gate: Tensor) -> Tensor:
    batch, frames = gate.shape[:2]
    return (hidden.reshape(batch, frames, -1, hidden.shape[-1]) * gate).reshape(hidden.shape)
