"""LoRA files: opened, compared with the model before anything is exported, and fused into its weights in float32.

    W' = W + scale · (alpha / r) · up · down + scale · diff

(Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1.) Without an alpha the
factor alpha / r is 1, as in diffusers. `diff` tensors are full differences, of biases, norms and modulation too, which
diffusers drops in part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...bundle.manifest import FusedLora
from ...bundle.reader import hash_file
from ...core.errors import CheckpointError, brief, one_line
from ..checkpoint import READABLE_TYPES, open_safetensors
from ..request import Lora
from ..weights import put_weight
from .keys import Naming, match_keys, other_kinds

ALPHA_TYPES = (*READABLE_TYPES, "I64", "I32")
CONFIG_KEY = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's configuration in a file's metadata."""
CONFIG_PREFIX = "transformer."
LISTED = 5
"""Number of keys that a message lists before it counts the rest."""

Shape = tuple[int, ...]


@dataclass
class Change:
    """What a file does to one parameter: the keys of its parts (down and up, or diff) and the factor alpha / r."""

    keys: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0

    def delta(self, tensors: Any, shape: Shape) -> torch.Tensor:
        """Return the change at scale 1, float32 of the parameter's shape. tensors: the opened file."""
        parts: dict[str, torch.Tensor] = {
            part: tensors.get_tensor(key).to(torch.float32) for part, key in self.keys.items() if part != "alpha"
        }
        if "diff" in parts:
            return parts["diff"]
        return (self.factor * (parts["up"].flatten(1) @ parts["down"].flatten(1))).reshape(shape)


@dataclass(frozen=True)
class CheckedLora:
    """A LoRA file that fits a model."""

    lora: Lora
    changes: dict[str, Change]

    def fuse(self, module: torch.nn.Module) -> None:
        """Add the changes to the module's float32 parameters. Raises CheckpointError where the sum is not finite."""
        with open_safetensors(self.lora.path) as tensors:
            for name, change in self.changes.items():
                parameter = module.get_parameter(name)
                fused = parameter + self.lora.scale * change.delta(tensors, tuple(parameter.shape))
                if not torch.isfinite(fused).all():
                    raise CheckpointError(f"{self.lora.path}: {name} overflows at scale {self.lora.scale:g}")
                put_weight(module, name, fused)

    def record(self, denoiser: str) -> FusedLora:
        """Return what the manifest says of it. denoiser: name of the graph it is fused into."""
        path = self.lora.path
        return FusedLora(
            name=one_line(path.name), sha256=hash_file(path), scale=float(self.lora.scale), denoiser=denoiser
        )


def check_lora(lora: Lora, shapes: Mapping[str, Shape], namings: Sequence[Naming]) -> CheckedLora:
    """Return the file's changes to a model whose parameters have these names and shapes.

    Raises CheckpointError for a file that is none or that does not fit: keys that match nothing, a part missing or
    given twice, ranks or shapes that disagree, values that are not finite.
    """
    path = lora.path
    lora.check_file()
    with open_safetensors(path) as tensors:
        keys = sorted(tensors.keys())
        if not keys:
            raise CheckpointError(f"{path}: holds no tensors")
        changes = _changes(path, keys, shapes, namings)
        config = _config(path, tensors.metadata() or {})
        _check_patterns(path, config, changes)
        for name, change in changes.items():
            _check_types(path, tensors, change)
            _check_shapes(path, tensors, name, change, shapes[name])
            _check_values(path, tensors, change)
            if "down" in change.keys:
                change.factor = _factor(path, tensors, name, change, config)
    return CheckedLora(lora, changes)


def _changes(path: Path, keys: list[str], shapes: Mapping[str, Shape], namings: Sequence[Naming]) -> dict[str, Change]:
    """Return changes by parameter, each with all the parts it needs."""
    matches = match_keys(keys, shapes, namings)
    if unknown := [key for key in keys if key not in matches]:
        kinds = "".join(f"; {kind} is not supported" for kind in other_kinds(unknown))
        raise CheckpointError(
            f"{path}: {len(unknown)} of {len(keys)} keys match nothing in this model: {_listed(unknown)}"
            f"{kinds or '; is it a LoRA for another model?'}"
        )
    changes: dict[str, Change] = {}
    for key, (name, part) in matches.items():
        parts = changes.setdefault(name, Change()).keys
        if part in parts:
            raise CheckpointError(f"{path}: {parts[part]} and {key} are the same part of {name}")
        parts[part] = key
    for change in changes.values():
        _check_parts(path, change.keys)
    return changes


def _check_parts(path: Path, parts: Mapping[str, str]) -> None:
    if "diff" in parts and len(parts) > 1:
        raise CheckpointError(f"{path}: has both a full difference and a LoRA: {_listed(sorted(parts.values()))}")
    if "diff" in parts:
        return
    for part, partner in (("down", "lora_A (lora_down)"), ("up", "lora_B (lora_up)")):
        if part not in parts:
            raise CheckpointError(f"{path}: {next(iter(parts.values()))} has no {partner} beside it")


def _check_types(path: Path, tensors: Any, change: Change) -> None:
    for part, key in change.keys.items():
        kind = tensors.get_slice(key).get_dtype()
        if kind not in (ALPHA_TYPES if part == "alpha" else READABLE_TYPES):
            raise CheckpointError(f"{path}: {key} is {kind}; LoRAs are read from F32, F16 or BF16")


def _check_shapes(path: Path, tensors: Any, name: str, change: Change, wanted: Shape) -> None:
    """Compare a change's shapes with each other and with the parameter's."""
    found = {part: tuple(tensors.get_slice(key).get_shape()) for part, key in change.keys.items()}
    if "diff" in found:
        fits = found["diff"] == wanted
    else:
        down, up = found["down"], found["up"]
        if len(down) < 2 or len(up) < 2 or down[0] != up[1] or not down[0]:
            raise CheckpointError(
                f"{path}: ranks disagree: {change.keys['down']} has shape {list(down)}, {change.keys['up']} {list(up)}"
            )
        # Convolutions: down has the kernel (or is flattened), up is 1x1.
        into = down[1:] in (wanted[1:], (math.prod(wanted[1:]),))
        fits = len(wanted) > 1 and into and up[0] == wanted[0] and math.prod(up[2:]) == 1
        if math.prod(found.get("alpha", ())) != 1:
            raise CheckpointError(f"{path}: {change.keys['alpha']} has shape {list(found['alpha'])}, not one number")
    if not fits:
        shapes = ", ".join(f"{change.keys[part]} {list(shape)}" for part, shape in found.items() if part != "alpha")
        raise CheckpointError(
            f"{path}: wrong shape for {name} {list(wanted)} of this model: {shapes}; is it a LoRA for another model?"
        )


def _check_values(path: Path, tensors: Any, change: Change) -> None:
    for key in change.keys.values():
        if not torch.isfinite(tensors.get_tensor(key)).all():
            raise CheckpointError(f"{path}: {key} has values that are not finite numbers")


def _factor(path: Path, tensors: Any, name: str, change: Change, config: Mapping[str, Any]) -> float:
    """Return what up · down is multiplied by: the file's own alpha / r, PEFT's configuration's, or 1."""
    rank = int(tensors.get_slice(change.keys["down"]).get_shape()[0])
    if "alpha" in change.keys:
        return float(tensors.get_tensor(change.keys["alpha"]).item()) / rank
    if not config:
        return 1.0
    alpha = config.get("lora_alpha", 8)  # PEFT's default
    module = name.removesuffix(".weight")
    for pattern, value in config.get("alpha_pattern", {}).items():
        if _is_of(pattern, module):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{path}: {CONFIG_KEY} has alpha {alpha!r} for {module}, not a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") is True else rank)


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return PEFT's configuration of a file that diffusers saved, without the component's prefix; {} without."""
    if not (text := metadata.get(CONFIG_KEY)):
        return {}
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: {CONFIG_KEY} is not valid JSON: {brief(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: {CONFIG_KEY} holds a JSON {type(data).__name__}, not an object")
    config = {key.removeprefix(CONFIG_PREFIX): value for key, value in data.items() if key.startswith(CONFIG_PREFIX)}
    if not isinstance(config.get("alpha_pattern", {}), dict):
        raise CheckpointError(f"{path}: {CONFIG_KEY} has an alpha_pattern that is no object")
    return config


def _check_patterns(path: Path, config: Mapping[str, Any], changes: Mapping[str, Change]) -> None:
    """Refuse patterns that name no module of the file: PEFT takes regular expressions, diffusers writes names."""
    modules = [name.removesuffix(".weight") for name in changes]
    for pattern in config.get("alpha_pattern", {}):
        if not any(_is_of(pattern, module) for module in modules):
            raise CheckpointError(f"{path}: {CONFIG_KEY} has an alpha for {pattern!r}, which is no module of the file")


def _is_of(pattern: str, module: str) -> bool:
    name = pattern.removeprefix("^")
    return module == name or module.endswith(f".{name}")


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return ", ".join(keys[:LISTED]) + more
