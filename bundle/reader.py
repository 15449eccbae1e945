"""Reading a bundle: nothing in it is trusted before it is checked.

Opening reads `reel.json`, checks its digest and schema, that every file is a plain regular file in the folder with the
declared size and content, and that no graph refers to data other than the file it declares. Content hashes are remembered
by path, size and time of change, so that opening a large bundle again does not read it again; `verify` always does.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core import paths
from ..core.errors import BundleError, MissingBundle, OutputError, one_line
from ..core.files import sha256_of, write_text
from ..core.progress import Progress, report_progress
from .external_data import external_data_of
from .library.names import find_bundle, no_such_bundle
from .manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, digest_of, is_plain_file_name
from .untrusted import open_plain, parse_json, read_plain

# A manifest of two denoisers, 800 layers each named, has 200 KB and 10,000 values.
LARGEST_MANIFEST = 4 * 2**20
"""Bytes of the largest reel.json that is read."""
_MOST_VALUES = 2**17
_DEEPEST = 32
_LARGEST_GRAPH = 2**28
_LARGEST_MEMORY = 2**24
# File systems keep times in steps of up to 2 s (FAT). A file changed this recently could change once more unseen.
_SETTLED = 2 * 10**9
# The ways json.dumps lays a document out, by what follows its first brace; see _check_digest.
_LAYOUTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ('\n  "', {"indent": 2}),
    ('\n    "', {"indent": 4}),
    ('\n\t"', {"indent": "\t"}),
    ('"', {}),
    ('"', {"separators": (",", ":")}),
)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and files have been checked."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle."""
        return self.folder / name

    def check_graph(self, name: str) -> None:
        """Raise BundleError where a graph's files have another size than when they were checked.

        Weights stay in their file, mapped into memory, and the system ends a process that reads behind the end of one.
        """
        graph = self.manifest.roles.graphs()[name]
        for file in (graph.file, graph.data):
            _check_file(self.folder, file, self.manifest.files[file].size)


def open_bundle(folder: str | os.PathLike[str], *, on_progress: Progress | None = None) -> Bundle:
    """Open a bundle for use; content that was hashed before and has not changed since is not read again.

    folder: one's path, or the name of a model in the user's models folder.

    Raises BundleError with the file and the reason where anything about the bundle is missing, damaged or unsafe,
    Cancelled where on_progress returns False.
    """
    return _open(find_bundle(folder), _HashMemory.load(), on_progress)


def verify_bundle(folder: str | os.PathLike[str], *, on_progress: Progress | None = None) -> Bundle:
    """Open a bundle and hash every file of it, whatever is remembered. Raises BundleError like open_bundle."""
    return _open(find_bundle(folder), None, on_progress)


def peek_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle's manifest and compare the sizes of its files, not their content: for a look, not for use.

    Raises BundleError.
    """
    opened = find_bundle(folder)
    manifest = parse_manifest(_read_manifest(opened))
    for name, record in manifest.files.items():
        _check_file(opened, name, record.size)
    return Bundle(opened, manifest)


def _open(folder: Path, memory: _HashMemory | None, on_progress: Progress | None) -> Bundle:
    manifest = parse_manifest(_read_manifest(folder))
    for name, record in manifest.files.items():
        _check_file(folder, name, record.size)
    for index, (name, record) in enumerate(manifest.files.items()):
        report_progress(on_progress, "check", index, len(manifest.files))
        path = folder / name
        actual = hash_file(path) if memory is None else memory.hash(path)
        if actual != record.sha256:
            raise BundleError(f"{path}: the content is not what reel.json declares (sha256 differs): copy it again")
    report_progress(on_progress, "check", len(manifest.files), len(manifest.files))
    if memory is not None:
        memory.save()
    check_graphs(folder, manifest)
    return Bundle(folder, manifest)


def check_graphs(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError where a graph in the folder refers to other data than the manifest declares."""
    for graph in manifest.roles.graphs().values():
        _check_graph(folder, graph.file, graph.data, manifest.files[graph.data].size)


def _read_manifest(folder: Path) -> str:
    path = folder / MANIFEST_NAME
    try:
        if not folder.is_dir():
            raise MissingBundle(no_such_bundle(folder))
        return read_plain(path, LARGEST_MANIFEST).decode()
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: has no {MANIFEST_NAME}, so it is not a bundle (or its export did not finish)"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: not UTF-8 text: copy the bundle again") from error


def parse_manifest(text: str) -> Manifest:
    """Check version, digest and types, in this order: a newer bundle is named as such, not as a damaged one.

    Raises BundleError.
    """
    try:
        data = parse_json(text, _MOST_VALUES)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{MANIFEST_NAME}: must hold a JSON object")
    _check_depth(data)
    version = data.get("schema")
    if type(version) is not int or version < 1:
        raise BundleError(f"{MANIFEST_NAME}: schema is {version!r}: it must be a positive whole number")
    if version > SCHEMA_VERSION:
        release = str(data.get("read_by", "of a newer release"))[:40]
        raise BundleError(
            f"{MANIFEST_NAME}: schema {version} is newer than this edgereel reads ({SCHEMA_VERSION}); "
            f"it needs edgereel {release}: pip install -U edgereel"
        )
    _check_digest(text, data)
    try:
        return Manifest.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleError(f"{MANIFEST_NAME}: {one_line(place[:200])}: {first['msg'][:200]}") from error


def _check_depth(data: dict[str, Any]) -> None:
    """Refuse values so deep inside others that whoever walks through them would run out of stack."""
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        holders = (value.values() if isinstance(value, dict) else value for value in level)
        level = [inner for held in holders for inner in held if isinstance(inner, dict | list)]
        if not level:
            return
    raise BundleError(f"{MANIFEST_NAME}: has values more than {_DEEPEST} deep inside others")


def _check_digest(text: str, data: dict[str, Any]) -> None:
    """Check that the manifest is, to the byte, what was written.

    The digest is of the data, and the same data can be written with other spaces, number forms, escapes or doubled
    keys. So the text must also be what json.dumps makes of the data, in one of its usual layouts.
    """
    try:
        # A text with no character that json.dumps can escape is the same either way, so one of the two is enough.
        escaped = text.isascii() and "\x7f" not in text
        layouts = (layout for beginning, layout in _LAYOUTS if text.startswith(beginning, 1))
        if data.get("digest") == digest_of(data) and text.removesuffix("\n") in (
            json.dumps(data, ensure_ascii=escaped, **layout) for layout in layouts
        ):
            return
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME}: {error}") from error
    raise BundleError(f"{MANIFEST_NAME}: was changed after it was written (its digest differs): copy the bundle again")


def _check_file(folder: Path, name: str, size: int) -> None:
    path = folder / name
    if not is_plain_file_name(name) or name == MANIFEST_NAME:
        raise BundleError(f"{MANIFEST_NAME}: {name!r} is not a plain file name inside the bundle")
    try:
        information = path.lstat()
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing: copy the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(information.st_mode):
        raise BundleError(f"{path}: must be a regular file, not a link or folder")
    if information.st_size != size:
        raise BundleError(
            f"{path}: is {information.st_size} bytes, {MANIFEST_NAME} declares {size}: copy the bundle again"
        )


def _check_graph(folder: Path, graph_file: str, data_file: str, data_size: int) -> None:
    path = folder / graph_file
    try:
        if path.stat().st_size > _LARGEST_GRAPH:
            raise BundleError(
                f"{path}: graphs of more than {_LARGEST_GRAPH >> 20} MiB are not read: weights belong into {data_file}"
            )
        references = external_data_of(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    for reference in references:
        if reference.location != data_file:
            raise BundleError(f"{path}: refers to data in {reference.location!r}; it may only use {data_file}")
        end = reference.offset + reference.length
        if end > data_size:
            raise BundleError(f"{path}: refers to bytes up to {end} of {data_file}, which has {data_size}")


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal. Raises BundleError where it cannot be read."""
    try:
        with open_plain(path, follow=True) as file:
            return sha256_of(file)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def hashes_path() -> Path:
    """Return where the content hashes of files seen before are kept, in the user's cache folder; it may not exist."""
    return paths.cache_folder() / "hashes.json"


def forget_hashes() -> int:
    """Delete the hashes that are kept and return the bytes freed: bundles are hashed again at their next use.

    Raises OutputError where they cannot be deleted.
    """
    path = hashes_path()
    if not path.is_file():  # anything else of that name is not edgereel's
        return 0
    try:
        size = path.lstat().st_size
        path.unlink()
    except FileNotFoundError:  # another process was faster
        return 0
    except OSError as error:
        raise OutputError(f"cannot delete {path}: {error.strerror}") from error
    return size


class _HashMemory:
    """Content hashes of files seen before, by absolute path, size and time of last change."""

    def __init__(self, path: Path, known: dict[str, str]) -> None:
        self._path = path
        self._known = known
        self._changed = False

    @classmethod
    def load(cls) -> _HashMemory:
        path = hashes_path()
        try:
            known = json.loads(read_plain(path, _LARGEST_MEMORY))
        except (OSError, ValueError, RecursionError, BundleError):
            known = {}
        if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
            known = {}
        return cls(path, known)

    def hash(self, path: Path) -> str:
        information = path.stat()
        changed = (information.st_size, information.st_mtime_ns, information.st_ctime_ns, information.st_ino)
        key = f"{path.resolve()}|{'|'.join(map(str, changed))}"
        if key in self._known:
            return self._known[key]
        content = hash_file(path)
        if abs(time.time_ns() - max(information.st_mtime_ns, information.st_ctime_ns)) > _SETTLED:
            self._known[key] = content
            self._changed = True
        return content

    def save(self) -> None:
        """Write the memory back; a cache folder that cannot be written costs time at the next start, nothing else."""
        if not self._changed:
            return
        newest = dict(list(self._known.items())[-4096:])
        with contextlib.suppress(OSError, OutputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(newest))
