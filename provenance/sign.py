"""Signing a finished file with a C2PA manifest. It comes last: whatever changes the file after it breaks the signature."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import OutputError, UsageError, brief, one_line, require_packages
from ..core.files import output_errors, remove, synchronise, temporary_beside
from .claim import TYPES, Claim
from .keys import Identity, check_clock
from .verify.media_type import media_type

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
    """Copy one open binary file to another with a manifest in it.

    Inputs of a type that C2PA has no place for are no ingredients; the claim tells of them all the same. Raises OutputError.
    """
    import c2pa

    kept = {path: _kind(path) for path in (*claim.inputs, *claim.scenes)}
    places = set(c2pa.Reader.get_supported_mime_types())
    claim = replace(claim, inputs=tuple(path for path in claim.inputs if kept[path] in places))
    with c2pa_errors("cannot sign"):
        info = c2pa.C2paSignerInfo(
            identity.algorithm.encode(),
            identity.chain,
            identity.key,
            None if identity.time_stamps is None else identity.time_stamps.encode(),
        )
        context = c2pa.Context.from_dict(OFFLINE)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(claim.manifest(format), context) as builder:
            for relation, name, paths in (("inputTo", "input", claim.inputs), ("componentOf", "scene", claim.scenes)):
                for index, path in enumerate(paths):
                    # A manifest of its own is kept with it; one that is damaged or forged is said to be so.
                    described = {"title": f"{name} {index + 1}", "relationship": relation, "label": f"{name}-{index}"}
                    with output_errors(path), path.open("rb") as ingredient:
                        builder.add_ingredient(json.dumps(described), kept[path], ingredient)
            builder.sign(signer, TYPES[format], source, target)


def _kind(path: Path) -> str:
    """Return the MIME type of a file, by its first bytes. Raises OutputError."""
    try:
        with output_errors(path), path.open("rb") as file:
            return media_type(file.read(16))
    except UsageError as error:
        raise OutputError(f"{one_line(path)}: {error}") from error


@contextlib.contextmanager
def c2pa_errors(what: str) -> Iterator[None]:
    """Turn what c2pa raises in the block into an OutputError."""
    import c2pa

    try:
        yield
    except c2pa.C2paError as error:
        raise OutputError(f"{what}: {brief(error)}") from error
