"""A tiny decoder with memory blocks, shaped as the TAEHV family (github.com/madebyollin/taehv), and far narrower.

Latents go in normalised, pictures come out in [0, 1]. Time is remembered by blocks that see their own input of one frame
before; the first latent frame's pictures but the last are dropped, so that frames 1 + 4k fit Wan's autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (96, 56, 24, 16)
GROW = (1, 2, 2)
PATCH = 2
PICTURES = 4


def _conv(inner: int, outer: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, bias=bias)


class Clamp(nn.Module):
    """Bound latents softly to [-3, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return as many numbers as came in."""
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = _conv(width, width)
        # A block begins as little more than its input: what begins larger is soon all below zero, and stays there.
        with torch.no_grad():
            last.weight.mul_(0.1)
        self.conv = nn.Sequential(_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), last)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x, before: [N, width, h, w]."""
        return F.relu(self.conv(torch.cat([x, before], dim=1)) + x)


class Grow(nn.Module):
    """Make `stride` frames of each."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)


@dataclass
class Memory:
    """The last frame that each memory block saw, [B, width, h, w]; none at a film's start."""

    frames: list[Tensor] = field(default_factory=list)


class TinyDecoder(nn.Module):
    """TAEHV's decoder: `decoder.0` to `decoder.22`, as the published files name them."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = [Clamp(), _conv(channels, widths[0]), nn.ReLU()]
        for index, stride in enumerate(GROW):
            layers += [MemoryBlock(widths[index]) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), Grow(widths[index], stride)]
            layers += [_conv(widths[index], widths[index + 1], bias=False)]
        layers += [nn.ReLU(), _conv(widths[3], 3 * PATCH**2)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latents: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Return pictures [B, 3, T, H, W], in [0, 1] but not clamped, and the memory to go on with.

        latents: [B, C, F, h, w]. T is 1 + 4(F - 1) at a film's start, where no memory is given, else 4F.
        """
        batch = latents.shape[0]
        x, kept = latents.transpose(1, 2).flatten(0, 1), Memory()
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                frames = x.reshape(batch, -1, *x.shape[1:])
                first = torch.zeros_like(frames[:, 0]) if memory is None else memory.frames[len(kept.frames)]
                kept.frames.append(frames[:, -1])
                x = layer(x, torch.cat([first[:, None], frames[:, :-1]], dim=1).flatten(0, 1))
            elif isinstance(layer, Grow):
                x = layer.conv(x).reshape(-1, *x.shape[1:])
            else:
                x = layer(x)
        x = F.pixel_shuffle(x, PATCH)
        pictures = x.reshape(batch, -1, *x.shape[1:]).transpose(1, 2)
        return (pictures[:, :, PICTURES - 1 :] if memory is None else pictures), kept
