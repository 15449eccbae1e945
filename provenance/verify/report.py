"""All that was found in one file, for programs and in words for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import UsageError, one_line
from ..watermark.detect import Detection, detect
from ..watermark.pattern import PUBLIC_KEY
from .frames import Unwatchable, colours, lumas
from .media_type import media_type
from .metadata import Metadata, read_metadata
from .signature import Signature, read_signature

if TYPE_CHECKING:
    from ..watermark.marker import Marker

_NOTHING = (
    "No mark was found. That says nothing about how it was made: marks can be removed, and many generators leave none."
)


@dataclass(frozen=True)
class MediaReport:
    """What one file says of itself, its signature, its watermark. unwatchable: why the watermark was not looked for."""

    path: Path
    kind: str
    metadata: Metadata
    signature: Signature
    watermark: Detection
    unwatchable: str | None = None

    @property
    def generated(self) -> bool:
        """Whether a mark says that a generative model made it. False says nothing: there is no mark that says otherwise."""
        return self.metadata.generated or self.signature.generated or self.watermark.payload is not None

    @property
    def altered(self) -> bool:
        """Whether a signature is there that does not hold."""
        return self.signature.state in ("invalid", "unreadable")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it. `generated` is true or null, never false."""
        found = self.watermark
        return {
            "file": str(self.path),
            "type": self.kind,
            "generated": True if self.generated else None,
            "altered": self.altered,
            "metadata": self.metadata.to_json(),
            "signature": self.signature.to_json(),
            "watermark": {
                "found": found.payload is not None,
                "id": None if found.payload is None else str(found.payload),
                "maker": None if found.payload is None else f"{found.payload.maker:06x}",
                "scale": round(found.scale, 3) if found.payload else None,
                "mirrored": found.mirrored if found.payload else None,
                "agreement": round(found.agreement, 3) if found.payload else None,
                "score": round(found.score, 2),
                "frames": found.frames,
                "not_looked_for": self.unwatchable,
            },
            "words": self.words(),
        }

    def words(self) -> list[str]:
        """Return what was found as sentences; the first is the answer."""
        lines = [self._answer(), f"Signature: {self._signature()}", f"Watermark: {self._watermark()}"]
        said = self.metadata
        if said.source_type or said.note:
            by = f", written by {said.tool}" if said.tool else ""
            lines.append(
                f"Metadata: {said.source_type or 'AI-generated'}{by}. They are not signed: anyone may write them."
            )
        else:
            lines.append("Metadata: say nothing about how it was made.")
        return [one_line(line) for line in lines]

    def _answer(self) -> str:
        if self.altered:
            kept = " Other marks say that it was made by a generative model." if self.generated else ""
            return f"It was changed after it was signed, or its signature was damaged.{kept}"
        if self.signature.generated:
            return f"It says that it was made by a generative model, and is unchanged since {self.signature.signer} signed it."
        if self.watermark.payload is not None:
            return "It carries edgereel's watermark: it, or what it was cut from, was made by a generative model."
        if self.metadata.generated:
            return "It says that it was made by a generative model; nothing proves who wrote that."
        if self.signature.intact:
            return (
                f"It is unchanged since {self.signature.signer} signed it. The signature does not name a generative model, "
                "which says nothing about how it was made before."
            )
        return _NOTHING

    def _signature(self) -> str:
        found = self.signature
        if found.state == "none":
            return "none."
        if found.state == "unchecked":
            return f"not checked: {found.reason}."
        if found.state == "unreadable":
            return f"there is one, but it cannot be read: {found.reason}."
        by = f"by {found.signer or 'someone without a name'} with {found.tool or 'a tool without a name'}"
        if found.state == "trusted":
            return f"valid, {by}, who is trusted here."
        if found.state == "valid":
            return f"valid, {by}, whose certificate no one vouches for here: it proves that nothing changed, not who that is."
        what = f": changed was {' and '.join(found.altered)}" if found.altered else ""
        return f"INVALID, {by}{what} ({', '.join(found.codes)})."

    def _watermark(self) -> str:
        found = self.watermark
        if found.payload is not None:
            size = "" if abs(found.scale - 1) < 0.01 else f", at {found.scale:.2f} of the size it was made in"
            mirrored = ", mirrored" if found.mirrored else ""
            sure = f"{found.agreement:.0%} of its bits read right, and their check holds"
            return f"{found.payload}, made by maker {found.payload.maker:06x}{size}{mirrored}: {sure}."
        return f"not looked for: {self.unwatchable}." if self.unwatchable else "none found."


def examine(
    path: Path, anchors: bytes | None = None, key: str = PUBLIC_KEY, marker: Marker | None = None
) -> MediaReport:
    """Look at one file. anchors: PEM of roots that are trusted. key: the watermark's. marker: somebody else's, looked for too.

    Raises UsageError where it cannot be read or is no picture or video.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{one_line(path)}: {'is not a file' if path.exists() else 'there is no such file'}")
        with path.open("rb") as file:
            kind = media_type(file.read(16))
        metadata, signature = read_metadata(path), read_signature(path, kind, anchors)
    except OSError as error:
        raise UsageError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from error
    except UsageError as error:
        if one_line(path) in str(error):
            raise
        raise UsageError(f"{one_line(path)}: {error}") from error
    watermark, unwatchable = Detection(None, 0.0), None
    try:
        watermark = detect(lumas(path, kind), key)
        if watermark.payload is None and marker is not None:
            found = marker.find(colours(path, kind))
            watermark = watermark if found.payload is None else found
    except Unwatchable as error:
        unwatchable = str(error)
    return MediaReport(path, kind, metadata, signature, watermark, unwatchable)
