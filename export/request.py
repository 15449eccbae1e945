"""What is wrong with the arguments of an export, as far as that shows without torch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..bundle.writer import check_new_bundle
from ..core.errors import CheckpointError, UsageError
from .families.wan.recipes import WAN_RECIPES, published_recipe
from .lora.request import SYNTAX, Lora

INDEX_NAME = "model_index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PRECISIONS = ("fp32", "fp16")
MAX_TOKENS_LIMIT = 65_536


def check_arguments(
    checkpoint: Path,
    output: Path,
    *,
    max_tokens: int | None,
    recipe: str | None,
    precision: str,
    loras: Sequence[Lora],
    replaced: Mapping[str, Path],
) -> None:
    """Raise UsageError, OutputError or CheckpointError for what export_checkpoint could not use."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown: choose {' or '.join(PRECISIONS)}")
    if max_tokens is not None and not 0 < max_tokens <= MAX_TOKENS_LIMIT:
        raise UsageError(f"max tokens is {max_tokens}: choose 1 to {MAX_TOKENS_LIMIT}")
    check_new_bundle(output)
    check_checkpoint_folder(checkpoint)
    for name, folder in replaced.items():
        check_component_folder(name, folder)
    for lora in loras:
        check_lora_file(lora.path)
    if recipe is not None:
        published_recipe(recipe, WAN_RECIPES)  # of every family that there is


def check_checkpoint_folder(folder: Path) -> None:
    """Raise CheckpointError where a folder cannot be a checkpoint."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a checkpoint in diffusers' layout")
    if not (folder / INDEX_NAME).is_file():
        raise CheckpointError(f"{folder}: has no {INDEX_NAME}; give a checkpoint in diffusers' layout")


def check_component_folder(name: str, folder: Path) -> None:
    """Raise CheckpointError where a folder cannot be the component of a checkpoint that it should replace."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: has no config.json; give the folder of a {name} in diffusers' layout")


def check_lora_file(path: Path) -> None:
    """Raise CheckpointError where a path cannot be a LoRA file."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give the LoRA's .safetensors file")
    if not path.exists():
        raise CheckpointError(f"{path}: no such LoRA file; write {SYNTAX}")
    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: pickled weights can run code and are not read; convert them to safetensors")
