"""The Wan family's networks as torch modules shaped for export.

They run the real diffusers and transformers submodules with their own weights; only the parts that would export badly
(attention layouts, rotary tables, relative position buckets, decoder caches) are written anew, on operators that ONNX
opset 23 has whole. Every module takes and returns float32 (and int64) whatever it computes in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...weights import cast_own_weights


class Denoiser(nn.Module):
    """WanTransformer3DModel: latents [B, C, F, H, W], timestep [B], embeddings [B, L, D] to a velocity [B, C, F, H, W].

    In fp16 norms, modulation, time embedding and rotary tables keep float32, as diffusers keeps them.
    """

    def __init__(self, model: Any, compute: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute = compute
        model.rope = RotaryTables(model.rope)
        for block in model.blocks:
            block.attn1.set_processor(ExportAttention())
            block.attn2.set_processor(ExportAttention())
        cast_denoiser(model, compute)

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Return the predicted velocity, float32, of the latents' shape."""
        embeds = prompt_embeds.to(self.compute)
        prediction: torch.Tensor = self.model(latents.to(self.compute), timestep, embeds, return_dict=False)[0]
        return prediction.float()


def cast_denoiser(model: Any, compute: torch.dtype) -> None:
    """Make a WanTransformer3DModel's weights count as `compute`, but those that diffusers keeps in float32."""
    if compute == torch.float32:
        return
    keep = ("rope", "time_embedder", "norm1", "norm2", "norm3", "norm_out")
    for name, module in model.named_modules():
        if not any(part in keep for part in name.split(".")):
            cast_own_weights(module, compute, except_for=("scale_shift_table",))


class RotaryTables(nn.Module):
    """Cosines and sines of every token's rotation, each [B, F·H·W, head/2], cut from tables made at export.

    The tables are diffusers' own, computed there in float64; every value stands twice in them and once here.
    """

    def __init__(self, rope: Any) -> None:
        super().__init__()
        self.patch = rope.patch_size
        self.half_sizes = [rope.t_dim // 2, rope.h_dim // 2, rope.w_dim // 2]
        self.cosines: torch.Tensor
        self.sines: torch.Tensor
        self.register_buffer("cosines", rope.freqs_cos[:, 0::2].float().contiguous(), persistent=False)
        self.register_buffer("sines", rope.freqs_sin[:, 1::2].float().contiguous(), persistent=False)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (cosines, sines) for latents [B, C, F, H, W], in the latents' type."""
        sizes = [extent // patch for extent, patch in zip(latents.shape[2:], self.patch, strict=True)]
        grids = [self._grid(table, sizes, latents, None) for table in (self.cosines, self.sines)]
        return grids[0], grids[1]

    def at(self, positions: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (cosines, sines) of frames that stand at positions int64 [F] in time, of the latents' size and type."""
        sizes = [extent // patch for extent, patch in zip(latents.shape[2:], self.patch, strict=True)]
        sizes[0] = positions.shape[0]
        grids = [self._grid(table, sizes, latents, positions) for table in (self.cosines, self.sines)]
        return grids[0], grids[1]

    def _grid(
        self, table: torch.Tensor, sizes: list[int], latents: torch.Tensor, positions: torch.Tensor | None
    ) -> torch.Tensor:
        frames, rows, columns = sizes
        of_frame, of_row, of_column = torch.split(table, self.half_sizes, dim=1)
        if positions is None:
            of_frame = of_frame[:frames].view(frames, 1, 1, -1)
        else:  # of which there may be none, so that no size can be left to be found out
            of_frame = of_frame.index_select(0, positions)[:, None, None]
        parts = [
            of_frame.expand(frames, rows, columns, -1),
            of_row[:rows].view(1, rows, 1, -1).expand(frames, rows, columns, -1),
            of_column[:columns].view(1, 1, columns, -1).expand(frames, rows, columns, -1),
        ]
        tokens = torch.cat(parts, dim=-1).reshape(1, frames * rows * columns, sum(self.half_sizes))
        return tokens.expand(latents.shape[0], -1, -1).to(latents.dtype)


class ExportAttention:
    """Attention processor on ONNX's own RotaryEmbedding and Attention, heads folded: [B, S, H·D] all the way.

    Diffusers' processor assigns to slices, which exports as ScatterND and transposes; this one does not.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return attn's output [B, S, H·D]; context is encoder_hidden_states or, where None, hidden_states."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states))
        key = attn.norm_k(attn.to_k(context))
        if rotary_emb is not None:
            cosines, sines = rotary_emb
            query = torch.onnx.ops.rotary_embedding(query, cosines, sines, interleaved=True, num_heads=attn.heads)
            key = torch.onnx.ops.rotary_embedding(key, cosines, sines, interleaved=True, num_heads=attn.heads)
        mixed, *_ = torch.onnx.ops.attention(
            query, key, attn.to_v(context), q_num_heads=attn.heads, kv_num_heads=attn.heads
        )
        output: torch.Tensor = attn.to_out[0](mixed)
        return output
