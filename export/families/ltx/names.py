"""The names that LTX-Video's authors gave the tensors of its transformer and VAE, as data.

Single files and most LoRAs have them. They are the reverse of what diffusers' `convert_ltx_transformer_checkpoint_to_diffusers`
and `convert_ltx_vae_checkpoint_to_diffusers` do.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...lora.keys import Naming

RENAMES = (
    ("proj_in.", "patchify_proj."),
    ("time_embed.", "adaln_single."),
    (".norm_q.", ".q_norm."),
    (".norm_k.", ".k_norm."),
)
"""Of the transformer: anywhere in a name if it begins with a dot, else at its beginning."""

VAE_RENAMES = (
    (".resnets.", ".res_blocks."),
    (".conv_shortcut.conv.", ".conv_shortcut."),
    (".norm3.", ".norm3.norm."),
    ("decoder.time_embedder.", "decoder.last_time_embedder."),
    ("decoder.scale_shift_table", "decoder.last_scale_shift_table"),
    ("latents_mean", "per_channel_statistics.mean-of-means"),
    ("latents_std", "per_channel_statistics.std-of-means"),
)
"""Of the VAE, beside its blocks; those without a dot in front at the beginning of a name."""

BLOCKS_090 = {
    **{
        "decoder.mid_block": 0,
        "decoder.up_blocks.0": 1,
        "decoder.up_blocks.1.upsamplers.0": 2,
        "decoder.up_blocks.1": 3,
    },
    **{"decoder.up_blocks.2.conv_in": 4, "decoder.up_blocks.2.upsamplers.0": 5, "decoder.up_blocks.2": 6},
    **{"decoder.up_blocks.3.conv_in": 7, "decoder.up_blocks.3.upsamplers.0": 8, "decoder.up_blocks.3": 9},
    **{"encoder.down_blocks.0": 0, "encoder.down_blocks.0.downsamplers.0": 1, "encoder.down_blocks.0.conv_out": 2},
    **{"encoder.down_blocks.1": 3, "encoder.down_blocks.1.downsamplers.0": 4, "encoder.down_blocks.1.conv_out": 5},
    **{"encoder.down_blocks.2": 6, "encoder.down_blocks.2.downsamplers.0": 7},
    **{"encoder.down_blocks.3": 8, "encoder.mid_block": 9},
}
"""diffusers' blocks and the authors' number for each, who count every layer that is not a plain resnet as a block: 0.9.0."""

BLOCKS_095 = {
    "decoder.mid_block": 0,
    **{f"decoder.up_blocks.{index}.upsamplers.0": 2 * index + 1 for index in range(4)},
    **{f"decoder.up_blocks.{index}": 2 * index + 2 for index in range(4)},
    **{f"encoder.down_blocks.{index}": 2 * index for index in range(4)},
    **{f"encoder.down_blocks.{index}.downsamplers.0": 2 * index + 1 for index in range(4)},
    "encoder.mid_block": 8,
}
"""The same for 0.9.5 and later."""


def own_name(parameter: str) -> str:
    """Return a parameter's name as it is."""
    return parameter


def original_name(parameter: str) -> str:
    """Return the authors' name of a parameter of diffusers' LTXVideoTransformer3DModel."""
    return _renamed(parameter, RENAMES)


def vae_naming(blocks: dict[str, int], beginning: str = "") -> Callable[[str], str]:
    """Return what gives the authors' names of the parameters of diffusers' AutoencoderKLLTXVideo.

    beginning: what stands in front of each in a file that holds other components, too.
    """
    pattern = re.compile("|".join(re.escape(block) for block in sorted(blocks, key=len, reverse=True)))

    def name(parameter: str) -> str:
        found = pattern.match(parameter)
        if found is not None:
            kind = "decoder.up_blocks" if parameter.startswith("decoder.") else "encoder.down_blocks"
            parameter = f"{kind}.{blocks[found[0]]}{parameter[found.end() :]}"
        return beginning + _renamed(parameter, VAE_RENAMES)

    return name


def _renamed(parameter: str, renames: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in renames:
        if ours.startswith("."):
            parameter = parameter.replace(ours, theirs)
        elif parameter.startswith(ours):
            parameter = theirs + parameter.removeprefix(ours)
    return parameter


NAMINGS: tuple[Naming, ...] = (own_name, original_name)
VAE_NAMINGS: tuple[Naming, ...] = (
    own_name,
    *(vae_naming(blocks, beginning) for beginning in ("", "vae.") for blocks in (BLOCKS_095, BLOCKS_090)),
)
