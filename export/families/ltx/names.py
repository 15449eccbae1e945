"""The names that LTX-Video's authors gave the tensors of its transformer and VAE, as data.

Single files and most LoRAs have them. They are the reverse of what diffusers' `convert_ltx_transformer_checkpoint_to_diffusers`
and `convert_ltx_vae_checkpoint_to_diffusers` do.
"""

from __future__ import annotations

from ...lora.keys import Naming

RENAMES = (
    ("proj_in.", "patchify_proj."),
    ("time_embed.", "adaln_single."),
    (".norm_q.", ".q_norm."),
    (".norm_k.", ".k_norm."),
)


def diffusers_name(parameter: str) -> str:
    """Return a parameter's name as it is."""
    return parameter


def original_name(parameter: str) -> str:
    """Return the authors' name of a parameter of diffusers' LTXVideoTransformer3DModel."""
    for ours, theirs in RENAMES:
        if ours.startswith("."):
            parameter = parameter.replace(ours, theirs)
        elif parameter.startswith(ours):
            parameter = theirs + parameter.removeprefix(ours)
    return parameter


NAMINGS: tuple[Naming, ...] = (diffusers_name, original_name)
