"""Checkpoint folders in diffusers' layout: opened, checked before a weight is read, and never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, brief
from .component import Component, ComponentLayout, Config
from .layout import (
    INDEX_NAME,
    check_checkpoint_folder,
    check_component_folder,
    pipeline_of,
    read_json,
)
from .storage.files import READABLE_TYPES, open_safetensors, weight_files
from .storage.tensors import read_as, read_headers

__all__ = [
    "OVERRIDES_NAME",
    "READABLE_TYPES",
    "Checkpoint",
    "Component",
    "ComponentLayout",
    "open_checkpoint",
    "open_safetensors",
]

OVERRIDES_NAME = "edgereel.json"
PLAIN = ComponentLayout()
WAY_OUT = "take it out of the file if the model does without it"


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder: its `model_index.json` and, where it has one, its `edgereel.json`.

    replaced: components by name that are read from folders or files elsewhere; a folder's `edgereel.json` goes before the
    checkpoint's. opened: the components that were asked for. notes: what people should know of how it was read.
    recipe, shift: the published recipe and the shift of the noise levels that were asked for.
    encoder: whether the bundle is to have an encoder of pictures even if nothing the checkpoint says needs one.
    """

    folder: Path
    index: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, Path] = field(default_factory=dict)
    opened: list[Component] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipe: str | None = None
    shift: float | None = None
    encoder: bool = False

    @property
    def family(self) -> str:
        """The pipeline class that the checkpoint is for."""
        return pipeline_of(self.index)

    def has(self, name: str) -> bool:
        """Tell whether the pipeline has this component (it may be listed as null)."""
        entry = self.index.get(name)
        return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None

    def component(self, name: str, class_name: str, layout: ComponentLayout = PLAIN) -> Component:
        """Return a component; raise CheckpointError where it is missing, of another class or says what is not known."""
        if not self.has(name):
            raise CheckpointError(f"{self.folder / INDEX_NAME}: no component {name}; a {self.family} needs one")
        if (found := self.index[name][1]) not in (class_name, *layout.stand_ins):
            raise CheckpointError(
                f"{self.folder / INDEX_NAME}: {name} is a {found}; edgereel exports {class_name} there"
            )
        place = self.replaced.get(name, self.folder / name)
        config = _config_of(place, self.folder / name, name, class_name, layout)
        component = Component(place, config, layout, self.notes)
        self.opened.append(component)
        return component

    def check_alive(self) -> None:
        """Read the weights of every opened component once; raise CheckpointError where some are dead or not finite."""
        for component in self.opened:
            component.check_alive()


def _config_of(place: Path, own: Path, name: str, class_name: str, layout: ComponentLayout) -> Config:
    """Return a component's configuration in diffusers' terms, without what does not matter."""
    if place.is_file():
        return _described(place, own, class_name, layout)
    path = place / "config.json"
    config = _converted(path, read_json(path), name, class_name, layout)
    if layout.settings is None:
        return config
    layout.settings.check(path, config, WAY_OUT)
    return layout.settings.kept(config)


def _converted(path: Path, config: Config, name: str, class_name: str, layout: ComponentLayout) -> Config:
    """Return a configuration, another program's made diffusers'; raise CheckpointError for another class's."""
    found = str(config.get("_class_name", class_name))
    if found in layout.converted:
        return _convert(path, config, layout)
    if found != class_name:
        raise CheckpointError(f"{path}: is a {found}; the {name} must be a {class_name}")
    kind = config.get("model_type")
    if layout.model_type is not None and kind not in (None, layout.model_type):
        raise CheckpointError(f"{path}: model_type is {kind}; the {name} must be a {class_name}")
    return config


def _convert(path: Path, config: Config, layout: ComponentLayout) -> Config:
    try:
        return layout.converted[str(config["_class_name"])](config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: cannot be read as a {config['_class_name']}'s: {brief(error)}") from error


def _described(file: Path, own: Path, class_name: str, layout: ComponentLayout) -> Config:
    """Return the configuration of a single file: what its shapes say, and of the rest what stands beside it or replaced.

    own: the folder in the checkpoint whose place the file takes.
    """
    base: Config = {}
    for path in (own / "config.json", file.with_name("config.json")):
        if path.is_file():
            config = read_json(path)
            found = str(config.get("_class_name"))
            if found in layout.converted:
                base |= _convert(path, config, layout)
            elif found == class_name:
                base |= config
    if layout.settings is not None:
        base = layout.settings.kept(base)
    if layout.described is None:
        return base
    stored = read_headers(weight_files(file).paths)

    def shape_of(parameter: str) -> tuple[int, ...] | None:
        found = read_as([parameter], stored, layout.namings).tensors.get(parameter)
        return None if found is None else found.shape

    return layout.described(base, shape_of)


def open_checkpoint(
    folder: Path,
    replaced: Mapping[str, Path] | None = None,
    *,
    recipe: str | None = None,
    shift: float | None = None,
    encoder: bool = False,
) -> Checkpoint:
    """Return the checkpoint in a folder, some components replaced; raise CheckpointError where there is none.

    recipe, shift, encoder: as asked for; with a recipe the checkpoint's scheduler is not needed.
    """
    check_checkpoint_folder(folder)
    index = read_json(folder / INDEX_NAME)
    checkpoint = Checkpoint(folder, index, {}, dict(replaced or {}), recipe=recipe, shift=shift, encoder=encoder)
    for name, other in checkpoint.replaced.items():
        if not checkpoint.has(name):
            raise CheckpointError(f"{folder / INDEX_NAME}: no component {name} that {other} could replace")
        check_component_folder(name, other)
    for source in (folder, *checkpoint.replaced.values()):
        if (source / OVERRIDES_NAME).exists():
            checkpoint.overrides.update(read_json(source / OVERRIDES_NAME))
    return checkpoint
