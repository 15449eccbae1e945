"""What an archive of a bundle may hold: names that stay inside it, each once on every system, one bundle."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.errors import BundleError
from ..manifest import MANIFEST_NAME, Manifest
from .names import is_device_name

MOST_MEMBERS = 4096
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Member:
    """A file or folder of an archive. name: its path there, parts apart. size: bytes; offset: where they begin, in a tar."""

    name: tuple[str, ...]
    is_folder: bool
    size: int
    offset: int = 0


def member_name(name: str) -> tuple[str, ...]:
    """Return the parts of a member's path. Raises BundleError where it could lead out of a folder, here or on Windows."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    unsafe = name.startswith("/") or ".." in parts or "\\" in name or _DRIVE.match(name) is not None
    if unsafe or not name.isprintable():
        raise BundleError(f"{name!r} is not a name inside an archive: it could lead out of its folder")
    return parts


def bundle_folder(members: Sequence[Member]) -> tuple[str, ...]:
    """Return the folder in an archive that its bundle is in, () for its top.

    Raises BundleError where names stand twice (letters' case counts for nothing on some systems), and where there is no
    bundle or more than one.
    """
    seen: set[tuple[str, ...]] = set()
    for member in members:
        folded = tuple(part.casefold() for part in member.name)
        if folded in seen and not member.is_folder:
            raise BundleError(f"holds {'/'.join(member.name)!r} twice, or as names that differ in letters' case alone")
        seen.add(folded)
    found = [member.name[:-1] for member in members if not member.is_folder and member.name[-1:] == (MANIFEST_NAME,)]
    # A Mac adds a folder of its own beside what was to be archived.
    found = [folder for folder in found if folder[:1] != ("__MACOSX",)]
    if not found:
        raise BundleError(f"holds no {MANIFEST_NAME}, so there is no bundle in it")
    if len(found) > 1:
        raise BundleError(f"holds {len(found)} bundles: unpack it and add one at a time")
    if len(found[0]) > 1:
        raise BundleError(f"holds its bundle {len(found[0])} folders deep: unpack it and add the folder itself")
    return found[0]


def check_file_names(manifest: Manifest) -> None:
    """Raise BundleError where a bundle's files cannot lie in one folder on every system."""
    seen: dict[str, str] = {MANIFEST_NAME: MANIFEST_NAME}
    for name in manifest.files:
        if name.endswith(".") or is_device_name(name):
            raise BundleError(f"{MANIFEST_NAME}: {name!r} is a name that Windows cannot have")
        other = seen.setdefault(name.casefold(), name)
        if other != name or name == MANIFEST_NAME:
            raise BundleError(f"{MANIFEST_NAME}: {name!r} and {other!r} are the same file on some systems")
