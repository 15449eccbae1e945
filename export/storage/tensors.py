"""The tensors of a component's files, by the names the model has for them.

Headers alone are read. Names are published with wrappers of modules in them (`_orig_mod.`), with a beginning common to all
(`model.diffusion_model.`), in the model's own naming or in its authors': whichever reading explains most is taken, and
what it does not explain is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...core.errors import CheckpointError
from .files import FLOAT8_TYPES, READABLE_TYPES, open_safetensors
from .scaled import INPUT_SCALES, MARKS, SCALES, Dequantized, check_format, read_scale

Shape = tuple[int, ...]
Naming = Callable[[str], str]

WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"))
"""Segments of names that torch's compiler and parallel wrappers put in."""

OTHER_COMPONENTS = frozenset(
    ("vae", "first_stage_model", "text_encoder", "text_encoders", "cond_stage_model", "conditioner", "clip_vision",
     "audio_vae", "vocoder", "text_embedding_projection")
)  # fmt: skip
"""Beginnings of what else a file of several components holds."""

QUANTIZED = {
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_scale_2": "NVFP4",
    ".smooth_factor": "SVDQuant",
    ".proj_down": "SVDQuant",
}
"""Whose quantization a tensor's name shows, of those that cannot be read."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, unread. scale: the tensor that it is multiplied by, None for plain numbers."""

    path: Path
    key: str
    shape: Shape
    kind: str
    scale: StoredTensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether torch computes with it as it is stored."""
        return self.scale is None and self.kind in READABLE_TYPES

    def reader(self) -> Callable[[Path], Dequantized]:
        """Return what opens the file so that `get_tensor` gives this tensor in numbers that torch computes with."""
        scale = None if self.scale is None else read_scale(self.scale.path, self.scale.key, self.key, self.shape)

        def open_file(path: Path) -> Dequantized:
            return Dequantized(open_safetensors(path), scale)

        return open_file

    def read(self) -> torch.Tensor:
        """Return the values in float32, or in the narrower type that they are stored in."""
        if self.is_plain:
            with open_safetensors(self.path) as file:
                tensor: torch.Tensor = file.get_tensor(self.key)
            return tensor
        with self.reader()(self.path) as dequantized:
            return dequantized.get_tensor(self.key)


@dataclass(frozen=True)
class Reading:
    """The tensors that fill a model, by the model's names, what is left over, and the beginning that was taken off."""

    tensors: dict[str, StoredTensor]
    extra: dict[str, StoredTensor]
    beginning: str = ""


def read_headers(paths: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return every tensor of the files by its name; raise CheckpointError where two files have the same one."""
    stored: dict[str, StoredTensor] = {}
    for path in paths:
        with open_safetensors(path) as file:
            for key in file.keys():  # noqa: SIM118 -- not a mapping
                view = file.get_slice(key)
                if key in stored:
                    raise CheckpointError(f"{path}: has {key}, which {stored[key].path.name} has too; keep one of them")
                stored[key] = StoredTensor(path, key, tuple(view.get_shape()), view.get_dtype())
    return stored


def read_as(names: Iterable[str], stored: Mapping[str, StoredTensor], namings: Sequence[Naming]) -> Reading:
    """Return the reading of the stored tensors that gives most of a model's named parameters.

    Raises CheckpointError where a file holds the model twice.
    """
    names = list(names)
    plain = _without_wrappers(_with_scales(stored))
    readings = [
        _reading(names, plain, naming, beginning)
        for naming in namings
        for beginning in _beginnings(names, plain, naming)
    ]
    best = max(readings, key=lambda reading: len(reading.tensors))
    twins = {reading.beginning for reading in readings if len(reading.tensors) == len(best.tensors) == len(names)}
    rivals = sorted(begin for begin in twins if not any(other != begin and begin.endswith(other) for other in twins))
    if len(rivals) > 1:
        raise CheckpointError(
            f"{next(iter(plain.values())).path}: holds the model {len(rivals)} times, under "
            f"{' and '.join(map(repr, rivals))}; keep the tensors of one"
        )
    return best


def quantization_of(names: Iterable[str]) -> str | None:
    """Return whose quantization the names show, None where they show none that is known."""
    return next((kind for name in names for mark, kind in QUANTIZED.items() if name.endswith(mark)), None)


def _reading(names: list[str], stored: Mapping[str, StoredTensor], naming: Naming, beginning: str) -> Reading:
    places = {name: beginning + naming(name) for name in names}
    tensors = {name: stored[place] for name, place in places.items() if place in stored}
    used = {places[name] for name in tensors}
    extra = {
        place: tensor
        for place, tensor in stored.items()
        if place not in used and not (beginning and place.split(".")[0] in OTHER_COMPONENTS)
    }
    return Reading(tensors, extra, beginning)


def _beginnings(names: list[str], stored: Mapping[str, StoredTensor], naming: Naming) -> list[str]:
    """Return what may stand in front of every name: nothing, or what stands in front of the first that is found."""
    found = {""}
    for name in (naming(name) for name in names):
        ending = f".{name}"
        begins = {place.removesuffix(name) for place in stored if place.endswith(ending)}
        if begins or name in stored:
            return sorted(found | {begin for begin in begins if begin.split(".")[0] not in OTHER_COMPONENTS})
    return sorted(found)


def _without_wrappers(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return tensors by their names without the segments of wrappers, where that leaves every name its own."""
    bare = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in stored}
    if len(bare) != len(stored):
        return dict(stored)
    return {name: stored[wrapped] for name, wrapped in bare.items()}


def _with_scales(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors, scales beside weights joined to them; raise CheckpointError for a format that is not known."""
    joined = dict(stored)
    for name, tensor in stored.items():
        owner, _, ending = name.rpartition(".")
        if ending in MARKS:
            check_format(tensor.path, name, ending)
            del joined[name]
        elif ending in INPUT_SCALES and f"{owner}.weight" in stored:
            del joined[name]  # of activations, for products in 8 bits
        elif ending in SCALES and (weight := stored.get(f"{owner}.weight")) is not None:
            del joined[name]
            if weight.kind in READABLE_TYPES:
                _check_idle(tensor, weight)
            else:
                joined[f"{owner}.weight"] = replace(weight, scale=tensor)
    return joined


def _check_idle(scale: StoredTensor, weight: StoredTensor) -> None:
    """Refuse a scale other than 1 beside a weight that is not quantized: some programs multiply by it, some do not."""
    if not bool((scale.read().to(torch.float32) == 1).all()):
        raise CheckpointError(
            f"{scale.path}: {scale.key} scales {weight.key}, which is {weight.kind} and not quantized; "
            "which is meant is unknown"
        )


def check_kind(name: str, tensor: StoredTensor) -> None:
    """Raise CheckpointError for a type that weights cannot be read from."""
    scalable = (*FLOAT8_TYPES, "I8")
    if tensor.kind in READABLE_TYPES or tensor.kind in FLOAT8_TYPES:
        return
    if tensor.kind in scalable and tensor.scale is not None:
        return
    raise CheckpointError(
        f"{tensor.path}: tensor {name} is {tensor.kind}, quantized weights without a scale that edgereel reads; "
        "export from F32, F16 or BF16 weights"
    )


def is_marked(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name has one of these patterns in it."""
    return any(re.search(pattern, name) for pattern in patterns)
