"""The Wan VAE's encoder as two graphs that hand their caches on: one for the first picture, one for the rest.

The counterpart of decoder.py. `encoder_first` takes one picture, `encoder_next` as many as a latent frame stands for; both
give one normalised latent frame: the mean of its distribution, as diffusers' pipelines take it. A temporal downsampler
hands on one frame rather than two, and passes the first frame on as it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock, WanResidualDownBlock
from torch import nn

from ...weights import cast_weights
from .causal import Walk, attend, convolve, normalize


class Encoder(nn.Module):
    """What both graphs share: patches made of pictures, diffusers' encoder walked with explicit states, latent scaling.

    In fp16 convolutions and attention run in half precision; norms are summed in float32; pictures, states and latents
    go in and out in float32.
    """

    def __init__(self, vae: Any, compute: torch.dtype) -> None:
        super().__init__()
        self.compute = compute
        self.patch = vae.config.patch_size or 1
        self.channels = vae.config.z_dim
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        for module in (self.encoder, self.quant_conv):
            cast_weights(module, compute)
        shape = (1, self.channels, 1, 1, 1)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(shape), persistent=False)

    def run(self, pictures: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return (latent float32 [B, C, 1, H, W], next states float32 [B, c, 2 or 1, h, w]); no states: first picture."""
        walk = _EncoderWalk([state.to(self.compute) for state in states])
        encoded = walk.encoder(self.encoder, _patchify(pictures, self.patch).to(self.compute))
        mean = convolve(self.quant_conv, encoded)[:, : self.channels].float()
        return ((mean - self.mean) / self.std, *(state.float() for state in walk.made))


class EncoderFirst(Encoder):
    """First picture [B, 3, 1, H·s, W·s] in [-1, 1] to (latent [B, C, 1, H, W], state_00, ...)."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the first latent frame and every state."""
        return self.run(pictures, ())


class EncoderNext(Encoder):
    """Later pictures [B, 3, t, H·s, W·s] and states to (latent [B, C, 1, H, W], state_00_next, ...)."""

    def forward(self, pictures: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the pictures' latent frame and every next state."""
        return self.run(pictures, states)


class _EncoderWalk(Walk):
    """One pass over diffusers' encoder modules."""

    def encoder(self, encoder: Any, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.causal(encoder.conv_in, hidden)
        for block in encoder.down_blocks:
            hidden = self.down(block, hidden)
        middle = encoder.mid_block
        hidden = self.residual(middle.resnets[0], hidden)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            hidden = self.residual(resnet, attend(attention, hidden))
        return self.causal(encoder.conv_out, encoder.nonlinearity(normalize(encoder.norm_out, hidden)))

    def down(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one entry of `down_blocks`: a layer of Wan 2.1's encoder or a whole level of Wan 2.2's."""
        if isinstance(block, WanResidualBlock):
            return self.residual(block, hidden)
        if isinstance(block, WanResample):
            return self.downsample(block, hidden)
        if not isinstance(block, WanResidualDownBlock):
            raise TypeError(f"no rule for a {type(block).__name__} in the encoder")
        entered = hidden
        for resnet in block.resnets:
            hidden = self.residual(resnet, hidden)
        if block.downsampler is not None:
            hidden = self.downsample(block.downsampler, hidden)
        return hidden + _average(block.avg_shortcut, entered)

    def downsample(self, resample: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Halve height and width and, in time, all frames but the first."""
        batch, channels, frames, height, width = hidden.shape
        if frames == 1:
            hidden = resample.resample(hidden.squeeze(2)).unsqueeze(2)
        else:
            pictures = hidden.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
            halved = resample.resample(pictures).reshape(batch, frames, channels, height // 2, width // 2)
            hidden = halved.permute(0, 2, 1, 3, 4)
        if resample.mode == "downsample3d":
            self.made.append(hidden[:, :, -1:])
            if not self.first:
                hidden = convolve(resample.time_conv, torch.cat([next(self.given), hidden], dim=2))
        return hidden


def _average(shortcut: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Average groups of channels and positions as AvgDown3D does, a frame of zeros before what does not fill a group."""
    in_time, in_space = shortcut.factor_t, shortcut.factor_s
    if missing := -hidden.shape[2] % in_time:
        hidden = F.pad(hidden, (0, 0, 0, 0, missing, 0))
    batch, channels, frames, height, width = hidden.shape
    size = (frames // in_time, height // in_space, width // in_space)
    parts = hidden.reshape(batch, channels, size[0], in_time, size[1], in_space, size[2], in_space)
    parts = parts.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return parts.reshape(batch, shortcut.out_channels, shortcut.group_size, *size).mean(dim=2)


def _patchify(pictures: torch.Tensor, patch: int) -> torch.Tensor:
    """Turn pictures [B, 3, F, H·p, W·p] into [B, 3·p·p, F, H, W]."""
    if patch == 1:
        return pictures
    batch, colours, count, height, width = pictures.shape
    parts = pictures.reshape(batch, colours, count, height // patch, patch, width // patch, patch)
    parts = parts.permute(0, 1, 6, 4, 2, 3, 5)
    return parts.reshape(batch, colours * patch * patch, count, height // patch, width // patch)
