"""A tiny decoder of the TAEHV family (github.com/madebyollin/taehv, MIT), written anew from the layout of its files.

It works on each frame alone but for its memory blocks, which see their own input of one frame earlier, zeros before the
first. So what it hands on from latent frame to latent frame is the last frame that each memory block saw. Latents go in
normalised; pictures come out in [0, 1]. The first latent frame's pictures but the last are dropped: they lie before the clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ....weights import cast_weights
from .layout import COLOURS, TinyShape

BOUND = 3
"""Latents are bounded softly to plus and minus this."""
BLOCKS = 3
"""Memory blocks of a stage."""


class Bound(nn.Module):
    """Bound latents softly."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return as many values as came in, within BOUND."""
        return torch.tanh(hidden / BOUND) * BOUND


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _convolution(2 * width, width), nn.ReLU(), _convolution(width, width), nn.ReLU(), _convolution(width, width)
        )

    def forward(self, hidden: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """hidden, before: [N, width, h, w]."""
        return F.relu(self.conv(torch.cat([hidden, before], dim=1)) + hidden)


class Grow(nn.Module):
    """Make frames of channels: `stride` of each."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [N·stride, width, h, w] of [N, width, h, w], each frame's own after one another."""
        grown: torch.Tensor = self.conv(hidden)
        if self.stride == 1:
            return grown
        return grown.reshape(grown.shape[0] * self.stride, self.width, grown.shape[2], grown.shape[3])


class TinyDecoder(nn.Module):
    """The network, its layers under the names that files have: `decoder.0` to `decoder.22`."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.widths
        layers: list[nn.Module] = [Bound(), _convolution(shape.channels, widths[0]), nn.ReLU()]
        for index, stride in enumerate(shape.grow):
            layers += [MemoryBlock(widths[index]) for _ in range(BLOCKS)]
            layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), Grow(widths[index], stride)]
            layers += [_convolution(widths[index], widths[index + 1], bias=False)]
        layers += [nn.ReLU(), _convolution(widths[-1], COLOURS * shape.patch**2)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures [B, 3, 1 + t·(F - 1), H·s, W·s] in [-1, 1] of whole clips of latents [B, C, F, H, W]."""
        batch = latents.shape[0]
        hidden = latents.transpose(1, 2).flatten(0, 1)
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                frames = hidden.reshape(batch, -1, *hidden.shape[1:])
                hidden = layer(hidden, torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], 1).flatten(0, 1))
            else:
                hidden = layer(hidden)
        pictures = F.pixel_shuffle(hidden, self.shape.patch)
        frames = pictures.reshape(batch, -1, *pictures.shape[1:]).transpose(1, 2)
        return _pictures(frames[:, :, self.shape.temporal_scale - 1 :])


class TinyStream(nn.Module):
    """What both graphs share: the network walked with explicit states.

    In fp16 all of it runs in half precision; latents, states and frames go in and out in float32.
    """

    def __init__(
        self, tiny: TinyDecoder, compute: torch.dtype, scale: tuple[torch.Tensor, torch.Tensor] | None
    ) -> None:
        """scale: mean and deviation of each channel, for a network that takes latents as they were before normalising."""
        super().__init__()
        self.compute = compute
        self.shape, self.decoder = tiny.shape, tiny.decoder
        self.steps = _pointwise_first(list(tiny.decoder))
        cast_weights(self.decoder, compute)
        self.scaled = scale is not None
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name, values in zip(("mean", "std"), scale or (torch.zeros(1), torch.ones(1)), strict=True):
            self.register_buffer(name, values.reshape(1, -1, 1, 1), persistent=False)

    def run(self, latent: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return (frames float32 [B, 3, t, H·s, W·s], next states float32 [B, c, 1, h, w]); no states: first frame."""
        hidden, batch = latent.squeeze(2), latent.shape[0]
        hidden = (hidden * self.std + self.mean if self.scaled else hidden).to(self.compute)
        given, made, frames, first = iter(states), [], 1, not states
        blocks = BLOCKS * len(self.shape.grow)
        for layer in self.steps:
            if isinstance(layer, MemoryBlock):
                before = torch.zeros_like(hidden[::frames]) if first else next(given).to(self.compute).squeeze(2)
                made.append(hidden[frames - 1 :: frames].unsqueeze(2).float())
                if frames > 1:
                    apart = hidden.reshape(batch, frames, *hidden.shape[1:])
                    before = torch.cat([before.unsqueeze(1), apart[:, :-1]], dim=1).reshape(hidden.shape)
                hidden = layer(hidden, before)
                if first and len(made) == blocks:  # of the pictures only the last is shown
                    hidden, frames = hidden[frames - 1 :: frames], 1
            elif isinstance(layer, Grow):
                hidden, frames = layer(hidden), frames * layer.stride
            else:
                hidden = layer(hidden)
        pictures = F.pixel_shuffle(hidden, self.shape.patch) if self.shape.patch > 1 else hidden
        if first:
            return (_pictures(pictures[frames - 1 :: frames].unsqueeze(2).float()), *made)
        apart = pictures.reshape(batch, frames, *pictures.shape[1:]).transpose(1, 2)
        return (_pictures(apart.float()), *made)


class TinyFirst(TinyStream):
    """First latent frame [B, C, 1, H, W], normalised, to (frames [B, 3, 1, H·s, W·s], state_00, ...)."""

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the first picture and every state."""
        return self.run(latent, ())


class TinyNext(TinyStream):
    """Later latent frame and states to (frames [B, 3, t, H·s, W·s], state_00_next, ...), t the temporal scale."""

    def forward(self, latent: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the latent frame's pictures and every next state."""
        return self.run(latent, states)


def state_sizes(shape: TinyShape) -> list[tuple[int, int]]:
    """Return (channels, factor of the latents' height and width) of every state."""
    return [(shape.widths[stage], 2**stage) for stage in range(len(shape.grow)) for _ in range(BLOCKS)]


def _pointwise_first(layers: list[nn.Module]) -> list[nn.Module]:
    """Return the same work, where frames grow before pixels are copied: there is a quarter of them then."""
    order = list(layers)
    for index in range(len(order) - 1):
        if isinstance(order[index], nn.Upsample) and isinstance(order[index + 1], Grow):
            order[index : index + 2] = order[index + 1], order[index]
    return order


def _pictures(unit: torch.Tensor) -> torch.Tensor:
    return unit.clamp(0, 1) * 2 - 1


def _convolution(inner: int, outer: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, bias=bias)
