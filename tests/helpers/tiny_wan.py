"""Write a small random Wan checkpoint in diffusers' layout: real classes, real files, seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

BEGINNINGS = ("words", "held", "condition", "embeds", "both ends", "vace")
"""What clips begin with: words alone; a held picture (Wan 2.2 TI2V-5B); a condition (Wan 2.2 I2V-A14B), with embeddings of
the picture beside it (Wan 2.1 I2V), or of the first and the last one (first-last frame); a condition read by blocks of its
own (VACE)."""
PIPELINES = {"words": "WanPipeline", "held": "WanPipeline", "vace": "WanVACEPipeline"}
PICTURE = 28
"""Pixels a side of what the image encoder takes."""

WORDS = ["<pad>", "</s>", "<unk>", "a", "the", "red", "green", "ball", "square", "bounces", "slides", "over", "ocean"]


def write_tiny_wan(
    folder: Path,
    *,
    seed: int = 0,
    depth: int = 2,
    heads: int = 2,
    latent_channels: int = 4,
    vae_patch: int | None = None,
    residual: bool = False,
    vae_levels: int = 4,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    experts: bool = False,
    begins: str = "words",
    patch: int = 2,
    res_blocks: int | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write the checkpoint and return its folder.

    vae_patch, residual: the VAE's `patch_size` and `is_residual` (both as in Wan 2.2 where set).
    vae_levels: 4 scales by 8 in space and 4 in time as Wan does, 3 by 4 and 4, 2 by 2 and 2.
    sharded: weights of every component in several safetensors files with an index.
    begins: one of BEGINNINGS. patch: of the transformer, in height and width. res_blocks: of each level of the VAE, None
    for the fewest: one where its encoder is needed.
    experts: two transformers that share the noise levels at 0.875, as in Wan 2.2's large models.
    extra: content of `edgereel.json`.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    blocks = (0 if begins == "words" else 1) if res_blocks is None else res_blocks
    components = {
        "text_encoder": _text_encoder(),
        "transformer": _transformer(depth, heads, latent_channels, begins, patch),
        "vae": tiny_vae(latent_channels, vae_patch, residual, vae_levels, blocks),
    }
    if experts:
        components["transformer_2"] = _transformer(depth, heads, latent_channels, begins, patch)
    if begins in ("embeds", "both ends"):
        components["image_encoder"] = _image_encoder()
        _write_image_processor(folder / "image_processor")
    for name, module in components.items():
        randomize(module)
        limit = "25KB" if sharded else "5GB"
        module.to(dtype).save_pretrained(folder / name, max_shard_size=limit, safe_serialization=True)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    ).save_pretrained(folder / "scheduler")
    _tokenizer().save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": PIPELINES.get(begins, "WanImageToVideoPipeline"),
        "_diffusers_version": "0.36.0",
        "boundary_ratio": 0.875 if experts else None,
        "expand_timesteps": begins == "held",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", type(components["transformer"]).__name__],
        "transformer_2": ["diffusers", "WanTransformer3DModel"] if experts else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    if "image_encoder" in components:
        index["image_encoder"] = ["transformers", "CLIPVisionModel"]
        index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    if extra is not None:
        (folder / "edgereel.json").write_text(json.dumps(extra) + "\n", encoding="utf-8")
    return folder


def _text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=64,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
        )
    )


def tiny_transformer(depth: int = 2, heads: int = 2, channels: int = 4, **config: Any) -> WanTransformer3DModel:
    """Return a small random denoiser, every parameter off its initial value; config goes before what is usual here."""
    module = _transformer(depth, heads, channels, "words", 2, config)
    randomize(module)
    return module


def _transformer(
    depth: int, heads: int, channels: int, begins: str, patch: int, config: dict[str, Any] | None = None
) -> WanTransformer3DModel:
    embeds = begins in ("embeds", "both ends")
    usual: dict[str, Any] = {
        "patch_size": (1, patch, patch),
        "num_attention_heads": heads,
        "attention_head_dim": 12,
        "in_channels": channels if begins in ("words", "held", "vace") else channels + 4 + channels,
        "out_channels": channels,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": depth,
        "cross_attn_norm": True,
        "rope_max_seq_len": 64,
        "image_dim": 16 if embeds else None,
        "added_kv_proj_dim": 12 * heads if embeds else None,
        "pos_embed_seq_len": 2 * (1 + (PICTURE // 14) ** 2) if begins == "both ends" else None,
    }
    if begins == "vace":
        # As many mask channels as a latent value stands for pixels, of a VAE that scales by 4.
        return WanVACETransformer3DModel(**usual, vace_layers=[0], vace_in_channels=2 * channels + 16)
    return WanTransformer3DModel(**(usual | (config or {})))


def _image_encoder() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=PICTURE,
            patch_size=14,
            hidden_act="gelu",
        )
    )


def _write_image_processor(folder: Path) -> None:
    """Write what CLIPImageProcessor.save_pretrained would: that needs torchvision or says so."""
    folder.mkdir()
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": PICTURE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": PICTURE, "width": PICTURE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")


def tiny_vae(channels: int, patch: int | None, residual: bool, levels: int, res_blocks: int) -> AutoencoderKLWan:
    """Return an AutoencoderKLWan. Its encoder works with one or more res_blocks alone."""
    in_time = {4: [False, True, True], 3: [True, True], 2: [True]}[levels]
    pixels = 3 * (patch or 1) ** 2
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1] + [2] * (levels - 1),
        num_res_blocks=res_blocks,
        temperal_downsample=in_time,
        latents_mean=[0.1 * index - 0.2 for index in range(channels)],
        latents_std=[1.0 + 0.25 * index for index in range(channels)],
        is_residual=residual,
        in_channels=pixels,
        out_channels=pixels,
        patch_size=patch,
        scale_factor_temporal=2 ** sum(in_time),
        scale_factor_spatial=2 ** (levels - 1) * (patch or 1),
    )


def randomize(module: torch.nn.Module) -> None:
    """Move every parameter off its initial value: norms of 1 and biases of 0 would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )
