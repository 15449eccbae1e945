"""Writing a bundle: into a folder that takes its name only when it is complete, its manifest last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..core.errors import OutputError, UsageError, brief
from ..core.files import check_parent
from ..core.interrupts import temporary_folder
from .manifest import MANIFEST_NAME, SCHEMA_RELEASES, FileRecord, Manifest, digest_of
from .reader import hash_file


def check_new_bundle(output: Path) -> None:
    """Raise UsageError or OutputError where a bundle cannot be made under this name."""
    if output.suffix != ".reel" or output.stem.startswith("."):
        raise UsageError(f"{output}: the name of a bundle ends with .reel")
    if os.path.lexists(output):
        raise OutputError(f"{output}: is there already; remove it or choose another name")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent}: no such folder; make it first")
    check_parent(output, output)


@contextmanager
def new_bundle_folder(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` that takes its name at the end, or vanishes with all that is in it.

    Raises OutputError where it cannot be written, a full disk included.
    """
    with ExitStack() as made:
        try:
            folder = made.enter_context(temporary_folder(f".{output.stem[:40]}-", output.parent, ".partial"))
        except OSError as error:
            raise OutputError(f"{output.parent}: cannot write there: {brief(error)}") from error
        try:
            yield folder
            umask = os.umask(0)
            os.umask(umask)
            folder.chmod(0o777 & ~umask)  # a temporary folder is its owner's alone
            if os.path.lexists(output):
                raise OutputError(f"{output}: has appeared meanwhile; remove it or choose another name")
            folder.rename(output)
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {brief(error)}") from error


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Return size and hash of every file of a bundle's folder but the manifest."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST_NAME)
    return {path.name: FileRecord(size=path.stat().st_size, sha256=hash_file(path)) for path in paths}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Sign a manifest with its digest and write it as reel.json, in the oldest schema that has all that it uses."""
    manifest.schema_version = manifest.least_schema
    manifest.read_by = SCHEMA_RELEASES[manifest.schema_version]
    manifest.digest = digest_of(manifest.to_json())
    text = json.dumps(manifest.to_json(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8", newline="\n")
