"""What to train, how large and for how long: one record per preset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Geometry, model configurations and schedule of one training run.

    vae, transformer, text_encoder: keyword arguments of the diffusers and transformers classes.
    latent_clips: number of clips whose latents are cached for the denoiser.
    distill_trajectories: number of the teacher's samplings that the student learns from.
    """

    name: str
    width: int
    height: int
    frames: int
    fps: int
    vae: dict[str, Any]
    transformer: dict[str, Any]
    text_encoder: dict[str, Any]
    vae_steps: int
    decoder_steps: int
    vae_batch: int
    vae_pool: int
    latent_clips: int
    denoiser_steps: int
    denoiser_batch: int
    distill_trajectories: int
    distill_steps: int
    vae_learning_rate: float = 5e-3
    vae_window: int = 9
    kl_weight: float = 1e-4
    denoiser_learning_rate: float = 5e-3
    caption_dropout: float = 0.1
    timestep_shift: float = 1.5
    distill_batch: int = 64
    distill_learning_rate: float = 1.5e-3
    max_tokens: int = 24
    seed: int = 20260101
    recipe: dict[str, Any] = field(default_factory=lambda: {"shift": 3.0})


def _vae(encoder: int, decoder: int, channels: int) -> dict[str, Any]:
    """Return a small patchified Wan autoencoder: 16x smaller in height and width, 4x in time."""
    return {
        "base_dim": encoder,
        "decoder_base_dim": decoder,
        "z_dim": channels,
        "dim_mult": [1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "in_channels": 48,
        "out_channels": 48,
        "patch_size": 4,
        "is_residual": True,
        "scale_factor_spatial": 16,
        "scale_factor_temporal": 4,
        "latents_mean": [0.0] * channels,
        "latents_std": [1.0] * channels,
    }


def _transformer(channels: int, heads: int, head_size: int, layers: int, text: int) -> dict[str, Any]:
    return {
        "patch_size": [1, 1, 1],
        "num_attention_heads": heads,
        "attention_head_dim": head_size,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": text,
        "freq_dim": 256,
        "ffn_dim": 4 * heads * head_size,
        "num_layers": layers,
        "rope_max_seq_len": 256,
    }


def _text_encoder(size: int) -> dict[str, Any]:
    return {
        "d_model": size,
        "d_kv": 32,
        "num_heads": size // 32,
        "d_ff": 2 * size,
        "num_layers": 2,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
    }


PRESETS = {
    "cpu": Preset(
        name="cpu",
        width=64,
        height=64,
        frames=17,
        fps=8,
        vae=_vae(encoder=40, decoder=56, channels=24),
        transformer=_transformer(channels=24, heads=4, head_size=48, layers=6, text=128),
        text_encoder=_text_encoder(128),
        vae_steps=3200,
        decoder_steps=1500,
        vae_batch=4,
        vae_pool=2048,
        latent_clips=16384,
        denoiser_steps=2500,
        denoiser_batch=64,
        distill_trajectories=5120,
        distill_steps=2000,
    ),
    "gpu": Preset(
        name="gpu",
        width=128,
        height=128,
        frames=33,
        fps=16,
        vae=_vae(encoder=40, decoder=56, channels=24),
        transformer=_transformer(channels=24, heads=4, head_size=48, layers=6, text=128),
        text_encoder=_text_encoder(128),
        vae_steps=6000,
        decoder_steps=1500,
        vae_batch=16,
        vae_pool=2048,
        latent_clips=8192,
        denoiser_steps=8000,
        denoiser_batch=128,
        distill_trajectories=8192,
        distill_steps=4000,
    ),
}
