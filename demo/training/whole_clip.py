"""Wan's autoencoder on a whole clip at once, for training.

diffusers' `AutoencoderKLWan` walks a clip in chunks, carrying a cache from chunk to chunk; that is right for decoding a
stream and slow for training. These functions run the same modules on all frames in one pass and compute the same
numbers (a test compares them), for the plain (Wan 2.1) and the residual (Wan 2.2) variant.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanResample,
    WanResidualBlock,
    WanResidualDownBlock,
    WanUpBlock,
    patchify,
    unpatchify,
)
from torch import Tensor
from torch.nn import functional as F


def _resample_pictures(module: Any, x: Tensor) -> Tensor:
    batch, channels, frames, height, width = x.shape
    pictures = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
    pictures = module.resample(pictures)
    clip: Tensor = pictures.unflatten(0, (batch, frames)).transpose(1, 2)
    return clip


def _upsample_time(module: Any, x: Tensor) -> Tensor:
    """Keep the first frame; every later one becomes two, from itself and the (later) frames before it."""
    first, later = x[:, :, :1], x[:, :, 1:]
    if later.shape[2] == 0:
        return first
    batch, channels, frames, height, width = later.shape
    pairs = module.time_conv(later).reshape(batch, 2, channels, frames, height, width)
    doubled = pairs.permute(0, 2, 3, 1, 4, 5).reshape(batch, channels, 2 * frames, height, width)
    return torch.cat([first, doubled], dim=2)


def _downsample_time(module: Any, x: Tensor) -> Tensor:
    """Keep the first frame; every later pair becomes one, from itself and the frame before it."""
    if x.shape[2] == 1:
        return x
    return torch.cat([x[:, :, :1], module.time_conv(x)], dim=2)


def _run(module: Any, x: Tensor) -> Tensor:
    if isinstance(module, WanResidualBlock | WanAttentionBlock):
        return module(x)  # type: ignore[no-any-return]
    if isinstance(module, WanResample):
        if module.mode == "upsample3d":
            x = _upsample_time(module, x)
        x = _resample_pictures(module, x)
        return _downsample_time(module, x) if module.mode == "downsample3d" else x
    if isinstance(module, WanResidualDownBlock):
        shortcut = module.avg_shortcut(x)
        for resnet in module.resnets:
            x = resnet(x)
        x = x if module.downsampler is None else _run(module.downsampler, x)
        return x + shortcut  # type: ignore[no-any-return]
    raise TypeError(f"no whole-clip form of {type(module).__name__}")


def _head(coder: Any, x: Tensor) -> Tensor:
    return coder.conv_out(coder.nonlinearity(coder.norm_out(x)))  # type: ignore[no-any-return]


def _middle(coder: Any, x: Tensor) -> Tensor:
    first, second = coder.mid_block.resnets
    return second(coder.mid_block.attentions[0](first(x)))  # type: ignore[no-any-return]


def _up(block: Any, x: Tensor) -> Tensor:
    """Run a block of the decoder, plain or residual; the shortcut drops what the first frame would have doubled to."""
    before = x
    for resnet in block.resnets:
        x = resnet(x)
    if isinstance(block, WanUpBlock):
        return x if block.upsamplers is None else _run(block.upsamplers[0], x)
    if block.upsampler is None:
        return x
    return _run(block.upsampler, x) + block.avg_shortcut(before, first_chunk=True)  # type: ignore[no-any-return]


def encode(vae: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, log variance) of the latents of pictures [B, 3, 1 + 4k, H, W] in [-1, 1]; latents unnormalised."""
    x = patchify(pictures, vae.config.patch_size or 1)
    x = vae.encoder.conv_in(x)
    for module in vae.encoder.down_blocks:
        x = _run(module, x)
    x = vae.quant_conv(_head(vae.encoder, _middle(vae.encoder, x)))
    mean, log_variance = x.chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Return pictures [B, 3, 1 + 4(F-1), H, W], not clamped, of unnormalised latents [B, C, F, h, w]."""
    x = _middle(vae.decoder, vae.decoder.conv_in(vae.post_quant_conv(latents)))
    for block in vae.decoder.up_blocks:
        x = _up(block, x)
    return unpatchify(_head(vae.decoder, x), vae.config.patch_size or 1)  # type: ignore[no-any-return]


def normalise(vae: Any, latents: Tensor) -> Tensor:
    """Return latents in the units the denoiser works in: zero mean and unit deviation per channel."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    return (latents - mean) / deviation


def psnr(reference: Tensor, pictures: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in [-1, 1] after clamping."""
    error = F.mse_loss(pictures.clamp(-1, 1).float(), reference.float()).item()
    return float(10 * torch.log10(torch.tensor(4.0 / max(error, 1e-12))))
