"""T5 encoders (T5 and UMT5) as a torch module shaped for export, which several families take their text from."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention

from ..weights import cast_weights

MASKED_SCORE = -1e9
"""Added to the score of a padding token: its softmax weight is then exactly 0, and 0 · finite stays finite."""


class TextEncoder(nn.Module):
    """What both kinds share: the encoder's blocks on token embeddings, whatever may be attended to.

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
        self.register_buffer("buckets", _buckets(attention, offsets), persistent=False)
        if compute != torch.float32:
            for block in model.encoder.block:
                _cast_children(block.layer[0].SelfAttention, ("q", "k", "v", "o"), compute)
                _cast_children(block.layer[1].DenseReluDense, ("wi", "wi_0", "wi_1"), compute)

    def encode(self, hidden: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """Return embeddings float32 [B, L, D] of tokens' own; padding: what scores [B, 1, 1, L] get added, None: nothing."""
        encoder = self.model.encoder
        position = torch.arange(hidden.shape[1])
        distance = (position[None, :] - position[:, None]).clamp(-self.reach, self.reach) + self.reach
        buckets = self.buckets.index_select(0, distance.flatten()).reshape(distance.shape)
        bias = None
        for block in encoder.block:
            mixed, bias = self._attend(block.layer[0], hidden, buckets, padding, bias)
            hidden = hidden + mixed
            hidden = hidden + self._feed_forward(block.layer[1], hidden)
        return _rms_norm(encoder.final_layer_norm, hidden)

    def _attend(
        self,
        layer: Any,
        hidden: torch.Tensor,
        buckets: torch.Tensor,
        padding: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what a block's attention adds, and the bias of its scores, which is the next block's unless that has one."""
        attention = layer.SelfAttention
        normed = _rms_norm(layer.layer_norm, hidden).to(self.compute)
        if attention.has_relative_attention_bias:  # UMT5 has one in every block, T5 in the first for all
            bias = attention.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        mixed, *_ = torch.onnx.ops.attention(
            attention.q(normed).float(),
            attention.k(normed).float(),
            attention.v(normed).float(),
            bias if padding is None or bias is None else bias + padding,
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=1.0,
        )
        output: torch.Tensor = attention.o(mixed.to(self.compute))
        return output.float(), bias

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


class MaskedTextEncoder(TextEncoder):
    """Ids and mask [B, L] to embeddings [B, L, D], zero at padding: what is padded is neither attended to nor seen."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return prompt embeddings float32 [B, L, D]; rows where the mask is 0 are zero."""
        hidden = self.model.encoder.embed_tokens(input_ids)
        keep = attention_mask.to(torch.float32)
        padding = ((1.0 - keep) * MASKED_SCORE)[:, None, None, :]
        return self.encode(hidden, padding) * keep[:, :, None]


class UnmaskedTextEncoder(TextEncoder):
    """Ids [B, L], padding among them, to embeddings [B, L, D]: every token attends to the padding as to any other."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return prompt embeddings float32 [B, L, D]."""
        return self.encode(self.model.encoder.embed_tokens(input_ids), None)


def _buckets(attention: Any, offsets: torch.Tensor) -> torch.Tensor:
    """Return the bucket of each relative position, which the two classes are asked for in different ways."""
    if not isinstance(attention, T5Attention):
        found: torch.Tensor = attention._relative_position_bucket(offsets)
        return found
    buckets: torch.Tensor = T5Attention._relative_position_bucket(
        offsets,
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return buckets


def _rms_norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _cast_children(module: nn.Module, names: tuple[str, ...], dtype: torch.dtype) -> None:
    for name in names:
        if hasattr(module, name):
            cast_weights(getattr(module, name), dtype)
