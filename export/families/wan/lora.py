"""The names that Wan's authors gave the parts of its transformer, which most LoRA files for it use."""

from __future__ import annotations

from ...lora.keys import Naming

RENAMES = (
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("condition_embedder.image_embedder.norm1.", "img_emb.proj.0."),
    ("condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."),
    ("condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."),
    ("condition_embedder.image_embedder.norm2.", "img_emb.proj.4."),
    ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    (".add_k_proj.", ".k_img."),
    (".add_v_proj.", ".v_img."),
    (".norm_added_k.", ".norm_k_img."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".norm2.", ".norm3."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table", ".modulation"),
)
"""diffusers' names to the authors', the reverse of diffusers' `convert_wan_transformer_to_diffusers`."""

STARTS = (("scale_shift_table", "head.modulation"), ("proj_out.", "head.head."))
"""Renamed only where a name starts so."""


def diffusers_name(parameter: str) -> str:
    """Return a parameter's name as it is."""
    return parameter


def original_name(parameter: str) -> str:
    """Return the authors' name of a parameter of diffusers' WanTransformer3DModel."""
    for ours, theirs in STARTS:
        if parameter.startswith(ours):
            return theirs + parameter.removeprefix(ours)
    for ours, theirs in RENAMES:
        parameter = parameter.replace(ours, theirs)
    return parameter


NAMINGS: tuple[Naming, ...] = (diffusers_name, original_name)
