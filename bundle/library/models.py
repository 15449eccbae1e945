"""The models folder: what is in it, and how models come into it and go.

A model is a bundle's folder, NAME.reel. It appears when it is complete, and it goes at once: what a stopped process leaves is
a folder of another name, which the next command takes away.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import BundleError, MissingBundle, OutputError, UsageError, brief
from ...core.files import folder_prefix, remove, sweep, synchronise_folder
from ...core.paths import demo_bundle_path, find_models_folder
from ...core.progress import Progress
from ..manifest import MANIFEST_NAME, Manifest
from ..reader import Bundle, check_graphs, peek_bundle
from ..writer import new_bundle_folder
from .copying import ByteProgress, check_room, copy_chunks, explain_too_large, finish_file, write_chunk
from .names import BUILT_IN, SUFFIX, check_model_name, is_model_name, models_folder
from .sources import Source, open_source, opened_file, total_bytes

NO_ROOM = "free some, remove a model (edgereel models rm NAME), or choose another folder: EDGEREEL_HOME=FOLDER"


@dataclass(frozen=True)
class Model:
    """A model that is there. bytes: of all its files. manifest: None where it cannot be read, and `problem` says why."""

    name: str
    path: Path
    bytes: int
    manifest: Manifest | None
    problem: str | None = None

    @property
    def is_built_in(self) -> bool:
        """Whether it came with the package."""
        return self.path == demo_bundle_path()

    def to_json(self) -> dict[str, Any]:
        """Return what a list of models says of one, as plain data."""
        facts: dict[str, Any] = {"name": self.name, "path": str(self.path), "bytes": self.bytes}
        facts |= {"built_in": self.is_built_in, "problem": self.problem}
        if self.manifest is not None:
            precision = self.manifest.precision
            facts |= {"title": self.manifest.name, "license": self.manifest.license, "digest": self.manifest.digest}
            facts |= {"compute": precision.compute, "weights": precision.weights}
        return facts


@dataclass(frozen=True)
class AddedModel:
    """A model that was added. left_out: files beside the bundle's own, which were not copied."""

    model: Model
    left_out: list[str]


def list_models() -> list[Model]:
    """Return the built-in model and those of the models folder by name, their manifests read and their content not."""
    found = [_look(BUILT_IN, demo_bundle_path())]
    folder = find_models_folder()
    if folder is None:
        return found
    sweep(folder)
    return found + [_look(name, folder / f"{name}{SUFFIX}") for name in _names(folder)]


def add_model(source: Path, name: str | None = None, on_progress: Progress | None = None) -> AddedModel:
    """Copy a bundle's folder, or that in a tar or zip archive, into the models folder; its content is hashed on the way.

    name: what it is called from now on; None for what it is called where it comes from. on_progress is told of the stage
    `copy`, in megabytes.

    Raises UsageError for a name that cannot be one; BundleError where the source is damaged, unsafe or cannot be read;
    OutputError where a model of that name is there, or it cannot be written; Cancelled. Then nothing is left.
    """
    chosen = None if name is None else _free_name(name)
    with open_source(source) as given:
        target = models_folder() / f"{chosen or _name_there(given, source)}{SUFFIX}"
        _make(target.parent)
        check_room(target.parent, total_bytes(given.manifest), NO_ROOM)
        told = ByteProgress(on_progress, "copy", total_bytes(given.manifest))
        with new_bundle_folder(target) as folder:
            _copy(given, source, folder, told)
            check_graphs(folder, given.manifest)
        synchronise_folder(target.parent)
        return AddedModel(_look(target.stem, target), given.left_out)


def remove_models(names: Sequence[str]) -> int:
    """Remove models by name and return the bytes that they took; none goes where one of the names is none.

    A model that is a link to a folder elsewhere is removed as a link. Raises UsageError, MissingBundle, OutputError.
    """
    folder = models_folder()
    sweep(folder)
    chosen = list(dict.fromkeys(check_model_name(name) for name in names))
    if BUILT_IN in chosen:
        raise UsageError(f"{BUILT_IN} is the built-in model, which goes with edgereel itself")
    for name in chosen:
        _folder_of(name)
    freed = 0
    for name in chosen:
        target = folder / f"{name}{SUFFIX}"
        freed += 0 if target.is_symlink() else _bytes_of(target)
        # Under a name that the next command sweeps, so that no half of it is ever found.
        going = folder / f"{folder_prefix(f'.{name[:40]}-')}{secrets.token_hex(4)}.partial"
        try:
            os.rename(target, going)
        except OSError as error:
            raise OutputError(f"{target}: cannot be removed: {brief(error)}") from error
        remove(going)
        if os.path.lexists(going):
            raise OutputError(f"{going}: cannot be removed entirely: remove it by hand")
    return freed


def find_model(name: str) -> Bundle:
    """Return a model by name, the sizes of its files checked and their content not. Raises BundleError, UsageError."""
    return peek_bundle(_folder_of(check_model_name(name)))


def path_of_model(name: str) -> Path:
    """Return where a model is. Raises UsageError, MissingBundle."""
    return _folder_of(check_model_name(name))


def _copy(given: Source, source: Path, folder: Path, told: ByteProgress) -> None:
    """Copy a bundle's files and last its manifest. OSErrors are the target's."""
    try:
        for name, record in given.manifest.files.items():
            with opened_file(given, source, name) as content, (folder / name).open("xb") as file:
                copy_chunks(content, record, partial(write_chunk, file), source, name, told)
                finish_file(file)
        with (folder / MANIFEST_NAME).open("xb") as file:
            file.write(given.manifest_content)
            finish_file(file)
    except OSError as error:
        raise explain_too_large(error) from error


def _look(name: str, path: Path) -> Model:
    """Return what is there under a name, whatever state it is in."""
    is_taken = name.casefold() == BUILT_IN and path != demo_bundle_path()
    if is_taken or not is_model_name(name):
        return Model(name, path, _bytes_of(path), None, "no command can call it by this name: rename its folder")
    try:
        manifest = peek_bundle(path).manifest
    except (BundleError, OSError) as error:
        return Model(name, path, _bytes_of(path), None, brief(error))
    return Model(name, path, _bytes_of(path), manifest)


def _names(folder: Path) -> list[str]:
    try:
        entries = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read: {brief(error)}") from error
    return sorted(entry[: -len(SUFFIX)] for entry in entries if entry.endswith(SUFFIX) and not entry.startswith("."))


def _free_name(name: str) -> str:
    """Return a name that a new model can have. Raises UsageError, OutputError where there is one already."""
    bare = check_model_name(name)
    if bare.casefold() == BUILT_IN:
        raise UsageError(f"{BUILT_IN} is the built-in model's name")
    taken = {other.casefold(): other for other in _names(models_folder())}
    if (other := taken.get(bare.casefold())) is not None:
        raise OutputError(
            f"there is a model {other} already: choose another name with --name, or remove it: edgereel models rm {other}"
        )
    return bare


def _name_there(given: Source, source: Path) -> str:
    try:
        return _free_name(given.name)
    except UsageError as error:
        raise UsageError(f"{source}: {error}: choose another with --name") from error


def _folder_of(name: str) -> Path:
    folder = models_folder() / f"{name}{SUFFIX}" if name != BUILT_IN else demo_bundle_path()
    if not os.path.lexists(folder):
        known = ", ".join([BUILT_IN, *_names(models_folder())][:20])
        raise MissingBundle(f"there is no model {name}: those that are there are {known}")
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {brief(error)} (EDGEREEL_HOME chooses another folder)") from error
    sweep(folder)


def _bytes_of(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    try:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder) if not entry.is_dir())
    except OSError:
        return 0
