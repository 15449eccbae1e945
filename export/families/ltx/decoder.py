"""The LTX VAE's decoder as one graph over the whole clip: it is not causal, each frame depends on those after it.

From 0.9.1 on the decoder also removes the last of the noise: latents are mixed with a little fresh noise, and every block
is modulated by that noise level's embedding. The level never changes, so its embeddings are constants of the graph.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...weights import cast_weights

NORM_EPSILON = 1e-8  # of diffusers' RMSNorm in every block and before the last convolution


class Decoder(nn.Module):
    """Latents [B, C, F, H, W], normalised, and noise of their shape to all pictures [B, 3, 1 + 8·(F - 1), H·s, W·s].

    Without timestep conditioning there is no noise. In fp16 convolutions run in half precision; norms are summed in float32.
    """

    def __init__(self, vae: Any, compute: torch.dtype, timestep: float, noise_scale: float) -> None:
        """timestep, noise_scale: the noise level of the last of the noise, and the share of fresh noise mixed in."""
        super().__init__()
        self.compute = compute
        self.decoder = vae.decoder
        self.patch = vae.config.patch_size
        self.noise_scale = noise_scale
        self.conditioned = vae.config.timestep_conditioning
        if self.conditioned:
            self._embed_timestep(timestep)
        cast_weights(vae.decoder, compute)
        shape = (1, -1, 1, 1, 1)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", vae.latents_mean.view(shape).float(), persistent=False)
        self.register_buffer("std", vae.latents_std.view(shape).float() / vae.config.scaling_factor, persistent=False)

    def forward(self, latents: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pictures, float32 in [-1, 1]."""
        decoder = self.decoder
        hidden = latents * self.std + self.mean
        if noise is not None:
            hidden = (1 - self.noise_scale) * hidden + self.noise_scale * noise
        hidden = _convolve(decoder.conv_in, hidden.to(self.compute))
        for index, resnet in enumerate(decoder.mid_block.resnets):
            hidden = self._residual(f"mid_{index}", resnet, hidden)
        for level, block in enumerate(decoder.up_blocks):
            if block.conv_in is not None:
                hidden = self._residual(f"up_{level}_in", block.conv_in, hidden)
            for upsampler in block.upsamplers or ():
                hidden = _upsample(upsampler, hidden)
            for index, resnet in enumerate(block.resnets):
                hidden = self._residual(f"up_{level}_{index}", resnet, hidden)
        hidden = self._modulate("out", 0, _norm(hidden))
        pixels = _convolve(decoder.conv_out, F.silu(hidden)).float()
        return _unpatchify(pixels, self.patch).clamp(-1.0, 1.0)

    @torch.no_grad()
    def _embed_timestep(self, timestep: float) -> None:
        """Keep what each block makes of the timestep: shift and scale by channel, twice in residual blocks."""
        decoder = self.decoder
        level = (torch.tensor([timestep]) * decoder.timestep_scale_multiplier).float()
        blocks = [
            ("mid", decoder.mid_block),
            *((f"up_{index}", block) for index, block in enumerate(decoder.up_blocks)),
        ]
        for name, block in blocks:
            embedded = _embedding(block.time_embedder, level)
            for index, resnet in enumerate(block.resnets):
                self._keep(f"{name}_{index}", resnet.scale_shift_table, embedded)
        self._keep("out", decoder.scale_shift_table, _embedding(decoder.time_embedder, level))

    def _keep(self, name: str, table: torch.Tensor, embedded: torch.Tensor) -> None:
        rows = (table + embedded.reshape(table.shape)).detach().to(self.compute)
        self.register_buffer(f"modulation_{name}", rows.reshape(*table.shape, 1, 1, 1), persistent=False)

    def _modulate(self, name: str, at: int, hidden: torch.Tensor) -> torch.Tensor:
        """Shift and scale by the rows at and at + 1 of a block's table."""
        if not self.conditioned:
            return hidden
        table: torch.Tensor = getattr(self, f"modulation_{name}")
        return hidden * (1 + table[at + 1]) + table[at]

    def _residual(self, name: str, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        inner = F.silu(self._modulate(name, 0, _norm(hidden)))
        inner = _convolve(block.conv1, inner)
        inner = F.silu(self._modulate(name, 2, _norm(inner)))
        inner = _convolve(block.conv2, inner)
        if block.norm3 is not None:
            norm = block.norm3
            last = hidden.movedim(1, -1).float()
            last = F.layer_norm(last, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
            hidden = last.movedim(-1, 1).to(self.compute)
        return inner + (hidden if block.conv_shortcut is None else _convolve(block.conv_shortcut, hidden))


def _embedding(embedder: Any, level: torch.Tensor) -> torch.Tensor:
    embedded: torch.Tensor = embedder(
        timestep=level, resolution=None, aspect_ratio=None, batch_size=1, hidden_dtype=torch.float32
    )
    return embedded


def _norm(hidden: torch.Tensor) -> torch.Tensor:
    """Divide each position by the root of its channels' mean square, as RMSNorm over the channels does."""
    square = hidden.float().square().mean(dim=1, keepdim=True)
    return hidden * torch.rsqrt(square + NORM_EPSILON).to(hidden.dtype)


def _convolve(conv: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Apply an LTXVideoCausalConv3d that is not causal: the first and the last frame stand for those beyond the clip."""
    beside = (conv.kernel_size[0] - 1) // 2
    if beside:
        hidden = torch.cat([*[hidden[:, :, :1]] * beside, hidden, *[hidden[:, :, -1:]] * beside], dim=2)
    output: torch.Tensor = conv.conv(hidden)
    return output


def _upsample(upsampler: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Double frames, rows and columns out of channels; of the first frame one picture is left."""
    doubled = _spread(_convolve(upsampler.conv, hidden), upsampler.stride)
    if upsampler.residual:
        repeats = (upsampler.stride[0] * upsampler.stride[1] * upsampler.stride[2]) // upsampler.upscale_factor
        doubled = doubled + _spread(hidden, upsampler.stride).repeat(1, repeats, 1, 1, 1)
    return doubled[:, :, upsampler.stride[0] - 1 :]


def _spread(hidden: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """Return [B, C·t·h·w, F, H, W] as [B, C, F·t, H·h, W·w]."""
    in_time, in_height, in_width = stride
    batch, channels, frames, height, width = hidden.shape
    count = channels // (in_time * in_height * in_width)
    parts = hidden.reshape(batch, count, in_time, in_height, in_width, frames, height, width)
    parts = parts.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(batch, count, frames * in_time, height * in_height, width * in_width)


def _unpatchify(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """Return [B, 3·p·p, F, H, W] as pictures [B, 3, F, H·p, W·p]: a patch's columns before its rows."""
    batch, channels, frames, height, width = pixels.shape
    colours = channels // (patch * patch)
    parts = pixels.reshape(batch, colours, patch, patch, frames, height, width).permute(0, 1, 4, 5, 3, 6, 2)
    return parts.reshape(batch, colours, frames, height * patch, width * patch)
