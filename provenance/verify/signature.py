"""Checking a file's C2PA manifest, whoever signed it."""

from __future__ import annotations

import json
import mmap
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import MissingExtraError, brief, require_packages
from ..sign import OFFLINE
from .metadata import says_generated

_WHERE = (
    ("assertion.bmffHash", "the pictures or the sound"),
    ("assertion.dataHash", "the picture or what the file holds beside it"),
    ("assertion.boxesHash", "the picture or what the file holds beside it"),
    ("assertion.hashedURI", "what it says of itself"),
    ("assertion", "what it says of itself"),
    ("claimSignature", "the signature"),
    ("claim", "the signed claim"),
    ("ingredient", "what it says it was made of"),
)
# The box that holds one in MP4, the type of the box that it is, and labels inside.
_OF_A_MANIFEST = re.compile(
    rb"\xd8\xfe\xc3\xd6\x1b\x0e\x48\x3c\x92\x97|jumd(?:c2pa|c2ma|c2as)|c2pa\.(?:claim|signature|assertions)|urn:c2pa:"
)
_TRUST = ("signingCredential.untrusted", "signingCredential.trusted")


@dataclass(frozen=True)
class Signature:
    """What became of checking it.

    state: `none`; `trusted`: unchanged, signed by someone who is trusted here; `valid`: unchanged, by someone who is not;
    `invalid`: changed, or signed with a certificate that is not valid; `unreadable`: there is one, but it is damaged;
    `unchecked`: the extra is not installed, or this kind of file has none. codes: C2PA's own for what is wrong. altered: in
    words, what was changed. sources: all of the IPTC's source types it names. inputs: how many ingredients it names.
    watermark: the soft binding of edgereel's that it names.
    """

    state: str
    signer: str | None = None
    tool: str | None = None
    made: str | None = None
    codes: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    inputs: int = 0
    id: str | None = None
    watermark: str | None = None
    reason: str | None = None
    claim: dict[str, Any] = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        """Whether what it says can be believed to be what the signer said."""
        return self.state in ("valid", "trusted")

    @property
    def generated(self) -> bool:
        """Whether it says, unchanged, that a generative model made it, or a part of it."""
        return self.intact and any(says_generated(source) for source in self.sources)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "state": self.state,
            "signer": self.signer,
            "tool": self.tool,
            "made": self.made,
            "digital_source_types": list(self.sources),
            "ingredients": self.inputs,
            "id": self.id,
            "soft_binding": self.watermark,
            "codes": list(self.codes),
            "altered": list(self.altered),
            "reason": self.reason,
            "claim": self.claim,
        }


def read_signature(path: Path, kind: str, anchors: bytes | None) -> Signature:
    """Return what a file's C2PA manifest says, and whether it holds. kind: its MIME type. anchors: PEM of trusted roots.

    Raises OSError.
    """
    try:
        require_packages(["c2pa"], "provenance", "checking signatures")
    except MissingExtraError as error:
        return Signature("unchecked", reason=str(error))
    import c2pa

    if kind not in c2pa.Reader.get_supported_mime_types():
        return Signature("unchecked", reason=f"C2PA has no place in {kind}")
    settings = {**OFFLINE, "verify": {**OFFLINE["verify"], "verify_trust": True}}
    if anchors:
        settings["trust"] = {"user_anchors": anchors.decode("ascii", "replace")}
    with path.open("rb") as file:
        try:
            with c2pa.Reader(kind, file, context=c2pa.Context.from_dict(settings)) as reader:
                return _understood(str(reader.get_validation_state() or ""), json.loads(reader.json()))
        except c2pa.C2paError as error:
            if type(error).__name__.endswith("ManifestNotFound"):
                return Signature("none")
            reason = brief(error) or "unknown error"
            if _has_manifest(path):
                return Signature("unreadable", reason=reason)
            # Files that c2pa cannot parse, such as some kinds of TIFF: nothing in this one was ever signed.
            return Signature("unchecked", reason=f"C2PA's reader does not understand this file: {reason}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return Signature("unreadable", reason=f"its report cannot be read: {brief(error)}")


def _has_manifest(path: Path) -> bool:
    """Tell whether anything in a file is of a manifest's, damaged as that may be."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _OF_A_MANIFEST.search(content) is not None


def _understood(state: str, report: dict[str, Any]) -> Signature:
    manifest = report["manifests"][report["active_manifest"]]
    assertions = manifest.get("assertions") or []
    failures = ((report.get("validation_results") or {}).get("activeManifest") or {}).get("failure") or []
    codes = list(dict.fromkeys(str(failure.get("code")) for failure in failures))
    for delta in (report.get("validation_results") or {}).get("ingredientDeltas") or []:
        found = (delta.get("validationDeltas") or {}).get("failure") or []
        codes += [str(failure.get("code")) for failure in found if failure.get("code") not in codes]
    altered = dict.fromkeys(
        next((words for start, words in _WHERE if code.startswith(start)), "")
        for code in codes
        if code not in _TRUST and ("ismatch" in code or "missing" in code or "malformed" in code)
    )
    info = manifest.get("signature_info") or {}
    claim = _data(assertions, "org.edgereel.clip")
    blocks = _data(assertions, "c2pa.soft-binding").get("blocks") or [{}]
    generators = manifest.get("claim_generator_info") or [{}]
    tool = " ".join(str(generators[0][key]) for key in ("name", "version") if generators[0].get(key))
    return Signature(
        {"Trusted": "trusted", "Valid": "valid"}.get(state, "invalid"),
        signer=info.get("issuer") or info.get("common_name"),
        tool=tool or manifest.get("claim_generator"),
        made=info.get("time") or claim.get("made"),
        codes=tuple(codes),
        altered=tuple(filter(None, altered)),
        sources=tuple(dict.fromkeys(_sources(assertions))),
        inputs=len(manifest.get("ingredients") or []),
        id=claim.get("id"),
        watermark=blocks[0].get("value"),
        claim=claim,
    )


def _data(assertions: list[dict[str, Any]], label: str) -> dict[str, Any]:
    for assertion in assertions:
        if str(assertion.get("label", "")).startswith(label) and isinstance(assertion.get("data"), dict):
            data: dict[str, Any] = assertion["data"]
            return data
    return {}


def _sources(assertions: list[dict[str, Any]]) -> list[str]:
    actions = [action for each in assertions if "c2pa.actions" in str(each.get("label")) for action in _actions(each)]
    found = [action.get("digitalSourceType") for action in actions if isinstance(action, dict)]
    return [str(source).rstrip("/").rsplit("/", 1)[-1] for source in found if source]


def _actions(assertion: dict[str, Any]) -> list[Any]:
    data = assertion.get("data")
    actions = data.get("actions") if isinstance(data, dict) else None
    return actions if isinstance(actions, list) else []
