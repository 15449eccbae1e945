"""Random LoRA files for the tiny Wan transformer, in the key styles that are in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK = 4
STRENGTH = 0.35  # large enough that a mistake in a single layer shows
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ffn.net.0.proj", "ffn.net.2")
OUTSIDE = (
    "condition_embedder.text_embedder.linear_1",
    "condition_embedder.text_embedder.linear_2",
    "condition_embedder.time_embedder.linear_1",
    "condition_embedder.time_embedder.linear_2",
    "condition_embedder.time_proj",
    "proj_out",
)
ORIGINAL = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}
"""Written down apart from the exporter's own table, from the layers of Wan's published code."""

Tensors = dict[str, torch.Tensor]


def block_modules(model: Any) -> list[str]:
    """Return the linear layers of the blocks, by diffusers' names."""
    inside = [f"{attention}.{name}" for attention in ("attn1", "attn2") for name in ATTENTION] + list(FEED_FORWARD)
    return [f"blocks.{index}.{name}" for index in range(len(model.blocks)) for name in inside]


def original(module: str) -> str:
    for ours, theirs in ORIGINAL.items():
        module = module.replace(ours, theirs)
    return module


def pair(model: Any, module: str, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a random down [rank, in, ...] and up [out, rank, ...] for a layer."""
    shape = model.get_submodule(module).weight.shape
    down = STRENGTH * torch.randn(rank, *shape[1:])
    return down, STRENGTH * torch.randn(shape[0], rank, *(1 for _ in shape[2:]))


def like(model: Any, parameter: str) -> torch.Tensor:
    """Return a random difference to a parameter."""
    return STRENGTH * torch.randn(model.get_parameter(parameter).shape)


def peft(model: Any, prefix: str = "transformer.", default: str = "") -> Tensors:
    """Every layer there is, the convolution too; ranks differ."""
    tensors = {}
    for index, module in enumerate([*block_modules(model), *OUTSIDE, "patch_embedding"]):
        down, up = pair(model, module, RANK + index % 3)
        tensors[f"{prefix}{module}.lora_A{default}.weight"] = down
        tensors[f"{prefix}{module}.lora_B{default}.weight"] = up
    return tensors


def original_names(model: Any, down_name: str, up_name: str) -> Tensors:
    """What CausVid's and lightx2v's adapters carry, as far as diffusers fuses it: biases, alphas, a whole head."""
    tensors = {}
    for module in [*block_modules(model), *OUTSIDE]:
        name = f"diffusion_model.{original(module)}"
        down, up = pair(model, module)
        if module == "proj_out" and down_name == "lora_down":
            tensors[f"{name}.diff"] = like(model, "proj_out.weight")
        else:
            tensors[f"{name}.{down_name}.weight"], tensors[f"{name}.{up_name}.weight"] = down, up
        tensors[f"{name}.diff_b"] = like(model, f"{module}.bias")
        if ".attn" in module:
            tensors[f"{name}.alpha"] = torch.tensor(1.5 * RANK)
    return tensors


def kohya(model: Any) -> Tensors:
    tensors = {}
    for index, module in enumerate(block_modules(model)):
        name = f"lora_unet_{original(module).replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = pair(model, module)
        tensors[f"{name}.alpha"] = torch.tensor(float(1 + index % 5))
    return tensors


def differences(model: Any) -> Tensors:
    """Full differences of everything: what diffusers drops, and what it has no name for."""
    names = {
        "patch_embedding.diff": "patch_embedding.weight",
        "patch_embedding.diff_b": "patch_embedding.bias",
        "text_embedding.2.diff_b": "condition_embedder.text_embedder.linear_2.bias",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "head.head.diff_b": "proj_out.bias",
        "head.diff_m": "scale_shift_table",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.0.cross_attn.norm_k.diff": "blocks.0.attn2.norm_k.weight",
        "blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.1.ffn.0.diff": "blocks.1.ffn.net.0.proj.weight",
    }
    return {f"diffusion_model.{name}": like(model, parameter) for name, parameter in names.items()}


def add_differences(model: Any, tensors: Tensors, scale: float) -> None:
    """Fuse `differences` by hand; the names once more, the other way."""
    ours = {theirs: name for name, theirs in ORIGINAL.items()} | {"norm3": "norm2"}
    endings = {"diff": "weight", "diff_b": "bias", "diff_m": "scale_shift_table"}
    for key, tensor in tensors.items():
        module, _, ending = key.removeprefix("diffusion_model.").rpartition(".")
        for theirs in (
            "self_attn",
            "cross_attn",
            "norm3",
            "ffn.0",
            "text_embedding.2",
            "time_projection.1",
            "head.head",
        ):
            module = module.replace(theirs, ours[theirs])
        name = f"{module}.{endings[ending]}".removeprefix("head.")
        model.get_parameter(name).data += scale * tensor


def save(path: Path, tensors: Tensors, config: dict[str, Any] | None = None) -> Path:
    """Write the file; config: PEFT's configuration, kept as diffusers keeps it."""
    metadata = {"format": "pt"}
    if config is not None:
        prefixed = {f"transformer.{key}": value for key, value in config.items()}
        metadata["lora_adapter_metadata"] = json.dumps(prefixed)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path
