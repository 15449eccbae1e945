"""Packing a bundle into one file to carry it: a tar, or a zip without compression, that any system's own tools open."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ...core.errors import UsageError
from ...core.files import check_file_target, whole_file
from ...core.progress import Progress
from ..manifest import MANIFEST_NAME
from ..reader import LARGEST_MANIFEST, Bundle, check_graphs, peek_bundle
from ..untrusted import open_plain, read_plain
from .copying import ByteProgress, check_room, copy_chunks, explain_too_large
from .members import check_file_names
from .names import SUFFIX
from .sources import ARCHIVES, total_bytes

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""What a zip can have as a file's time; the same bundle is packed to the same bytes."""


def pack_bundle(bundle: Path, output: Path, on_progress: Progress | None = None) -> int:
    """Write a bundle (a folder, or a model's name) into an archive, .tar or .zip, and return the archive's bytes.

    Every file is hashed on the way, so that no damaged one is carried on. The same bundle gives the same archive.
    on_progress is told of the stage `pack`, in megabytes.

    Raises UsageError for another suffix, BundleError where the bundle is damaged, OutputError where the archive cannot be
    written, a file that is there then stays; Cancelled.
    """
    if output.suffix.lower() not in ARCHIVES:
        raise UsageError(f"{output}: an archive is a tar or a zip: end its name in .tar or .zip")
    opened = peek_bundle(bundle)
    check_file_names(opened.manifest)
    check_graphs(opened.folder, opened.manifest)
    target = check_file_target(output)
    if target.parent == opened.folder.resolve():
        raise UsageError(f"{output}: is inside the bundle, which stays as it is: choose another folder")
    total = total_bytes(opened.manifest)
    check_room(target.parent, total, "free some, or choose another folder")
    told = ByteProgress(on_progress, "pack", total)
    with whole_file(output) as temporary:
        try:
            write = _write_zip if output.suffix.lower() == ".zip" else _write_tar
            write(opened, temporary, told)
        except OSError as error:
            raise explain_too_large(error) from error
    return target.stat().st_size


def _write_tar(bundle: Bundle, path: Path, told: ByteProgress) -> None:
    """Write headers by POSIX.1-2001, which has no largest size, reel.json first: who reads on then knows what follows."""
    with path.open("wb") as file:
        manifest = _manifest_content(bundle)
        file.write(_tar_header(bundle, MANIFEST_NAME, len(manifest)))
        file.write(manifest + _padding(len(manifest)))
        for name, record in bundle.manifest.files.items():
            file.write(_tar_header(bundle, name, record.size))
            _copy(bundle, name, file.write, told)
            file.write(_padding(record.size))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def _write_zip(bundle: Bundle, path: Path, told: ByteProgress) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_zip_info(bundle, MANIFEST_NAME), _manifest_content(bundle))
        for name in bundle.manifest.files:
            with archive.open(_zip_info(bundle, name), "w", force_zip64=True) as file:
                _copy(bundle, name, file.write, told)


def _copy(bundle: Bundle, name: str, take: Callable[[bytes], object], told: ByteProgress) -> None:
    with open_plain(bundle.path(name)) as file:
        copy_chunks(file, bundle.manifest.files[name], take, bundle.folder, name, told)


def _manifest_content(bundle: Bundle) -> bytes:
    return read_plain(bundle.path(MANIFEST_NAME), LARGEST_MANIFEST)


def _tar_header(bundle: Bundle, name: str, size: int) -> bytes:
    header = tarfile.TarInfo(f"{_folder_name(bundle)}/{name}")
    header.size, header.mode = size, 0o644
    return header.tobuf(tarfile.PAX_FORMAT)


def _zip_info(bundle: Bundle, name: str) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(f"{_folder_name(bundle)}/{name}", _EARLIEST)
    header.external_attr = 0o644 << 16
    return header


def _folder_name(bundle: Bundle) -> str:
    return bundle.folder.resolve().name.removesuffix(SUFFIX) + SUFFIX


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
