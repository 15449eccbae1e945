"""LoRA files: opened, compared with the model before anything is exported, and fused into its weights in float32.

    W' = W + scale · change

`change.py` says what a change is, `strength.py` what it is multiplied by, `keys.py` which tensors make it up. `diff`
tensors are full differences, of biases, norms and modulation too, which diffusers drops in part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...bundle.manifest import FusedLora
from ...bundle.reader import hash_file
from ...core.errors import CheckpointError, UsageError, one_line
from ..request import FusedAs, Lora
from ..storage.files import FLOAT8_TYPES, READABLE_TYPES, open_safetensors
from ..weights import put_weight
from .change import Change, Shape
from .keys import Match, Naming, match_keys, named_experts, other_kinds, strange_beginnings
from .strength import CONFIG_KEY, NOTHING_FOUND, Strength, is_of, read_strength

PART_TYPES = (*READABLE_TYPES, *FLOAT8_TYPES)
ALPHA_TYPES = (*PART_TYPES, "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
LISTED = 5
"""Number of keys that a message lists before it counts the rest."""
RECORDED = 1000
"""Number of keys left out that the manifest lists."""
PARTIAL = "to leave out what does not fit, write :partial behind the file or its scale"


@dataclass(frozen=True)
class CheckedLora:
    """A LoRA file that fits a model. strength: where its alpha was found. left_out: keys that `:partial` passes over."""

    lora: Lora
    changes: dict[str, Change]
    strength: str
    left_out: tuple[str, ...] = ()

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
            name=one_line(path.name),
            sha256=hash_file(path),
            scale=float(self.lora.scale),
            denoiser=denoiser,
            strength=self.strength[:200],
            left_out=len(self.left_out),
            left_out_keys=[one_line(key)[:200] for key in self.left_out[:RECORDED]],
        )


def fuse_all(loras: Sequence[CheckedLora], module: torch.nn.Module, fused_as: FusedAs) -> None:
    """Fuse LoRAs one after another; with `bf16` the sums' matrices are rounded to it, once, to be half the size."""
    for lora in loras:
        lora.fuse(module)
    if fused_as == "bf16":
        for name in sorted({name for lora in loras for name in lora.changes}):
            parameter = module.get_parameter(name)
            if parameter.ndim > 1:
                put_weight(module, name, parameter.to(torch.bfloat16).to(torch.float32))


def experts_of(lora: Lora, places: Sequence[int]) -> list[int]:
    """Return the denoisers that a file is for: those its keys name or, without, the one asked for.

    places: of the checkpoint's denoisers, 1 that of the high noise levels. Raises UsageError for a denoiser that the
    checkpoint does not have.
    """
    lora.check_file()
    if len(places) == 1:
        if lora.expert not in (1, *places):
            raise UsageError(f"{lora.path}: this checkpoint has one denoiser; leave out @{lora.expert}")
        return list(places)
    with open_safetensors(lora.path, "LoRAs") as tensors:
        named = named_experts(tensors.keys())
    if not named - {None}:
        return [lora.expert]
    experts = sorted({expert or 1 for expert in named})
    if lora.expert == 2 and experts != [2]:
        names = " and ".join(map(str, experts))
        raise UsageError(f"{lora.path}: its tensors say themselves that they are for denoiser {names}; leave out @2")
    return experts


def check_lora(
    lora: Lora, shapes: Mapping[str, Shape], namings: Sequence[Naming], expert: int | None = None
) -> CheckedLora:
    """Return the file's changes to a model whose parameters have these names and shapes.

    expert: take only what is for this one of two denoisers. Raises CheckpointError for a file that is none or that does
    not fit: keys that match nothing, a part missing or given twice, ranks or shapes that disagree, values that are not
    finite. Where the LoRA is `partial`, keys that match nothing and layers of other shapes are left out instead.
    """
    path = lora.path
    lora.check_file()
    with open_safetensors(path, "LoRAs") as tensors:
        keys = sorted(tensors.keys())
        if not keys:
            raise CheckpointError(f"{path}: holds no tensors")
        changes, left_out = _changes(lora, keys, shapes, namings, expert)
        for change in changes.values():
            _check_types(path, tensors, change)
        found = {name: _shapes(tensors, change) for name, change in changes.items()}
        for name in list(changes):
            left_out += _fitted(lora, name, changes, found[name], shapes[name])
        if not changes:
            raise CheckpointError(f"{path}: not one of its layers fits this model; is it a LoRA for another model?")
        for change in changes.values():
            _check_values(path, tensors, change)
        said = _set_factors(path, tensors, changes, found, lora.expert if expert is None else expert)
        without_rank = [name for name, change in changes.items() if change.rank(found[name]) == 0]
    if len(without_rank) == len(changes):
        raise CheckpointError(f"{path}: every layer has rank 0, so it changes nothing; is the file whole?")
    for name in without_rank:  # what rank-adaptive extraction leaves of a layer that does not matter
        del changes[name]
    return CheckedLora(lora, changes, said, tuple(left_out))


def _changes(
    lora: Lora, keys: list[str], shapes: Mapping[str, Shape], namings: Sequence[Naming], expert: int | None
) -> tuple[dict[str, Change], list[str]]:
    """Return changes by parameter, each with all the parts it needs, and the keys that match nothing."""
    path = lora.path
    matches = match_keys(keys, shapes, namings)
    unknown = [key for key in keys if key not in matches]
    named = {match.expert for match in matches.values()}
    experts = set() if named == {None} else {match.expert or 1 for match in matches.values()}
    if unknown and (not lora.partial or other_kinds(unknown) or not matches):
        raise CheckpointError(_not_understood(path, keys, unknown, shapes, namings))
    if expert is None and experts == {1, 2}:
        second = [key for key, match in matches.items() if match.expert == 2]
        raise CheckpointError(
            f"{path}: holds LoRAs for two denoisers, and this checkpoint has one: {_listed(second)} are for the second; "
            "keep the tensors of one of them"
        )
    changes: dict[str, Change] = {}
    for key, match in matches.items():
        if expert is not None and experts and (match.expert or 1) != expert:
            continue
        parts = changes.setdefault(match.parameter, _change(match)).keys
        if match.part in parts:
            raise CheckpointError(f"{path}: {parts[match.part]} and {key} are the same part of {match.parameter}")
        parts[match.part] = key
    for change in changes.values():
        _check_parts(path, change)
    return changes, unknown


def _change(match: Match) -> Change:
    module = match.parameter.removesuffix(".weight").removesuffix(".bias")
    return Change((module, match.module), match.expert)


def _not_understood(
    path: Path, keys: list[str], unknown: list[str], shapes: Mapping[str, Shape], namings: Sequence[Naming]
) -> str:
    """Return the message about keys that match nothing: the kind, the beginning or the layers that are not understood."""
    message = f"{path}: {len(unknown)} of {len(keys)} keys match nothing in this model: {_listed(unknown)}"
    if kinds := other_kinds(unknown):
        return message + "".join(f"; {kind} is not supported" for kind in kinds)
    if beginnings := strange_beginnings(unknown, shapes, namings):
        listed = ", ".join(repr(begin) for begin in beginnings[:LISTED])
        return f"{message}; what stands in front of the layers is not understood: {listed}; take it off the names"
    if len(unknown) < len(keys):
        return f"{message}; {PARTIAL}"
    return f"{message}; is it a LoRA for another model?"


def _check_parts(path: Path, change: Change) -> None:
    kinds = [
        kind
        for kind, found in (
            ("a full difference", "diff" in change.keys),
            ("a LoRA", bool({"down", "up"} & set(change.keys))),
            ("a LoKr", change.is_kronecker),
            ("the bias of a LoRA", "up_bias" in change.keys),
        )
        if found
    ]
    if len(kinds) > 1 or ("diff" in change.keys and len(change.keys) > 1):
        raise CheckpointError(
            f"{path}: has both {' and '.join(kinds)}: {_listed(sorted(change.keys.values()))}"
            if len(kinds) > 1
            else f"{path}: has an alpha for a full difference: {_listed(sorted(change.keys.values()))}"
        )
    if (missing := change.missing_partner()) is not None:
        raise CheckpointError(f"{path}: {missing[0]} has no {missing[1]} beside it")


def _check_types(path: Path, tensors: Any, change: Change) -> None:
    for part, key in change.keys.items():
        kind = tensors.get_slice(key).get_dtype()
        if kind not in (ALPHA_TYPES if part == "alpha" else PART_TYPES):
            raise CheckpointError(f"{path}: {key} is {kind}; LoRAs are read from F32, F16, BF16 or F8")


def _shapes(tensors: Any, change: Change) -> dict[str, Shape]:
    return {part: tuple(tensors.get_slice(key).get_shape()) for part, key in change.keys.items()}


def _fitted(lora: Lora, name: str, changes: dict[str, Change], found: Mapping[str, Shape], wanted: Shape) -> list[str]:
    """Compare a change's shapes with each other and with the parameter's; return its keys where it is left out."""
    change = changes[name]
    if (problem := change.misfit(found, wanted)) is None:
        return []
    if problem:
        raise CheckpointError(f"{lora.path}: {problem}")
    if lora.partial:
        del changes[name]
        return sorted(change.keys.values())
    shapes = ", ".join(f"{change.keys[part]} {list(shape)}" for part, shape in found.items() if part != "alpha")
    raise CheckpointError(
        f"{lora.path}: wrong shape for {name} {list(wanted)} of this model: {shapes}; is it a LoRA for another model? "
        f"{PARTIAL.capitalize()}"
    )


def _check_values(path: Path, tensors: Any, change: Change) -> None:
    for key in change.keys.values():
        # Eight-bit floats have no operators of their own.
        if not torch.isfinite(tensors.get_tensor(key).to(torch.float32)).all():
            raise CheckpointError(f"{path}: {key} has values that are not finite numbers")


def _set_factors(
    path: Path, tensors: Any, changes: Mapping[str, Change], found: Mapping[str, Mapping[str, Shape]], expert: int
) -> str:
    """Set what every change is multiplied by and return where that was found."""
    ranks = {name: rank for name, change in changes.items() if (rank := change.rank(found[name]))}
    scaled = [name for name, change in changes.items() if {"down", "lokr_w1", "lokr_w1_a"} & set(change.keys)]
    given = {
        name: float(tensors.get_tensor(changes[name].keys["alpha"]).to(torch.float32).item())
        for name in scaled
        if "alpha" in changes[name].keys
    }
    if not scaled:
        return "full differences"
    said = read_strength(path, tensors.metadata() or {}, expert, set(ranks.values()))
    if not given or said.patterns:
        _check_patterns(path, said, changes)
    without: list[str] = []
    for name in scaled:
        change, alpha = changes[name], given.get(name)
        _check_agreement(path, said, change, alpha)
        if alpha is None and not given:
            alpha = said.alpha_of(change.module)
        divisor = _rank(path, said, change, ranks.get(name))
        if alpha is None:
            without.append(name)
        elif divisor is not None:
            change.factor = alpha / divisor if name in given else said.factor(alpha, divisor)
    for name, change in changes.items():
        if "up_bias" in change.keys:
            change.factor = _factor_of_pair(path, name, change, changes)
    if not given:
        return said.source
    if without:
        return f"alpha from the tensors; {NOTHING_FOUND} in {len(without)} of {len(scaled)} layers"
    return "alpha from the tensors"


def _check_agreement(path: Path, said: Strength, change: Change, alpha: float | None) -> None:
    """Refuse a tensor and a configuration that say different strengths: each is obeyed by some program."""
    stated = said.alpha_of(change.module) if CONFIG_KEY in said.source else None
    if alpha is not None and stated not in (None, alpha):
        raise CheckpointError(
            f"{path}: {change.keys['alpha']} is {alpha:g}, but {CONFIG_KEY} has alpha {stated:g} for {change.module[0]}; "
            "which is meant is unknown: save the LoRA again with one of them"
        )


def _rank(path: Path, said: Strength, change: Change, rank: float | None) -> float | None:
    """Return what alpha is divided by: the tensors' rank; PEFT's stated one for LoKr, whose whole factors have none."""
    if not change.is_kronecker or said.rank is None or "alpha" in change.keys:
        return rank
    stated = said.rank_of(change.module)
    if stated is not None and rank not in (None, stated):
        raise CheckpointError(f"{path}: {change.module[0]} has rank {rank}, {said.source} says {stated:g}")
    return stated


def _factor_of_pair(path: Path, name: str, change: Change, changes: Mapping[str, Change]) -> float:
    """Return the factor of the matrices that a `lora_B.bias` stands beside: PEFT scales both alike."""
    pair = changes.get(f"{name.removesuffix('.bias')}.weight")
    if pair is None or "up" not in pair.keys:
        raise CheckpointError(f"{path}: {change.keys['up_bias']} has no lora_B (lora_up) beside it")
    return pair.factor


def _check_patterns(path: Path, said: Strength, changes: Mapping[str, Change]) -> None:
    """Refuse patterns that name no module of the file: PEFT takes regular expressions, diffusers writes names."""
    for pattern in said.patterns:
        if not any(is_of(pattern, change.module) for change in changes.values()):
            raise CheckpointError(
                f"{path}: {said.source.removeprefix('alpha from ')} has an alpha for {pattern!r}, "
                "which is no module of the file"
            )


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return ", ".join(keys[:LISTED]) + more
