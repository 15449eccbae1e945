"""How LTX-Video's components are published: their settings, their authors' names, single files, what else the files hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...checkpoint import Checkpoint
from ...component import ComponentLayout, Config
from ...settings import STORED_WITH_COMPONENTS, Settings
from ...storage.files import weight_files
from ...storage.tensors import read_headers
from ..t5_settings import t5_settings
from .names import NAMINGS, VAE_NAMINGS

HEADS = 32
"""Of every published LTX-Video model; a single file does not say it."""
VAE_BEGINNING = "vae."
"""In front of the VAE's tensors in a single file that holds the transformer, too."""

# All that is obeyed is so by building the library's class, against which the graph is proved.
TRANSFORMER_SETTINGS = Settings(
    "LTXVideoTransformer3DModel",
    obeyed=frozenset(
        (
            "in_channels",
            "out_channels",
            "num_attention_heads",
            "attention_head_dim",
            "cross_attention_dim",
            "num_layers",
            "activation_fn",
            "norm_elementwise_affine",
            "norm_eps",
            "caption_channels",
            "attention_bias",
            "attention_out_bias",
        )
    ),
    idle=STORED_WITH_COMPONENTS,
    fixed={"patch_size": (1,), "patch_size_t": (1,), "qk_norm": ("rms_norm_across_heads",)},
)
VAE_SETTINGS = Settings(
    "AutoencoderKLLTXVideo",
    obeyed=frozenset(
        (
            "in_channels",
            "out_channels",
            "latent_channels",
            "block_out_channels",
            "down_block_types",
            "decoder_block_out_channels",
            "layers_per_block",
            "decoder_layers_per_block",
            "spatio_temporal_scaling",
            "decoder_spatio_temporal_scaling",
            "decoder_inject_noise",
            "downsample_type",
            "upsample_residual",
            "upsample_factor",
            "timestep_conditioning",
            "patch_size",
            "patch_size_t",
            "resnet_norm_eps",
            "scaling_factor",
            "encoder_causal",
            "decoder_causal",
            "spatial_compression_ratio",
            "temporal_compression_ratio",
        )
    ),
    idle=STORED_WITH_COMPONENTS,
)
INDEX_SETTINGS = Settings("the pipeline")
"""Of `model_index.json`, beside the components it lists."""

VAE_095 = {
    "latent_channels": 128,
    "block_out_channels": [128, 256, 512, 1024, 2048],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
    "layers_per_block": [4, 6, 6, 2, 2],
    "spatio_temporal_scaling": [True] * 4,
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "decoder_block_out_channels": [256, 512, 1024],
    "decoder_layers_per_block": [5, 5, 5, 5],
    "decoder_spatio_temporal_scaling": [True] * 3,
    "decoder_inject_noise": [False] * 4,
    "upsample_residual": [True] * 3,
    "upsample_factor": [2] * 3,
    "timestep_conditioning": True,
    "patch_size": 4,
    "patch_size_t": 1,
    "encoder_causal": True,
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
"""The VAE of 0.9.5 and later, as diffusers' scripts/convert_ltx_to_diffusers.py has it."""


def of_shapes(base: Config, shape_of: Callable[[str], tuple[int, ...] | None]) -> Config:
    """Return the configuration of a transformer whose tensors have these shapes; of the rest, base's."""
    entry, text = shape_of("proj_in.weight"), shape_of("caption_projection.linear_1.weight")
    key, end = shape_of("transformer_blocks.0.attn2.to_k.weight"), shape_of("proj_out.weight")
    if not (entry and text and key and end):
        return base  # the names tell what is wrong
    heads = int(base.get("num_attention_heads", HEADS))
    heads = heads if entry[0] % max(heads, 1) == 0 else HEADS
    made: dict[str, Any] = {
        "in_channels": entry[1],
        "out_channels": end[0],
        "num_attention_heads": heads,
        "attention_head_dim": entry[0] // heads,
        "cross_attention_dim": key[1],
        "caption_channels": text[1],
        "num_layers": _depth(shape_of),
    }
    return base | made


def vae_of_shapes(base: Config, shape_of: Callable[[str], tuple[int, ...] | None]) -> Config:
    """Return the configuration of a VAE: base's, or that of 0.9.5 where the file has a timestep and base is older."""
    conditioned = shape_of("decoder.scale_shift_table") is not None
    return base if conditioned == bool(base.get("timestep_conditioning")) else base | VAE_095


def _depth(shape_of: Callable[[str], tuple[int, ...] | None]) -> int:
    depth = 0
    while depth < 1000 and shape_of(f"transformer_blocks.{depth}.attn1.to_q.weight") is not None:
        depth += 1
    return depth


def take_vae_of_file(checkpoint: Checkpoint) -> None:
    """Let a single file that replaces the transformer replace the VAE as well, where it holds one: they were released together."""
    file = checkpoint.replaced.get("transformer")
    if file is None or not file.is_file() or "vae" in checkpoint.replaced:
        return
    if any(name.startswith(VAE_BEGINNING) for name in read_headers(weight_files(file).paths)):
        checkpoint.replaced["vae"] = file
        checkpoint.notes.append(f"{file}: the vae in it is taken, too")


TEXT_ENCODER = ComponentLayout(
    settings=t5_settings("T5EncoderModel"),
    unused=(r"^decoder\.", r"^lm_head\.", r"^spiece_model$"),  # dumps of the whole model
    stand_ins=("T5Model", "T5ForConditionalGeneration"),
    model_type="t5",
)
TRANSFORMER = ComponentLayout(namings=NAMINGS, settings=TRANSFORMER_SETTINGS, described=of_shapes)
VAE = ComponentLayout(
    namings=VAE_NAMINGS,
    settings=VAE_SETTINGS,
    described=vae_of_shapes,
    unused=(r"^model\.diffusion_model\.", r"per_channel_statistics\.(channel|mean-of-stds)"),
    optional=("encoder.",),
)
