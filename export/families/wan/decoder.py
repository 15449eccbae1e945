"""The Wan VAE's decoder as two graphs that hand their caches on: one for the first latent frame, one for the rest.

Diffusers decodes frame by frame with a list of caches, one per causal convolution. Here the caches are explicit:
`decoder_first` gives `state_NN`, `decoder_next` takes them and gives `state_NN_next` (ONNX forbids one name for an input and
an output), which the caller feeds back as `state_NN`.

After the first frame diffusers' caches hold one frame, or a marker "Rep" where a temporal upsampler has seen only one.
Here a state always holds two frames, with zeros in front or for the marker: that is what causal padding makes of them
anyway. So a causal convolution is always: put the state before the input, convolve, keep the last two frames.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...weights import cast_weights
from .causal import STATE_FRAMES, Walk, attend, convolve, normalize


class Decoder(nn.Module):
    """What both graphs share: latent scaling, diffusers' decoder walked with explicit states, pictures made of patches.

    In fp16 convolutions and attention run in half precision; norms are summed in float32; latents, states and frames
    go in and out in float32.
    """

    def __init__(self, vae: Any, compute: torch.dtype, shuffle: int = 1) -> None:
        """shuffle: how many pixels of a row, and rows, an upscaling decoder gives as channels of one."""
        super().__init__()
        self.compute = compute
        self.shuffle = shuffle
        self.patch = vae.config.patch_size or 1
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv
        for module in (self.decoder, self.post_quant_conv):
            cast_weights(module, compute)
        shape = (1, vae.config.z_dim, 1, 1, 1)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(shape), persistent=False)

    def run(self, latent: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return (frames float32 [B, 3, t, H·s, W·s], next states float32 [B, c, 2, h, w]); no states: first frame."""
        walk = _DecoderWalk([state.to(self.compute) for state in states])
        scaled = (latent * self.std + self.mean).to(self.compute)
        frames = walk.decoder(self.decoder, convolve(self.post_quant_conv, scaled))
        pictures = pixel_shuffle(_unpatchify(frames, self.patch), self.shuffle)
        return (pictures.float().clamp(-1.0, 1.0), *(state.float() for state in walk.made))


class DecoderFirst(Decoder):
    """First latent frame [B, C, 1, H, W], normalised, to (frames [B, 3, 1, H·s, W·s], state_00, ...)."""

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the first picture and every state."""
        return self.run(latent, ())


class DecoderNext(Decoder):
    """Later latent frame and states to (frames [B, 3, t, H·s, W·s], state_00_next, ...), t the temporal scale."""

    def forward(self, latent: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the latent frame's pictures and every next state."""
        return self.run(latent, states)


class _DecoderWalk(Walk):
    """One pass over diffusers' decoder modules."""

    def decoder(self, decoder: Any, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.causal(decoder.conv_in, hidden)
        middle = decoder.mid_block
        hidden = self.residual(middle.resnets[0], hidden)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            hidden = self.residual(resnet, attend(attention, hidden))
        for block in decoder.up_blocks:
            hidden = self.up(block, hidden)
        return self.causal(decoder.conv_out, decoder.nonlinearity(normalize(decoder.norm_out, hidden)))

    def up(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one up block, of Wan 2.1 (`upsamplers`) or of the residual kind of Wan 2.2 (`upsampler`, shortcut)."""
        entered = hidden
        for resnet in block.resnets:
            hidden = self.residual(resnet, hidden)
        upsampler = block.upsampler if hasattr(block, "upsampler") else (block.upsamplers or [None])[0]
        if upsampler is not None:
            hidden = self.upsample(upsampler, hidden)
        if getattr(block, "avg_shortcut", None) is not None:
            hidden = hidden + _duplicate(block.avg_shortcut, entered, self.first)
        return hidden

    def upsample(self, resample: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Double height and width and, in time, every latent frame but the first."""
        batch, channels, frames, height, width = hidden.shape
        if resample.mode == "upsample3d" and self.first:
            zero = torch.zeros_like(hidden)
            self.made.append(torch.cat([zero] * STATE_FRAMES, dim=2))
        elif resample.mode == "upsample3d":
            doubled = self.causal(resample.time_conv, hidden).reshape(batch, 2, channels, frames, height, width)
            frames = 2 * frames
            pictures = doubled.permute(0, 3, 1, 2, 4, 5).reshape(batch * frames, channels, height, width)
            return _resize(resample.resample[1], pictures, batch, frames)
        if frames == 1:
            return _resize(resample.resample[1], hidden.squeeze(2), batch, frames)
        pictures = hidden.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
        return _resize(resample.resample[1], pictures, batch, frames)


def _resize(conv: Any, pictures: torch.Tensor, batch: int, frames: int) -> torch.Tensor:
    """Double pictures [B·F, C, H, W] and convolve; return [B, C', F, 2H, 2W].

    Diffusers asks for `nearest-exact`, which at a factor of two copies as `nearest` does.
    """
    pictures = conv(F.interpolate(pictures, scale_factor=2.0, mode="nearest"))
    if frames == 1:
        return pictures.unsqueeze(2)
    _, channels, height, width = pictures.shape
    return pictures.reshape(batch, frames, channels, height, width).permute(0, 2, 1, 3, 4)


def _duplicate(shortcut: Any, hidden: torch.Tensor, first: bool) -> torch.Tensor:
    """Spread channels over time and space as DupUp3D does; the first frame is not doubled in time."""
    batch, channels, frames, height, width = hidden.shape
    in_time, in_space = shortcut.factor_t, shortcut.factor_s
    spread = hidden.unsqueeze(2).expand(batch, channels, shortcut.repeats, frames, height, width)
    spread = spread.reshape(batch, shortcut.out_channels, in_time, in_space, in_space, frames, height, width)
    spread = spread.permute(0, 1, 5, 2, 6, 3, 7, 4)
    size = (batch, shortcut.out_channels, frames * in_time, height * in_space, width * in_space)
    spread = spread.reshape(size)
    return spread[:, :, in_time - 1 :] if first else spread


def _unpatchify(frames: torch.Tensor, patch: int) -> torch.Tensor:
    """Turn [B, 3·p·p, F, H, W] into pictures [B, 3, F, H·p, W·p]."""
    if patch == 1:
        return frames
    batch, channels, count, height, width = frames.shape
    colours = channels // (patch * patch)
    parts = frames.reshape(batch, colours, patch, patch, count, height, width).permute(0, 1, 4, 5, 3, 6, 2)
    return parts.reshape(batch, colours, count, height * patch, width * patch)


def pixel_shuffle(frames: torch.Tensor, factor: int) -> torch.Tensor:
    """Turn [B, 3·r·r, F, H, W] into pictures [B, 3, F, H·r, W·r], in the order of torch's PixelShuffle."""
    if factor == 1:
        return frames
    batch, channels, count, height, width = frames.shape
    colours = channels // (factor * factor)
    parts = frames.reshape(batch, colours, factor, factor, count, height, width).permute(0, 1, 4, 5, 2, 6, 3)
    return parts.reshape(batch, colours, count, height * factor, width * factor)
