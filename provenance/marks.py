"""Which marks clips get, and one clip's marks as they are made: frames are watermarked, the finished file is signed."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import EdgereelError, OutputError, UsageError
from ..core.files import sha256_of
from .claim import OTHER_ALGORITHM, TYPES, WATERMARK_ALGORITHM, Claim, Origin
from .keys import Identity, check_clock, keys_folder, load
from .log import Log

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .watermark.marker import Marker

KINDS = ("none", "watermark", "signature", "all")
"""What `--mark` can say."""
_UNKNOWN_MAKER = 0


@dataclass(frozen=True)
class Marks:
    """What every clip gets. Make one with `choose`.

    watermark: lay one over the frames. identity: who signs; None: nothing is signed. required: a file that cannot be signed
    is not written. log: where it is kept what was made. marker: what lays the watermark, None for our own.
    """

    watermark: bool
    identity: Identity | None
    required: bool = False
    log: Log | None = None
    maker: int = _UNKNOWN_MAKER
    marker: Marker | None = None

    @staticmethod
    def choose(
        kind: str, *, required: bool = False, log: Path | None = None, marker: Path | None = None
    ) -> Marks | None:
        """Return the marks of a word of KINDS, with this device's key; None for `none` with nothing else asked for.

        marker: the file that names somebody else's watermark, see Marker.read; None for our own. Raises UsageError for another
        word, or where what was asked for cannot be had: there is no key, or the clock is wrong.
        """
        if kind not in KINDS:
            raise UsageError(f"unknown mark {kind!r}: choose from {', '.join(KINDS)}")
        signed = kind in ("signature", "all")
        if required and not signed:
            raise UsageError(f"--require-signature needs --mark signature or all, not {kind}")
        identity = load() if signed else None
        maker = _UNKNOWN_MAKER if identity is None else identity.maker
        if identity is None and kind == "watermark" and (keys_folder() / "key.pem").exists():
            maker = load().maker
        if kind == "none" and log is None:
            return None
        watermark, opened = kind in ("watermark", "all"), None
        if marker is not None and watermark:
            from .watermark.marker import Marker

            opened = Marker.read(marker)
        return Marks(watermark, identity, required, None if log is None else Log(log), maker, opened)

    def check(self, format: str, width: int, height: int) -> None:
        """Make sure, before any work, that such a clip can be marked.

        Raises GeometryError where it is too small for a watermark, OutputError for a format that is not signed, if required.
        """
        if self.watermark and self.marker is None:
            from .watermark.embed import check_markable

            check_markable(width, height)
        if self.required and format not in TYPES:
            raise OutputError(f"--require-signature: {', '.join(TYPES)} are signed, {format} is not")

    def begin(self, format: str, origin: Origin) -> ClipMarks:
        """Return the marks of one clip, which `check` takes, as its frames are written."""
        return ClipMarks(self, format, origin)

    def seal_finished(self, path: Path, format: str, origin: Origin, watermark: str | None) -> dict[str, Any]:
        """Sign a file that was made elsewhere, by who has no key, and return what became of its marks.

        watermark: that its frames carry, None where they have none. The file has not its name yet. Raises OutputError.
        """
        marks = ClipMarks(replace(self, watermark=False), format, origin)
        marks.watermark = watermark
        marks.seal(path)
        return marks.record()


class ClipMarks:
    """The marks of one clip while it is written."""

    def __init__(self, marks: Marks, format: str, origin: Origin) -> None:
        import secrets
        import uuid

        self._marks = marks
        self._format = format
        self._origin = origin
        self.id = str(uuid.uuid4())
        self.watermark: str | None = None
        self.made: datetime.datetime | None = None
        self._over: Callable[[Iterable[NDArray[np.uint8]]], Iterator[NDArray[np.uint8]]] | None = None
        self._hash: str | None = None
        self._not_signed: str | None = None
        self._signed_by: str | None = None
        self._found = self._marks_on_inputs()
        if marks.watermark:
            from .watermark.embed import Watermark
            from .watermark.payload import CLIP_BITS, Payload

            payload = Payload(marks.maker, secrets.randbits(CLIP_BITS))
            self.watermark = str(payload)
            self._over = (
                Watermark(payload).over if marks.marker is None else partial(marks.marker.over, payload=payload)
            )
        try:
            self.made = check_clock()
        except UsageError:
            self.made = None  # a wrong time is worse than none

    def over(self, frames: Iterable[NDArray[np.uint8]]) -> Iterable[NDArray[np.uint8]]:
        """Return the frames with what is laid over them."""
        return frames if self._over is None else self._over(frames)

    def seal(self, path: Path) -> None:
        """Sign the complete file, which does not have its name yet; note its hash.

        Raises OutputError where it cannot be signed and must be; else that is said on the log, and in the record.
        """
        identity = self._marks.identity
        if identity is not None:
            try:
                self._sign(path, identity)
                self._signed_by = identity.name
            except EdgereelError as error:
                if self._marks.required:
                    raise OutputError(f"not written, since it could not be signed: {error}") from error
                self._not_signed = str(error)
                logging.getLogger("edgereel").warning("edgereel: NOT SIGNED: %s", error)
        if path.is_file():
            with path.open("rb") as file:
                self._hash = sha256_of(file)

    def _sign(self, path: Path, identity: Identity) -> None:
        from .sign import sign_in_place

        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            sign_in_place(file, self._format, self.claim(), identity)

    def claim(self) -> Claim:
        """Return what the clip claims of itself."""
        marks = self._marks
        provider = None if marks.identity is None else marks.identity.name
        origin = self._origin
        return Claim(
            self.id,
            origin.settings,
            provider,
            self.made,
            self.watermark,
            origin.inputs,
            origin.scenes,
            self._found,
            OTHER_ALGORITHM if marks.marker is not None else WATERMARK_ALGORITHM,
        )

    def _marks_on_inputs(self) -> tuple[Mapping[str, Any], ...]:
        if not self._origin.inputs:
            return ()
        from .verify.inputs import marks_on

        return tuple(marks_on(path) for path in self._origin.inputs)

    def record(self) -> dict[str, Any]:
        """Return what became of the marks, once the file is written, and keep that in the log where there is one."""
        record: dict[str, Any] = {
            "id": self.id,
            "watermark": self.watermark,
            "signed": self._signed_by is not None,
            "signed_by": self._signed_by,
            "sha256": self._hash,
        }
        if self._found:
            record["inputs"] = list(self._found)
        if self._not_signed is not None:
            record["not_signed"] = self._not_signed
        if self._marks.log is not None:
            self._marks.log.add(self.claim(), self._hash)
        return record
