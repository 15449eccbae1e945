"""Write a small random LTX-Video checkpoint in diffusers' layout: real classes, real files, seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from transformers import T5Config, T5EncoderModel

from .tiny_wan import _tokenizer

SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
"""What diffusers' LTX-Video checkpoints, not distilled, have."""


def write_tiny_ltx(
    folder: Path,
    *,
    seed: int = 0,
    depth: int = 2,
    heads: int = 2,
    latent_channels: int = 8,
    decoder_layers: int = 1,
    vae: str = "0.9.5",
    pipeline: str = "LTXPipeline",
    feed_forward: str = "gated-gelu",
    dtype: torch.dtype = torch.float32,
    scheduler: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write the checkpoint and return its folder.

    decoder_layers: resnets of each level of the decoder. vae: whose release's architecture it has: 0.9.0 (not conditioned
    on a timestep), 0.9.1 (noise injected) or 0.9.5. feed_forward: the text encoder's. scheduler: settings of
    FlowMatchEulerDiscreteScheduler in the place of the published ones. extra: content of `edgereel.json`.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    components = {
        "text_encoder": _text_encoder(feed_forward),
        "transformer": _transformer(depth, heads, latent_channels),
        "vae": _vae(vae, latent_channels, decoder_layers),
    }
    for name, module in components.items():
        randomize(module)
        module.to(dtype).save_pretrained(folder / name, safe_serialization=True)
    FlowMatchEulerDiscreteScheduler(**(SCHEDULER if scheduler is None else scheduler)).save_pretrained(
        folder / "scheduler"
    )
    _tokenizer().save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.36.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    if extra is not None:
        (folder / "edgereel.json").write_text(json.dumps(extra) + "\n", encoding="utf-8")
    return folder


def _text_encoder(feed_forward: str) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=64,
            d_model=24,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=3,
            feed_forward_proj=feed_forward,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
        )
    )


def _transformer(depth: int, heads: int, channels: int) -> LTXVideoTransformer3DModel:
    return LTXVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=heads,
        attention_head_dim=16,
        cross_attention_dim=16 * heads,
        num_layers=depth,
        caption_channels=24,
    )


def _vae(release: str, channels: int, decoder_layers: int) -> AutoencoderKLLTXVideo:
    common = {"latent_channels": channels, "patch_size": 4, "patch_size_t": 1}
    if release == "0.9.0":
        return AutoencoderKLLTXVideo(
            **common,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_block_out_channels=(8, 8, 16, 16),
            decoder_layers_per_block=(decoder_layers,) * 5,
        )
    return AutoencoderKLLTXVideo(
        **common,
        block_out_channels=(8, 8, 8, 8, 16),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(8, 16, 32),
        decoder_layers_per_block=(decoder_layers,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(release == "0.9.1",) * 4,
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        timestep_conditioning=True,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )


def randomize(module: torch.nn.Module) -> None:
    """Move every parameter off its initial value, and the latents' mean and deviation: 0 and 1 would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim:  # the decoder's factor of timesteps is a number
                parameter.add_(0.05 * torch.randn_like(parameter))
    if isinstance(module, AutoencoderKLLTXVideo):
        count = len(module.latents_mean)
        module.latents_mean.copy_(torch.linspace(-0.2, 0.3, count))
        module.latents_std.copy_(torch.linspace(0.8, 1.4, count))
