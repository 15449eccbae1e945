"""Checkpoint folders in diffusers' layout: opened, checked before a weight is read, and never unpickled."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open

from ..core.errors import CheckpointError, brief
from . import weights
from .layout import (
    INDEX_NAME,
    PICKLE_SUFFIXES,
    check_checkpoint_folder,
    check_component_folder,
    pipeline_of,
    read_json,
)

OVERRIDES_NAME = "edgereel.json"
READABLE_TYPES = ("F64", "F32", "F16", "BF16")
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder: its `model_index.json` and, where it has one, its `edgereel.json`.

    replaced: components by name that are read from folders elsewhere, whose `edgereel.json` goes before the checkpoint's.
    encoder: whether the bundle is to have an encoder of pictures even if nothing the checkpoint says needs one.
    """

    folder: Path
    index: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, Path] = field(default_factory=dict)
    encoder: bool = False

    @property
    def family(self) -> str:
        """The pipeline class that the checkpoint is for."""
        return pipeline_of(self.index)

    def has(self, name: str) -> bool:
        """Tell whether the pipeline has this component (it may be listed as null)."""
        entry = self.index.get(name)
        return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None

    def component(self, name: str, class_name: str) -> Component:
        """Return a component; raise CheckpointError where it is missing or of another class."""
        if not self.has(name):
            raise CheckpointError(f"{self.folder / INDEX_NAME}: no component {name}; a {self.family} needs one")
        if (found := self.index[name][1]) != class_name:
            raise CheckpointError(
                f"{self.folder / INDEX_NAME}: {name} is a {found}; edgereel exports {class_name} there"
            )
        folder = self.replaced.get(name, self.folder / name)
        component = Component(folder, read_json(folder / "config.json"))
        if (found := component.config.get("_class_name", class_name)) != class_name:
            raise CheckpointError(f"{folder / 'config.json'}: is a {found}; the {name} must be a {class_name}")
        return component


@dataclass(frozen=True)
class Component:
    """A folder with a `config.json` and safetensors."""

    folder: Path
    config: dict[str, Any]

    def skeleton(self, build: Callable[[dict[str, Any]], Any]) -> Any:
        """Return the module that `build` makes of the configuration, parameters without memory."""
        try:
            with init_empty_weights(include_buffers=False):
                return build(self.config).eval()
        except Exception as error:  # model classes raise whatever their arithmetic stumbles on
            raise CheckpointError(
                f"{self.folder / 'config.json'}: cannot build the model from this configuration: {brief(error)}"
            ) from error

    def check(self, skeleton: Any, aliases: Mapping[str, str] | None = None) -> None:
        """Compare names and shapes in the safetensors headers with the skeleton's; raise CheckpointError.

        aliases: other names of tensors: what a tensor is tied to, or how files of another layout call it.
        """
        stored = self._stored()
        expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        absent = [name for name in expected if _source(name, stored, aliases or {}) is None]
        ignored = [
            re.compile(pattern) for pattern in getattr(skeleton, "_keys_to_ignore_on_load_unexpected", None) or ()
        ]
        known = {*expected, *(aliases or {}).values()}
        extra = [name for name in stored if name not in known and not any(p.search(name) for p in ignored)]
        for names, problem in ((absent, "is missing"), (extra, "does not belong to this configuration")):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise CheckpointError(
                    f"{self.folder}: tensor {names[0]}{more} {problem}; is config.json the right one?"
                )
        for name, shape in expected.items():
            source = _source(name, stored, aliases or {}) or name
            path, found, kind = stored[source]
            if found != shape:
                raise CheckpointError(
                    f"{path}: tensor {source} has shape {list(found)}, config.json asks for {list(shape)}"
                )
            if kind not in READABLE_TYPES:
                raise CheckpointError(f"{path}: tensor {source} is {kind}; export from F32, F16 or BF16 weights")

    def load(self, skeleton: Any, aliases: Mapping[str, str] | None = None) -> Any:
        """Fill the skeleton with the stored weights, which count as float32, and return it; `check` comes first.

        Large ones stay in their files until something is computed with them: see `StoredWeight`.
        """
        stored = self._stored()
        sources = {name: _source(name, stored, aliases or {}) or name for name in skeleton.state_dict()}
        loaded: dict[str, torch.Tensor] = {}
        for path in sorted({stored[source][0] for source in sources.values()}):
            with open_safetensors(path) as file:
                for source in sorted({s for s in sources.values() if stored[s][0] == path}):
                    shape = stored[source][1]
                    if len(shape) > 1 and math.prod(shape) >= weights.STORED_SIZE:
                        loaded[source] = weights.StoredWeight(open_safetensors, path, source, shape, torch.float32)
                    else:
                        loaded[source] = file.get_tensor(source).to(torch.float32)
        skeleton.load_state_dict({name: loaded[source] for name, source in sources.items()}, assign=True)
        return skeleton.requires_grad_(False)

    def _stored(self) -> dict[str, tuple[Path, tuple[int, ...], str]]:
        """Return path, shape and type of every stored tensor, read from the headers."""
        stored = {}
        for path in weight_files(self.folder):
            with open_safetensors(path) as file:
                for name in file.keys():  # noqa: SIM118 -- not a mapping
                    view = file.get_slice(name)
                    stored[name] = (path, tuple(view.get_shape()), view.get_dtype())
        return stored


def open_checkpoint(folder: Path, replaced: Mapping[str, Path] | None = None) -> Checkpoint:
    """Return the checkpoint in a folder, some components replaced; raise CheckpointError where there is none."""
    check_checkpoint_folder(folder)
    checkpoint = Checkpoint(folder, read_json(folder / INDEX_NAME), {}, dict(replaced or {}))
    for name, other in checkpoint.replaced.items():
        if not checkpoint.has(name):
            raise CheckpointError(f"{folder / INDEX_NAME}: no component {name} that {other} could replace")
        check_component_folder(name, other)
    for source in (folder, *checkpoint.replaced.values()):
        if (source / OVERRIDES_NAME).exists():
            checkpoint.overrides.update(read_json(source / OVERRIDES_NAME))
    return checkpoint


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a component, each present; raise CheckpointError otherwise."""
    for stem in WEIGHT_STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            return _shards(index)
        if (folder / f"{stem}.safetensors").exists():
            return [folder / f"{stem}.safetensors"]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]}: pickled weights can run code and are not read; "
            "save the model again with safe_serialization=True"
        )
    raise CheckpointError(f"{folder}: has no {' or '.join(f'{stem}.safetensors' for stem in WEIGHT_STEMS)}")


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


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file, tensors unread; raise CheckpointError where it is none."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: is not a whole safetensors file ({brief(error)}); copy or download it again"
        ) from error


def _source(name: str, stored: Mapping[str, Any], aliases: Mapping[str, str]) -> str | None:
    """Return the stored tensor that fills a parameter: its own or the one that it is tied to."""
    if name in stored:
        return name
    other = aliases.get(name) or next((alias for alias, target in aliases.items() if target == name), None)
    return other if other in stored else None
