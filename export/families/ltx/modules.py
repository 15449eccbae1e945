"""LTX-Video's denoiser as a torch module shaped for export.

It runs diffusers' own linears, norms and embeddings with their weights. Packing into a sequence, rotation and modulation
are written anew: diffusers has the caller pack, makes positions of Python numbers, and modulates each token by itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...weights import cast_weights

BASE_SECONDS, BASE_PIXELS = 20, 2048
"""What positions are fractions of, as LTXVideoTransformer3DModel gives them to its rotary embedding."""


class Denoiser(nn.Module):
    """LTXVideoTransformer3DModel on latents [B, C, F, H, W]; it predicts a velocity of the same shape.

    Its timestep is one for each latent frame: made so, modulation takes a row for each frame in the place of one for each
    token. In fp16 linears and attention run in half precision; residual stream, norms, modulation and rotary tables stay
    in float32.
    """

    def __init__(
        self, model: Any, compute: torch.dtype, scales: tuple[int, int], *, first_frame_is_short: bool
    ) -> None:
        """scales: pictures and pixels of a latent. first_frame_is_short: see RotaryTables."""
        super().__init__()
        self.model = model
        self.compute = compute
        self.rotary = RotaryTables(model.rope, scales, first_frame_is_short)
        self.epsilon = model.config.norm_eps
        self.ones: torch.Tensor
        self.register_buffer("ones", torch.ones(model.proj_in.out_features), persistent=False)
        if compute != torch.float32:
            for part in (model.proj_in, model.caption_projection, model.proj_out):
                cast_weights(part, compute)
            for block in model.transformer_blocks:
                for part in (block.attn1, block.attn2, block.ff):
                    cast_weights(part, compute)

    def forward(
        self, latents: torch.Tensor, timestep: torch.Tensor, prompt_embeds: torch.Tensor, frame_rate: torch.Tensor
    ) -> torch.Tensor:
        """Return the velocity, float32 [B, C, F, H, W], at timestep [B, F]; prompt_embeds [B, L, D], frame_rate [B]."""
        model = self.model
        batch, _, frames, height, width = latents.shape
        rotary = [table.to(self.compute) for table in self.rotary(frames, height, width, frame_rate)]
        hidden = self._linear(model.proj_in, latents.flatten(2).transpose(1, 2))
        text = model.caption_projection(prompt_embeds.to(self.compute))
        modulation, embedded = model.time_embed(timestep.reshape(-1), batch_size=batch, hidden_dtype=torch.float32)
        modulation = modulation.reshape(batch, frames, 1, 6, -1)
        for block in model.transformer_blocks:
            shift, scale, gate, shift_after, scale_after, gate_after = (block.scale_shift_table + modulation).unbind(3)
            normed = self._modulate(self._norm(block.norm1, hidden), shift, scale)
            hidden = hidden + self._gate(_attend(block.attn1, normed.to(self.compute), None, rotary), gate)
            hidden = hidden + _attend(block.attn2, hidden.to(self.compute), text, None).float()
            normed = self._modulate(self._norm(block.norm2, hidden), shift_after, scale_after)
            hidden = hidden + self._gate(block.ff(normed.to(self.compute)), gate_after)
        shift, scale = (model.scale_shift_table + embedded.reshape(batch, frames, 1, 1, -1)).unbind(3)
        velocity = self._linear(model.proj_out, self._modulate(model.norm_out(hidden), shift, scale))
        return velocity.transpose(1, 2).reshape(batch, -1, frames, height, width)

    def _linear(self, linear: Any, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = linear(values.to(self.compute))
        return output.float()

    def _norm(self, norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        weight = self.ones if norm.weight is None else norm.weight
        return F.rms_norm(hidden, weight.shape, weight, self.epsilon)

    def _modulate(self, hidden: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Scale and shift tokens [B, F·H·W, D] by what their frames have, [B, F, 1, D]."""
        by_frame = _by_frame(hidden, shift)
        return (by_frame * (1 + scale) + shift).reshape(hidden.shape)

    def _gate(self, hidden: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return (_by_frame(hidden.float(), gate) * gate).reshape(hidden.shape)


class RotaryTables(nn.Module):
    """Cosines and sines of every token's rotation, each [B, F·H·W, width/2], from the frame rate.

    Frames, rows and columns are fractions of 20 seconds and 2048 pixels. Frequencies run over the whole width, so that each
    head has its own. The first latent frame is one picture, all others eight: LTXConditionPipeline begins them at the pictures
    0, 1, 9, ... (first_frame_is_short), LTXPipeline at 0, 8, 16, ...
    """

    def __init__(self, rope: Any, scales: tuple[int, int], first_frame_is_short: bool) -> None:
        super().__init__()
        self.scales = scales
        self.first_frame_is_short = first_frame_is_short
        frequencies = rope.theta ** torch.linspace(0.0, 1.0, rope.dim // 6, dtype=torch.float32) * (math.pi / 2)
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.unturned = (rope.dim % 6) // 2

    def forward(
        self, frames: int, height: int, width: int, frame_rate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (cosines, sines) for a clip's latent frames, rows and columns; frame_rate [B], pictures a second."""
        pictures, pixels = self.scales
        picture = torch.arange(frames, dtype=torch.float32) * pictures
        if self.first_frame_is_short:
            picture = (picture - (pictures - 1)).clamp_min(0)
        seconds = picture[None, :] / frame_rate[:, None] / BASE_SECONDS
        row = torch.arange(height, dtype=torch.float32) * (pixels / BASE_PIXELS)
        column = torch.arange(width, dtype=torch.float32) * (pixels / BASE_PIXELS)
        batch, tokens = frame_rate.shape[0], frames * height * width
        places = (
            seconds[:, :, None, None].expand(batch, frames, height, width),
            row[None, None, :, None].expand(batch, frames, height, width),
            column[None, None, None, :].expand(batch, frames, height, width),
        )
        position = torch.stack(places, dim=-1).reshape(batch, tokens, 1, 3)
        angles = (self.frequencies[:, None] * (position * 2 - 1)).reshape(batch, tokens, -1)
        cosines, sines = angles.cos(), angles.sin()
        if self.unturned:
            cosines, sines = F.pad(cosines, (self.unturned, 0), value=1.0), F.pad(sines, (self.unturned, 0))
        return cosines, sines


def _by_frame(hidden: torch.Tensor, of_frames: torch.Tensor) -> torch.Tensor:
    """Return tokens [B, F·H·W, D] as [B, F, H·W, D]."""
    batch, frames = of_frames.shape[:2]
    return hidden.reshape(batch, frames, -1, hidden.shape[-1])


def _attend(
    attn: Any, hidden: torch.Tensor, context: torch.Tensor | None, rotary: list[torch.Tensor] | None
) -> torch.Tensor:
    """Return attn's output [B, S, D]; context: what is attended to, None for hidden itself."""
    attended = hidden if context is None else context
    query = attn.norm_q(attn.to_q(hidden))
    key = attn.norm_k(attn.to_k(attended))
    if rotary is not None:
        cosines, sines = rotary
        query = torch.onnx.ops.rotary_embedding(query, cosines, sines, interleaved=True, num_heads=1)
        key = torch.onnx.ops.rotary_embedding(key, cosines, sines, interleaved=True, num_heads=1)
    mixed, *_ = torch.onnx.ops.attention(
        query, key, attn.to_v(attended), q_num_heads=attn.heads, kv_num_heads=attn.heads
    )
    output: torch.Tensor = attn.to_out[0](mixed)
    return output
