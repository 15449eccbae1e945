"""Which safetensors files hold a component's weights, in every layout they are published in. Nothing is ever unpickled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...core.errors import CheckpointError, brief
from ..layout import PICKLE_SUFFIXES, read_json

READABLE_TYPES = ("F64", "F32", "F16", "BF16")
FLOAT8_TYPES = ("F8_E4M3", "F8_E5M2")
"""Read as they are, or scaled: see `scaled.py`."""
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
GGUF_MARK = b"GGUF"


@dataclass(frozen=True)
class WeightFiles:
    """The files of a component. note: what people should know of the choice, None where there was none."""

    paths: list[Path]
    note: str | None = None


def open_safetensors(path: Path, what: str = "weights") -> Any:
    """Open a safetensors file, tensors unread; raise CheckpointError where it is none. what: it is, for the message."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        if _begins_as_gguf(path):
            raise CheckpointError(
                f"{path}: is a GGUF file, quantized for other programs; edgereel reads {what} from safetensors: "
                "take the model's safetensors"
            ) from error
        raise CheckpointError(
            f"{path}: is not a whole safetensors file ({brief(error)}); copy or download it again"
        ) from error


def weight_files(place: Path) -> WeightFiles:
    """Return the safetensors files of a component, each present; raise CheckpointError otherwise.

    place: a folder, or a single safetensors file. In a folder, in this order, as diffusers: an index of shards; a whole
    file; the one variant there is (`.bf16.`); shards without an index; the only safetensors file there is.
    """
    if place.is_file():
        return WeightFiles([place])
    for stem in WEIGHT_STEMS:
        index = place / f"{stem}.safetensors.index.json"
        if index.exists():
            return WeightFiles(_shards(index))
        if (place / f"{stem}.safetensors").exists():
            return WeightFiles([place / f"{stem}.safetensors"])
    found = _variant(place) or _loose_shards(place) or _only_file(place)
    if found is not None:
        return found
    raise CheckpointError(_none_there(place))


def _variant(folder: Path) -> WeightFiles | None:
    """Return the files of the one variant in a folder, None where there is none."""
    found: dict[str, Path] = {}
    for stem in WEIGHT_STEMS:
        for path in sorted(folder.glob(f"{stem}*")):
            name = path.name.removeprefix(stem)
            if plain := re.fullmatch(r"\.(?P<variant>[A-Za-z0-9_]+)\.safetensors", name):
                found.setdefault(plain["variant"], path)
            if index := re.fullmatch(r"\.safetensors\.index\.(?P<variant>[A-Za-z0-9_]+)\.json", name):
                found[index["variant"]] = path
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: has its weights in several variants, {', '.join(sorted(found))}, and none without; keep one"
        )
    for variant, path in found.items():
        paths = _shards(path) if path.suffix == ".json" else [path]
        return WeightFiles(paths, f"{folder}: the {variant} variant is read, the only one there")
    return None


def _loose_shards(folder: Path) -> WeightFiles | None:
    """Return shards that say themselves how many they are, all of them there; None where there are none."""
    numbered = re.compile(
        r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<variant>\.[A-Za-z0-9_]+)?\.safetensors"
    )
    sets: dict[tuple[str, str, str], dict[int, Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if match := numbered.fullmatch(path.name):
            named = (match["stem"], match["count"], match["variant"] or "")
            sets.setdefault(named, {})[int(match["index"])] = path
    if not sets:
        return None
    if len(sets) > 1:
        raise CheckpointError(f"{folder}: has shards of several files and no index: {_names(folder)}; keep one set")
    ((_, count, _), shards) = next(iter(sets.items()))
    if missing := [index for index in range(1, int(count) + 1) if index not in shards]:
        raise CheckpointError(
            f"{folder}: shard {missing[0]} of {int(count)} is missing, and so is an index; copy the whole checkpoint"
        )
    return WeightFiles([shards[index] for index in sorted(shards)], f"{folder}: {len(shards)} shards without an index")


def _only_file(folder: Path) -> WeightFiles | None:
    """Return the only safetensors file in a folder whatever its name; None where there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        raise CheckpointError(f"{folder}: has several safetensors files, {_names(folder)}; give the one that is meant")
    return WeightFiles(files, f"{files[0]}: is read, the only safetensors file there") if files else None


def _none_there(folder: Path) -> str:
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLE_SUFFIXES:
            return (
                f"{path}: pickled weights can run code and are not read; "
                "save the model again with safe_serialization=True"
            )
        if path.suffix == ".gguf":
            return f"{path}: is a GGUF file, quantized for other programs; edgereel reads weights from safetensors"
    return f"{folder}: has no {' or '.join(f'{stem}.safetensors' for stem in WEIGHT_STEMS)}"


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map of tensor names to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {name!r}; shards are .safetensors files beside the index")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name}: shard is missing; copy the whole checkpoint")
    return [index.parent / name for name in names]


def _names(folder: Path) -> str:
    names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF_MARK)) == GGUF_MARK
    except OSError:
        return False
