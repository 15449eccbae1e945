"""How Wan's components are published: their settings, their authors' names, single files, what else the files hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ....component import ComponentLayout, Config
from ....settings import STORED_WITH_COMPONENTS, Settings
from ...t5_settings import t5_settings
from ..lora import NAMINGS

HEAD_SIZE = 128
"""Of every published Wan model; a single file does not say it."""

TRANSFORMER_SETTINGS = Settings(
    "WanTransformer3DModel",
    # All of them are obeyed by building diffusers' class, against which the graph is proved.
    obeyed=frozenset(
        (
            "patch_size",
            "num_attention_heads",
            "attention_head_dim",
            "in_channels",
            "out_channels",
            "text_dim",
            "freq_dim",
            "ffn_dim",
            "num_layers",
            "cross_attn_norm",
            "eps",
            "image_dim",
            "added_kv_proj_dim",
            "rope_max_seq_len",
            "pos_embed_seq_len",
        )
    ),
    idle=STORED_WITH_COMPONENTS,
    fixed={"qk_norm": ("rms_norm_across_heads",)},
)

VAE_SETTINGS = Settings(
    "AutoencoderKLWan",
    obeyed=frozenset(
        (
            "base_dim",
            "decoder_base_dim",
            "z_dim",
            "dim_mult",
            "num_res_blocks",
            "attn_scales",
            "temperal_downsample",
            "dropout",
            "latents_mean",
            "latents_std",
            "is_residual",
            "in_channels",
            "out_channels",
            "patch_size",
            "scale_factor_temporal",
            "scale_factor_spatial",
        )
    ),
    # Wan 2.2 5B's own file has clip_output; diffusers clips whatever it says.
    idle=STORED_WITH_COMPONENTS | {"clip_output"},
)

TEXT_ENCODER_SETTINGS = t5_settings("UMT5EncoderModel")

INDEX_SETTINGS = Settings(
    "the pipeline",
    obeyed=frozenset(("boundary_ratio", "expand_timesteps")),
    idle=frozenset(("force_zeros_for_empty_prompt", "safety_checker", "requires_safety_checker")),
)
"""Of `model_index.json`, beside the components it lists."""


WHOLE = [-1, -1]
AUTHORS_KEYS = frozenset(
    (
        "ffn_dim",
        "freq_dim",
        "num_layers",
        "text_dim",
        "patch_size",
        "cross_attn_norm",
        "eps",
        "model_type",
        "text_len",
        "qk_norm",
        "window_size",
    )
)
"""What the authors' own configuration says besides."""


def of_the_authors(config: Config) -> Config:
    """Return diffusers' configuration for that of Wan's authors (`WanModel`)."""
    heads, width = int(config["num_heads"]), int(config["dim"])
    made = {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": config.get("in_dim", 16),
        "out_channels": config.get("out_dim", 16),
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config.get("freq_dim", 256),
        "num_layers": config["num_layers"],
        "text_dim": config.get("text_dim", 4096),
        "patch_size": config.get("patch_size", [1, 2, 2]),
        "cross_attn_norm": config.get("cross_attn_norm", True),
        "eps": config.get("eps", 1e-6),
    }
    if config.get("model_type") in ("i2v", "flf2v") and made["in_channels"] != made["out_channels"]:
        made["image_dim"], made["added_kv_proj_dim"] = 1280, width
    known = {*AUTHORS_KEYS, "dim", "num_heads", "in_dim", "out_dim"}
    if list(config.get("window_size", WHOLE)) != WHOLE:
        known.discard("window_size")  # attention over a part of the clip: refused by name
    return made | {key: value for key, value in config.items() if key not in known and not key.startswith("_")}


def of_shapes(base: Config, shape_of: Callable[[str], tuple[int, ...] | None]) -> Config:
    """Return the configuration of a transformer whose tensors have these shapes; of the rest, base's."""
    patches = shape_of("patch_embedding.weight")
    feed_forward = shape_of("blocks.0.ffn.net.0.proj.weight")
    text = shape_of("condition_embedder.text_embedder.linear_1.weight")
    time = shape_of("condition_embedder.time_embedder.linear_1.weight")
    head = shape_of("proj_out.weight")
    if not (patches and feed_forward and text and time and head) or len(patches) != 5:
        return base  # the names tell what is wrong
    width = patches[0]
    head_size = int(base.get("attention_head_dim", HEAD_SIZE))
    head_size = head_size if width % head_size == 0 else HEAD_SIZE
    made: dict[str, Any] = {
        "_class_name": "WanTransformer3DModel",
        "patch_size": list(patches[2:]),
        "num_attention_heads": max(width // head_size, 1),
        "attention_head_dim": head_size,
        "in_channels": patches[1],
        "out_channels": head[0] // max(math.prod(patches[2:]), 1),
        "ffn_dim": feed_forward[0],
        "text_dim": text[1],
        "freq_dim": time[1],
        "num_layers": _depth(shape_of),
        "cross_attn_norm": shape_of("blocks.0.norm2.weight") is not None,
    }
    added = shape_of("blocks.0.attn2.add_k_proj.weight")
    image = shape_of("condition_embedder.image_embedder.norm1.weight")
    positions = shape_of("condition_embedder.image_embedder.pos_embed")
    made["added_kv_proj_dim"] = None if added is None else added[1]
    made["image_dim"] = None if image is None else image[0]
    made["pos_embed_seq_len"] = None if positions is None else positions[1] // 2
    return base | made


def _depth(shape_of: Callable[[str], tuple[int, ...] | None]) -> int:
    depth = 0
    while depth < 1000 and shape_of(f"blocks.{depth}.attn1.to_q.weight") is not None:
        depth += 1
    return depth


T5_RENAMES = (
    ("encoder.block.", "blocks."),
    (".layer.0.SelfAttention.relative_attention_bias.", ".pos_embedding.embedding."),
    (".layer.0.SelfAttention.", ".attn."),
    (".layer.0.layer_norm.", ".norm1."),
    (".layer.1.layer_norm.", ".norm2."),
    (".layer.1.DenseReluDense.wi_0.", ".ffn.gate.0."),
    (".layer.1.DenseReluDense.wi_1.", ".ffn.fc1."),
    (".layer.1.DenseReluDense.wo.", ".ffn.fc2."),
    ("encoder.final_layer_norm.", "norm."),
    ("shared.", "token_embedding."),
)


def t5_of_the_authors(parameter: str) -> str:
    """Return the name that Wan's authors give a parameter of UMT5's encoder."""
    for ours, theirs in T5_RENAMES:
        parameter = parameter.replace(ours, theirs)
    return parameter


def own_name(parameter: str) -> str:
    """Return a parameter's name as it is."""
    return parameter


TRANSFORMER = ComponentLayout(
    namings=NAMINGS,
    settings=TRANSFORMER_SETTINGS,
    converted={"WanModel": of_the_authors},
    described=of_shapes,
    # FastWan's gates of sparse attention, which neither diffusers nor attention over all tokens use.
    unused=(r"\.to_gate_compress\.",),
)
VACE_TRANSFORMER = ComponentLayout(
    settings=Settings(
        "WanVACETransformer3DModel",
        obeyed=TRANSFORMER_SETTINGS.obeyed | {"vace_layers", "vace_in_channels"},
        idle=TRANSFORMER_SETTINGS.idle,
        fixed=TRANSFORMER_SETTINGS.fixed,
    ),
)
TEXT_ENCODER = ComponentLayout(
    namings=(own_name, t5_of_the_authors),
    settings=TEXT_ENCODER_SETTINGS,
    # Dumps of the whole model, and ComfyUI's with the tokenizer inside.
    unused=(r"^decoder\.", r"^lm_head\.", r"^spiece_model$"),
    stand_ins=("UMT5Model", "UMT5ForConditionalGeneration"),
    model_type="umt5",
)
VAE = ComponentLayout(settings=VAE_SETTINGS, optional=("encoder.", "quant_conv."))
