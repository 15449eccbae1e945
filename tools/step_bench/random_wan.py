"""Wan 2.1 1.3B as published, in configuration and size, with seeded random weights: what stands in for a download.

The text encoder is the exception: as wide as UMT5-XXL outside (4,096) and small inside, unless layers of its real width are
asked for: 24 of them, with the table of 256,384 tokens, are 5.7 G parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
VAE: dict[str, Any] = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "latents_mean": [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                     0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921],
    "latents_std": [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160],
}  # fmt: skip
TEXT_ENCODER: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 1,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
}
UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256_384,
    "d_model": 4096,
    "d_kv": 64,
    "num_heads": 64,
    "d_ff": 10_240,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
}
_INDEX = {
    "_class_name": "WanPipeline",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def write_random_wan(
    folder: Path, *, layers: int = 30, umt5_layers: int | None = None, seed: int = 0, shard_size: str = "1GB"
) -> Path:
    """Write the checkpoint in diffusers' layout, bfloat16, sharded, and return its folder (2.9 GB at 30 layers).

    umt5_layers: None for the small text encoder, or how many layers of UMT5-XXL's width (2.1 GB, and 0.4 GB for each);
    they are written layer by layer, so that making 24 of them takes no more memory than the table of tokens.
    """
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from ...demo.training.tokenizer import build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_config = UMT5Config(vocab_size=tokenizer.get_vocab_size(), **TEXT_ENCODER)
    builders: dict[str, Callable[[], Any]] = {
        "text_encoder": lambda: UMT5EncoderModel(text_config),
        "transformer": lambda: WanTransformer3DModel(**{**TRANSFORMER, "num_layers": layers}),
        "vae": lambda: AutoencoderKLWan(**VAE),
    }
    if umt5_layers is not None:
        del builders["text_encoder"]
        _write_umt5_xxl(folder / "text_encoder", umt5_layers)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        for name, build in builders.items():
            build().save_pretrained(folder / name, max_shard_size=shard_size)
    finally:
        torch.set_default_dtype(before)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    ).save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    (folder / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n")
    return folder


def _write_umt5_xxl(folder: Path, layers: int) -> None:
    """Write a random encoder of UMT5-XXL's width, one shard for each layer and one for what is beside them."""
    import torch
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from safetensors.torch import save_file
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(**UMT5_XXL, num_layers=layers)
    with init_empty_weights():
        model = UMT5EncoderModel(config)
    config.architectures = ["UMT5EncoderModel"]
    config.save_pretrained(folder)
    shards: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():  # tied ones once
        layer = name.split(".")[2] if name.startswith("encoder.block.") else "other"
        shards.setdefault(f"model-{layer}.safetensors", []).append(name)
    for file, names in shards.items():
        tensors = {name: torch.ones(model.get_parameter(name).shape, dtype=torch.bfloat16) for name in names}
        for name, tensor in tensors.items():
            if tensor.ndim > 1:
                tensor.normal_(std=_umt5_deviation(name, config))
        save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _umt5_deviation(name: str, config: Any) -> float:
    """Return the standard deviation that transformers begins training a matrix with."""
    fan_in = {
        "shared.weight": 1,
        "q.weight": config.d_model * config.d_kv,
        "o.weight": config.num_heads * config.d_kv,
        "wo.weight": config.d_ff,
    }
    found = next((count for suffix, count in fan_in.items() if name.endswith("." + suffix) or name == suffix), None)
    return float((found or config.d_model) ** -0.5)
