"""Signing a finished file with a C2PA manifest. It comes last: whatever changes the file after it breaks the signature."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import OutputError, brief, one_line, require_packages
from ..core.files import output_errors, remove, synchronise, temporary_beside
from .claim import TYPES, Claim
from .keys import Identity, check_clock

_MIME_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".avi": "video/avi",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
}
# Nothing opens a connection: neither for a manifest that lies elsewhere nor to ask whether a certificate was revoked.
OFFLINE: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


def sign_in_place(path: Path, format: str, claim: Claim, identity: Identity) -> None:
    """Sign a finished file that no one has seen yet: the signed one takes its name when it is complete.

    Raises OutputError where it cannot be signed, UsageError where the clock is wrong, MissingExtraError.
    """
    require_packages(["c2pa"], "provenance", "signing")
    check_clock()
    signed = temporary_beside(path)
    try:
        with output_errors(path):
            with path.open("rb") as source, signed.open("x+b") as target:
                write_signed(source, target, format, claim, identity)
            synchronise(signed)
            signed.replace(path)
    finally:
        remove(signed)


def write_signed(source: Any, target: Any, format: str, claim: Claim, identity: Identity) -> None:
    """Copy one open binary file to another with a manifest in it. Raises OutputError."""
    import c2pa

    with c2pa_errors("cannot sign"):
        info = c2pa.C2paSignerInfo(
            identity.algorithm.encode(),
            identity.chain,
            identity.key,
            None if identity.time_stamps is None else identity.time_stamps.encode(),
        )
        context = c2pa.Context.from_dict(OFFLINE)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(claim.manifest(format), context) as builder:
            for relation, name, paths in (
                ("inputTo", "input", claim.inputs),
                ("componentOf", "scene", claim.scenes),
            ):
                for index, path in enumerate(paths):
                    described = {"title": f"{name} {index + 1}", "relationship": relation, "label": f"{name}-{index}"}
                    with path.open("rb") as ingredient:
                        builder.add_ingredient(json.dumps(described), type_of(path), ingredient)
            builder.sign(signer, TYPES[format], source, target)


def type_of(path: Path) -> str:
    """Return the MIME type of a file by its suffix. Raises OutputError where C2PA has no place for it."""
    try:
        return _MIME_TYPES[path.suffix.lower()]
    except KeyError:
        raise OutputError(f"{one_line(path.name)}: C2PA has no place in a file of this type") from None


@contextlib.contextmanager
def c2pa_errors(what: str) -> Iterator[None]:
    """Turn what c2pa raises in the block into an OutputError."""
    import c2pa

    try:
        yield
    except c2pa.C2paError as error:
        raise OutputError(f"{what}: {brief(error)}") from error
