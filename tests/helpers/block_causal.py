"""Wan's denoiser over a whole clip in which each frame attends to some frames alone: the reference of contexts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


@torch.no_grad()
def block_causal(model: Any, latents: Any, levels: Any, text: Any, visible: Any) -> Any:
    """Return a WanTransformer3DModel's prediction where frame i attends to the frames that `visible` [F, F] says.

    levels: a timestep for each frame [F]. Rotation by complex numbers, in float64.
    """
    batch, _, frames, height, width = latents.shape
    side = model.config.patch_size[1]
    rows, columns = height // side, width // side
    heads, size = model.config.num_attention_heads, model.config.attention_head_dim
    mask = visible.repeat_interleave(rows * columns, 0).repeat_interleave(rows * columns, 1)
    angles = _angles(size, frames, rows, columns)
    embedder = model.condition_embedder
    x = model.patch_embedding(latents).flatten(2).transpose(1, 2)
    level = embedder.time_embedder(embedder.timesteps_proj(levels.repeat_interleave(rows * columns)))[None]
    modulation = embedder.time_proj(F.silu(level)).unflatten(2, (6, -1))
    words = embedder.text_embedder(text)

    def split(tensor: Any) -> Any:
        return tensor.unflatten(2, (heads, size)).transpose(1, 2)

    def turn(tensor: Any) -> Any:
        pairs = torch.view_as_complex(split(tensor).double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * angles).flatten(-2).float()

    def norm(tensor: Any) -> Any:
        return F.layer_norm(tensor, tensor.shape[-1:], eps=1e-6)

    for block in model.blocks:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (block.scale_shift_table + modulation).unbind(2)
        attn, y = block.attn1, norm(x) * (1 + scale) + shift
        query, key, value = turn(attn.norm_q(attn.to_q(y))), turn(attn.norm_k(attn.to_k(y))), split(attn.to_v(y))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + attn.to_out[0](mixed.transpose(1, 2).flatten(2)) * gate
        attn, y = block.attn2, block.norm2(x)
        query, key, value = (
            split(attn.norm_q(attn.to_q(y))),
            split(attn.norm_k(attn.to_k(words))),
            split(attn.to_v(words)),
        )
        x = x + attn.to_out[0](F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        x = x + block.ffn(norm(x) * (1 + ff_scale) + ff_shift) * ff_gate
    shift, scale = (model.scale_shift_table + level.unsqueeze(2)).unbind(2)
    x = model.proj_out(norm(x) * (1 + scale) + shift)
    x = x.reshape(batch, frames, rows, columns, 1, side, side, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(batch, -1, frames, height, width)


def _angles(size: int, frames: int, rows: int, columns: int) -> Any:
    """Return e^(i·angle) of every token's pairs [tokens, size / 2], as Wan's authors divide a head among the axes."""
    in_space = 2 * (size // 6)
    parts = []
    for axis, (width, count) in enumerate(((size - 2 * in_space, frames), (in_space, rows), (in_space, columns))):
        rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.outer(torch.arange(count, dtype=torch.float64), rates)
        shape = [1, 1, 1, -1]
        shape[axis] = count
        parts.append(angle.view(shape).expand(frames, rows, columns, -1))
    whole = torch.cat(parts, dim=-1).flatten(0, 2)
    return torch.polar(torch.ones_like(whole), whole)
