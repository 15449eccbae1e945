"""The Wan family's networks as torch modules shaped for export.

They run the real diffusers and transformers submodules with their own weights; only the parts that would export badly
(attention layouts, rotary tables, relative position buckets, decoder caches) are written anew, on operators that ONNX
opset 23 has whole. Every module takes and returns float32 (and int64) whatever it computes in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...weights import cast_own_weights, cast_weights

MASKED_SCORE = -1e9
"""Added to the score of a padding token: its softmax weight is then exactly 0, and 0 · finite stays finite."""


class TextEncoder(nn.Module):
    """UMT5 encoder: ids and mask [B, L] to embeddings [B, L, D], zero at padding as WanPipeline makes them.

    In fp16 the projections run in half precision; residual stream, norms, scores, the gated product and the
    feed-forward output projection stay in float32, where T5 encoders are known to overflow otherwise.
    """

    def __init__(self, model: Any, compute: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute = compute
        config = model.config
        self.heads = config.num_heads
        self.activation = config.dense_act_fn
        attention = model.encoder.block[0].layer[0].SelfAttention
        self.reach = config.relative_attention_max_distance
        # Beyond max_distance every position shares the last bucket, so a table over [-reach, reach] is complete.
        offsets = torch.arange(-self.reach, self.reach + 1)
        self.buckets: torch.Tensor
        self.register_buffer("buckets", attention._relative_position_bucket(offsets), persistent=False)
        if compute != torch.float32:
            for block in model.encoder.block:
                _cast_children(block.layer[0].SelfAttention, ("q", "k", "v", "o"), compute)
                _cast_children(block.layer[1].DenseReluDense, ("wi", "wi_0", "wi_1"), compute)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return prompt embeddings float32 [B, L, D]; rows where the mask is 0 are zero."""
        encoder = self.model.encoder
        hidden = encoder.embed_tokens(input_ids)
        keep = attention_mask.to(torch.float32)
        padding = ((1.0 - keep) * MASKED_SCORE)[:, None, None, :]
        position = torch.arange(input_ids.shape[1])
        distance = (position[None, :] - position[:, None]).clamp(-self.reach, self.reach) + self.reach
        buckets = self.buckets.index_select(0, distance.flatten()).reshape(distance.shape)
        for block in encoder.block:
            hidden = hidden + self._attend(block.layer[0], hidden, buckets, padding)
            hidden = hidden + self._feed_forward(block.layer[1], hidden)
        return _rms_norm(encoder.final_layer_norm, hidden) * keep[:, :, None]

    def _attend(self, layer: Any, hidden: torch.Tensor, buckets: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        attention = layer.SelfAttention
        normed = _rms_norm(layer.layer_norm, hidden).to(self.compute)
        bias = attention.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        mixed, *_ = torch.onnx.ops.attention(
            attention.q(normed).float(),
            attention.k(normed).float(),
            attention.v(normed).float(),
            bias + padding,
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=1.0,
        )
        output: torch.Tensor = attention.o(mixed.to(self.compute))
        return output.float()

    def _feed_forward(self, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        dense = layer.DenseReluDense
        normed = _rms_norm(layer.layer_norm, hidden).to(self.compute)
        if hasattr(dense, "wi_0"):
            inner = self._activate(dense.wi_0(normed).float(), dense) * dense.wi_1(normed).float()
        else:
            inner = self._activate(dense.wi(normed).float(), dense)
        output: torch.Tensor = dense.wo(inner)
        return output

    def _activate(self, values: torch.Tensor, dense: Any) -> torch.Tensor:
        if self.activation in ("gelu_new", "gelu_pytorch_tanh"):
            return F.gelu(values, approximate="tanh")
        activated: torch.Tensor = dense.act(values)
        return activated


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


def _rms_norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _cast_children(module: nn.Module, names: tuple[str, ...], dtype: torch.dtype) -> None:
    for name in names:
        if hasattr(module, name):
            cast_weights(getattr(module, name), dtype)
