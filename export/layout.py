"""The layout of a checkpoint folder, as far as it can be checked without torch, which takes seconds to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, brief

INDEX_NAME = "model_index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_checkpoint_folder(folder: Path) -> None:
    """Raise CheckpointError where a folder cannot be a checkpoint."""
    if folder.is_file():
        raise CheckpointError(
            f"{folder}: is a single file; give the folder of the whole model in diffusers' layout as the checkpoint "
            f"and this file's denoiser with --transformer{_not_readable(folder)}"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a checkpoint in diffusers' layout")
    if not (folder / INDEX_NAME).is_file():
        raise CheckpointError(f"{folder}: has no {INDEX_NAME}; give a checkpoint in diffusers' layout")


def check_component_folder(name: str, folder: Path) -> None:
    """Raise CheckpointError where a folder or file cannot be the component of a checkpoint that it should replace."""
    if folder.is_file():
        if folder.suffix != ".safetensors":
            raise CheckpointError(f"{folder}: is no .safetensors file{_not_readable(folder)}")
        return
    if not folder.exists():
        raise CheckpointError(
            f"{folder}: no such folder or file; give a {name} in diffusers' layout or a .safetensors file"
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: has no config.json; give the folder of a {name} in diffusers' layout, or its .safetensors file"
        )


def _not_readable(path: Path) -> str:
    """Return what is to be said of a file that is no safetensors one."""
    if path.suffix == ".gguf":
        return "; a GGUF file, quantized for other programs, cannot be read: take the model's safetensors"
    if path.suffix in PICKLE_SUFFIXES:
        return "; pickled weights can run code and are not read: convert them to safetensors"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise CheckpointError where it cannot be read as one."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CheckpointError(f"{path}: is not a file; copy the whole checkpoint")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing; copy the whole checkpoint") from None
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {brief(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(data).__name__}, not an object")
    return data


def pipeline_of(index: dict[str, Any]) -> str:
    """Return the pipeline class that a `model_index.json` names."""
    return str(index.get("_class_name"))
