"""Where a model is added from: a bundle's folder, or a tar or zip archive of one, made by anyone."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from ...core.errors import BundleError, MissingBundle, brief
from ...core.units import format_bytes
from ..manifest import MANIFEST_NAME, Manifest
from ..reader import LARGEST_MANIFEST, parse_manifest, peek_bundle
from ..untrusted import open_plain, read_plain
from .members import MOST_MEMBERS, Member, bundle_folder, check_file_names, member_name
from .names import SUFFIX
from .tar import is_tar, tar_members

ARCHIVES = (".tar", ".zip")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-Zip"}
_PACKED[b"Rar!"] = "RAR"
_HEADERS = 2**20
"""Bytes that zipfile may read at once while it looks for what an archive holds."""
_LARGEST_READ = 2**24
_MOST_TIMES = 100
"""Times its own size that an archive may unpack to: weights become a third smaller at most."""
_SMALL = 2**24


class Readable(Protocol):
    """What gives its bytes from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes, none at the end."""


class Source(Protocol):
    """A bundle to copy. name: what it is called there. manifest_content: reel.json, to the byte. left_out: other files."""

    name: str
    manifest: Manifest
    manifest_content: bytes
    left_out: list[str]

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """Give one of the manifest's files for reading."""


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Give the bundle that is in a folder or an archive: its manifest checked, its files there with their sizes.

    Raises BundleError, MissingBundle where there is nothing.
    """
    with ExitStack() as opened:
        with source_errors(path):  # not around the caller's block: what he cannot write is not the source's fault
            try:
                is_folder = stat.S_ISDIR(path.stat().st_mode)
            except FileNotFoundError:
                raise MissingBundle(f"{path}: {_what_is_missing(path)}") from None
            file = None if is_folder else opened.enter_context(open_plain(path, follow=True))
            source: Source = _Folder(path) if file is None else _open_archive(path, file)
        yield source


@contextmanager
def opened_file(source: Source, path: Path, name: str) -> Iterator[Readable]:
    """Give a file of the source at this path for reading. Raises BundleError where it cannot be opened."""
    with ExitStack() as opened:
        with source_errors(path):
            file = opened.enter_context(source.open(name))
        yield file


@contextmanager
def source_errors(path: Path) -> Iterator[None]:
    """Say in one line that a source cannot be read, and why, where the block meets an error of the system or of zipfile."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError(
            f"{path}: cannot be read: {reason}; if it is on a drive, connect it and run the command again"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise BundleError(f"{path}: is no whole zip archive: {brief(error)}: copy it again") from error


class _Folder:
    """A bundle's folder."""

    def __init__(self, path: Path) -> None:
        if not os.path.lexists(path / MANIFEST_NAME):
            raise MissingBundle(_no_bundle(path))
        bundle = peek_bundle(path)
        self.manifest_content = read_plain(bundle.path(MANIFEST_NAME), LARGEST_MANIFEST)
        self.manifest = _manifest(self.manifest_content)
        self.name = _bare(path.resolve().name)
        self._path = bundle.folder
        files = {*self.manifest.files, MANIFEST_NAME}
        self.left_out = sorted(entry for entry in os.listdir(bundle.folder) if entry not in files)

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        with open_plain(self._path / name) as file:
            yield file


class _Tar:
    """An archive without compression: a file's bytes lie in it one after another."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        self._members, self.name, self.left_out = _sort(path, tar_members(file, size))
        with self.open(MANIFEST_NAME) as manifest:
            self.manifest_content = _read_manifest(manifest)
        self.manifest = _manifest(self.manifest_content)
        self.left_out += _check_members(self.manifest, self._members)

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        member = self._members[name]
        self._file.seek(member.offset)
        yield _Part(self._file, member.size)


class _Zip:
    """A zip archive, its files stored or deflated."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._bounded = _BoundedReads(file)
        self._archive = zipfile.ZipFile(self._bounded)
        self._bounded.most = _LARGEST_READ
        listed = self._archive.infolist()
        if len(listed) > MOST_MEMBERS:
            raise BundleError(f"holds more than {MOST_MEMBERS} entries: a bundle has few files")
        self._members, self.name, self.left_out = _sort(path, [_zip_member(info) for info in listed])
        self._infos = {_zip_member(info).name: info for info in listed}
        with self.open(MANIFEST_NAME) as manifest:
            self.manifest_content = _read_manifest(manifest)
        self.manifest = _manifest(self.manifest_content)
        self.left_out += _check_members(self.manifest, self._members)
        unpacked, size = total_bytes(self.manifest), os.fstat(file.fileno()).st_size
        if unpacked > max(_MOST_TIMES * size, _SMALL):
            raise BundleError(
                f"would grow from {format_bytes(size)} to {format_bytes(unpacked)}: no model is packed so small"
            )

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        with self._archive.open(self._infos[self._members[name].name]) as file:
            yield file


class _Part:
    """So many bytes of a file from where it stands."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        content = self._file.read(min(size, self._left))
        self._left -= len(content)
        return content


class _BoundedReads:
    """A file for zipfile, which would read a list of files of any length at once: no more than `most` bytes are."""

    def __init__(self, file: BinaryIO) -> None:
        self.most = _HEADERS
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(self.most + 1 if size < 0 else min(size, self.most + 1))
        if len(content) > self.most:
            raise BundleError(f"its list of files is longer than the {self.most} bytes that are read")
        return content

    def seekable(self) -> bool:
        return True


def _open_archive(path: Path, file: BinaryIO) -> Source:
    beginning = file.read(512)
    file.seek(0)
    for magic, kind in _PACKED.items():
        if beginning.startswith(magic):
            raise BundleError(f"{path}: is packed by {kind}: unpack it and add the bundle's folder, or the .tar in it")
    try:
        if beginning.startswith(b"PK"):
            return _Zip(path, file)
        if is_tar(beginning):
            return _Tar(path, file)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises what its fields lead to: ValueError, OverflowError, struct.error
        raise BundleError(f"{path}: is no whole zip archive: {brief(error)}: copy it again") from error
    raise BundleError(f"{path}: is neither a bundle's folder nor a tar or zip archive of one")


def _what_is_missing(path: Path) -> str:
    if path.as_posix().startswith(("http:", "https:", "hf:")):
        return "edgereel downloads nothing: bring it here by other means, and add the file or folder"
    return "there is no such folder or archive"


def _no_bundle(folder: Path) -> str:
    """Return what to tell of a folder that is no bundle: what in it could be added, as on a drive."""
    if (folder / "model_index.json").is_file():
        return f"{folder}: is a checkpoint; edgereel export makes a bundle of it"
    inside = sorted(entry for entry in os.listdir(folder) if entry.endswith((SUFFIX, *ARCHIVES)))
    if not inside:
        return f"{folder}: has no {MANIFEST_NAME}, so it is not a bundle"
    some = ", ".join(inside[:5]) + ", …" * (len(inside) > 5)
    return f"{folder}: is not a bundle; add one of those in it: {some}"


def _sort(path: Path, members: list[Member]) -> tuple[dict[str, Member], str, list[str]]:
    """Return by name the files beside the manifest, the bundle's name, and what lies elsewhere in the archive."""
    folder = bundle_folder(members)
    files = [member for member in members if not member.is_folder]
    inside = {member.name[-1]: member for member in files if member.name[:-1] == folder}
    others = ["/".join(member.name) for member in files if member.name[:-1] != folder]
    stem = path.stem if path.suffix.lower() in ARCHIVES else path.name
    return inside, _bare(folder[-1] if folder else stem), others


def _zip_member(info: zipfile.ZipInfo) -> Member:
    # zipfile cuts names at a zero byte. What PowerShell 5 packs has Windows' separators.
    name = info.orig_filename.replace("\\", "/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BundleError(f"{name!r} is a link or a device: a bundle has plain files alone")
    if info.flag_bits & 1:
        raise BundleError(f"{name!r} is encrypted: unpack the archive and add the bundle's folder")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{name!r} is packed in a way that is not read: unpack the archive and add the folder")
    return Member(member_name(name), name.endswith("/"), info.file_size)


def _read_manifest(file: Readable) -> bytes:
    content = file.read(LARGEST_MANIFEST + 1)
    if len(content) > LARGEST_MANIFEST:
        raise BundleError(f"{MANIFEST_NAME} is larger than the {LARGEST_MANIFEST} bytes that are read")
    return content


def _manifest(content: bytes) -> Manifest:
    try:
        manifest = parse_manifest(content.decode())
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST_NAME}: not UTF-8 text: copy the bundle again") from error
    check_file_names(manifest)
    return manifest


def _check_members(manifest: Manifest, members: Mapping[str, Member]) -> list[str]:
    """Return the members that the manifest does not list. Raises BundleError where one that it lists is not as it says."""
    for name, record in manifest.files.items():
        if name not in members:
            raise BundleError(f"{name} is missing in it: pack the bundle again")
        if members[name].size != record.size:
            raise BundleError(f"{name} has {members[name].size} bytes in it, {MANIFEST_NAME} declares {record.size}")
    return sorted(set(members) - {*manifest.files, MANIFEST_NAME})


def total_bytes(manifest: Manifest) -> int:
    """Return what a bundle's files take, but for the manifest itself."""
    return sum(record.size for record in manifest.files.values())


def _bare(name: str) -> str:
    return name.removesuffix(SUFFIX)
