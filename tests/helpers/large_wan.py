"""Write a checkpoint of Wan 2.2 TI2V-5B's size with seeded random weights, a tensor at a time: no model is ever in memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from helpers.tiny_wan import write_tiny_wan

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 14336,
    "num_layers": 30,
    "cross_attn_norm": True,
    "rope_max_seq_len": 1024,
}
AUTOENCODER: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "latents_mean": [0.01 * index - 0.2 for index in range(48)],
    "latents_std": [0.5 + 0.02 * index for index in range(48)],
}
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 64, "d_model": 4096, "d_kv": 64, "d_ff": 256, "num_layers": 1, "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
"""As wide as the real one; its depth says nothing about the denoiser."""
BLOCK = 2**22


def write_large_wan(folder: Path, seed: int) -> Path:
    """Write the checkpoint, bfloat16, 11 GB, and return its folder."""
    write_tiny_wan(folder, seed=seed, begins="held", vae_levels=3, residual=True, vae_patch=2)
    with init_empty_weights():
        made: dict[str, Any] = {
            "transformer": WanTransformer3DModel(**TRANSFORMER),
            "vae": AutoencoderKLWan(**AUTOENCODER),
            "text_encoder": UMT5EncoderModel(UMT5Config(**TEXT_ENCODER)),
        }
    random = np.random.default_rng(seed)
    for name, module in made.items():
        place = folder / name
        for path in place.iterdir():
            path.unlink()
        module.config.save_pretrained(place) if name == "text_encoder" else module.save_config(place)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        _write(place / f"{stem}.safetensors", dict(module.state_dict()), random)
    return folder


def _write(path: Path, tensors: dict[str, Any], random: np.random.Generator) -> None:
    """Write bfloat16 tensors: matrices of variance 1 / inputs, vectors near 1 (scales) or 0 (the rest)."""
    header: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        size = 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    noise = random.standard_normal(BLOCK, dtype=np.float32)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            wide = tensor.ndim > 1 and not name.endswith("gamma")
            scale = 1 / (tensor[0].numel() ** 0.5) if wide else 0.1
            shift = 1.0 if not wide and name.endswith(("weight", "gamma")) else 0.0
            for begin in range(0, tensor.numel(), BLOCK):
                # The same numbers from another place, times another factor: no two tensors are alike.
                part = np.roll(noise, int(random.integers(BLOCK)))[: tensor.numel() - begin]
                values = torch.from_numpy(part * np.float32(scale * random.uniform(0.9, 1.1)) + np.float32(shift))
                file.write(values.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
