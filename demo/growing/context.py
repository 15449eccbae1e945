"""Wan's denoiser with a context: keys and values of clean frames that it attends to, on unchanged weights.

Every frame of one call has the same noise level. Keys are kept before rotation and rotated where they are read, so that
positions are counted anew in every call: the context's frames stand at 0, 1, ..., the call's own frames behind them.
Without a context a call equals `WanTransformer3DModel` (a test compares them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Context:
    """Keys and values of each layer, [B, frames, tokens of a frame, width], keys before rotation."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def frames(self) -> int:
        """Return how many latent frames it holds."""
        return self.keys[0].shape[1]

    def last(self, frames: int) -> Context:
        """Return the newest frames alone."""
        start = max(self.frames - frames, 0)
        return Context([key[:, start:] for key in self.keys], [value[:, start:] for value in self.values])

    def then(self, later: Context) -> Context:
        """Return this context with a later one behind it."""
        return Context(
            [torch.cat(pair, dim=1) for pair in zip(self.keys, later.keys, strict=True)],
            [torch.cat(pair, dim=1) for pair in zip(self.values, later.values, strict=True)],
        )

    def detach(self) -> Context:
        """Return the same numbers, cut off from what made them."""
        return Context([key.detach() for key in self.keys], [value.detach() for value in self.values])


def stack(contexts: list[Context]) -> Context:
    """Return several contexts of the same length as one batch."""
    layers = range(len(contexts[0].keys))
    return Context(
        [torch.cat([context.keys[i] for context in contexts]) for i in layers],
        [torch.cat([context.values[i] for context in contexts]) for i in layers],
    )


def denoise(
    transformer: Any, latents: Tensor, timestep: Tensor, embeddings: Tensor, context: Context | None = None
) -> tuple[Tensor, Context]:
    """Return the prediction [B, C, F, H, W] for latents of that shape, and what the call would leave as context.

    timestep: [B], 0 to 1000. embeddings: [B, L, D]. context: any number of frames, of the same batch and size.
    """
    frames, height, width = latents.shape[2:]
    before = 0 if context is None else context.frames
    cos, sin = _rotation(transformer.rope, before + frames, height, width)
    x = transformer.patch_embedding(latents).flatten(2).transpose(1, 2)
    temb, levels, text, _ = transformer.condition_embedder(timestep, embeddings, None)
    levels = levels.unflatten(1, (6, -1))
    kept = Context([], [])
    for index, block in enumerate(transformer.blocks):
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (block.scale_shift_table + levels).chunk(6, dim=1)
        y = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=block.norm1.eps), 1 + scale)
        key, value = block.attn1.norm_k(block.attn1.to_k(y)), block.attn1.to_v(y)
        kept.keys.append(key.unflatten(1, (frames, -1)))
        kept.values.append(value.unflatten(1, (frames, -1)))
        if context is not None:
            key = torch.cat([context.keys[index].flatten(1, 2), key], dim=1)
            value = torch.cat([context.values[index].flatten(1, 2), value], dim=1)
        query = _rotate(_by_head(block.attn1.norm_q(block.attn1.to_q(y)), block.attn1.heads), cos, sin)
        key = _rotate(_by_head(key, block.attn1.heads), cos, sin)
        x = torch.addcmul(x, _attend(block.attn1, query, key, _by_head(value, block.attn1.heads)), gate)
        attn = block.attn2
        y = block.norm2(x)
        query, key = attn.norm_q(attn.to_q(y)), attn.norm_k(attn.to_k(text))
        parts = (_by_head(part, attn.heads) for part in (query, key, attn.to_v(text)))
        x = x + _attend(attn, *parts)
        y = torch.addcmul(ff_shift, F.layer_norm(x, x.shape[-1:], eps=block.norm3.eps), 1 + ff_scale)
        x = torch.addcmul(x, block.ffn(y), ff_gate)
    shift, scale = (transformer.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
    x = transformer.proj_out(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale))
    prediction: Tensor = x.unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)
    return prediction, kept


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _attend(attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mixed = F.scaled_dot_product_attention(query, key, value)
    result: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
    return result


def _rotation(rope: Any, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine of every token's pairs, [1, 1, tokens, width of a head / 2]."""
    parts = []
    for table in (rope.freqs_cos[:, 0::2], rope.freqs_sin[:, 1::2]):
        in_time, in_height, in_width = table.float().split([rope.t_dim // 2, rope.h_dim // 2, rope.w_dim // 2], dim=1)
        size = (frames, height, width, -1)
        whole = [
            in_time[:frames].view(frames, 1, 1, -1).expand(size),
            in_height[:height].view(1, height, 1, -1).expand(size),
            in_width[:width].view(1, 1, width, -1).expand(size),
        ]
        parts.append(torch.cat(whole, dim=-1).flatten(0, 2)[None, None])
    return parts[0], parts[1]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, heads, tokens, D] by the angles of as many tokens at the end of the table."""
    cos, sin = cos[:, :, -x.shape[2] :], sin[:, :, -x.shape[2] :]
    even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
