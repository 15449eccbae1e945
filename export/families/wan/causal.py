"""What the Wan VAE's encoder and decoder share as streams: causal convolutions whose caches are explicit.

A state holds the frames that a convolution saw before. A new pass puts it before its input, convolves, and keeps the last
frames as the next state. The first pass has zeros there, which is what causal padding is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

STATE_FRAMES = 2
NORM_FLOOR = 1e-12  # torch.nn.functional.normalize's, which WanRMS_norm calls


class Walk:
    """One pass over diffusers' VAE modules. `given`: states in order of use, none for the first frame."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        self.first = not given
        self.given = iter(given)
        self.made: list[torch.Tensor] = []

    def causal(self, conv: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Convolve over the state's two frames and the new ones; keep the last two as the next state."""
        zeros_before = (0, 0, 0, 0, STATE_FRAMES, 0)
        joined = F.pad(hidden, zeros_before) if self.first else torch.cat([next(self.given), hidden], dim=2)
        self.made.append(joined[:, :, -STATE_FRAMES:])
        return convolve(conv, joined)

    def residual(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run a WanResidualBlock."""
        inner = self.causal(block.conv1, block.nonlinearity(normalize(block.norm1, hidden)))
        inner = self.causal(block.conv2, block.nonlinearity(normalize(block.norm2, inner)))
        shortcut = hidden if isinstance(block.conv_shortcut, nn.Identity) else convolve(block.conv_shortcut, hidden)
        return inner + shortcut


def convolve(conv: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Apply a WanCausalConv3d whose padding in time is in the input already; its padding in space is done here."""
    columns, _, rows, *_ = conv._padding
    return F.conv3d(hidden, conv.weight, conv.bias, conv.stride, (0, rows, columns))


def normalize(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Scale each position to length sqrt(channels), then by gamma, as WanRMS_norm does."""
    length = hidden.float().norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR).to(hidden.dtype)
    normed: torch.Tensor = hidden / length * (layer.gamma * layer.scale)
    return normed + layer.bias if isinstance(layer.bias, torch.Tensor) else normed


def attend(block: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Attend over one frame's positions with a single head; hidden [B, C, 1, H, W] in and out."""
    pictures = hidden.squeeze(2)
    batch, channels, height, width = pictures.shape
    tokens = normalize(block.norm, pictures).flatten(2).transpose(1, 2)
    query, key, value = F.linear(tokens, block.to_qkv.weight.flatten(1), block.to_qkv.bias).chunk(3, dim=-1)
    mixed, *_ = torch.onnx.ops.attention(query, key, value, q_num_heads=1, kv_num_heads=1)
    mixed = F.linear(mixed, block.proj.weight.flatten(1), block.proj.bias)
    return mixed.transpose(1, 2).reshape(batch, channels, 1, height, width) + hidden
