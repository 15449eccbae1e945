"""Somebody else's watermark: a pair of ONNX graphs that a file names by path and hash, such as TrustMark's.

The encoder takes a picture in [-1, 1] and bits, and gives the picture with the bits in it; what it changed is enlarged to the
frame's size and added (Bui, Agarwal, Collomosse: TrustMark, universal watermarking for arbitrary resolution images, 2023). The
decoder takes a picture and gives a number for each bit, positive for 1. The bits are 64 of payload and 24 of check, in the
first places; those that are left are 0. TrustMark's own correction of errors is not used, so that other programs see its mark
and read other bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, UsageError, brief, one_line
from ...core.toml import read_toml
from ..graph import check_sha256, open_graph, picture_size
from .detect import Detection
from .payload import Payload, from_bits, to_bits

_USUAL_SIDE = 256
_LARGEST_FILE = 2**16
_MOST_FRAMES = 16
_KEYS = {"encoder", "encoder_sha256", "decoder", "decoder_sha256", "strength"}


class Marker:
    """An opened pair of graphs. Make one with `read`."""

    def __init__(self, table: Mapping[str, Any], folder: Path) -> None:
        """See read."""
        if unknown := sorted(set(table) - _KEYS):
            raise UsageError(f"unknown key {unknown[0]!r}: choose from {', '.join(sorted(_KEYS))}")
        strength = table.get("strength", 1.0)
        if not isinstance(strength, int | float) or isinstance(strength, bool) or not 0 < strength <= 4:
            raise UsageError("strength is a number from 0 to 4")
        self.strength = float(strength)
        sessions = []
        for role in ("encoder", "decoder"):
            path = table.get(role)
            if not isinstance(path, str) or not path:
                raise UsageError(f'{role} is the path of an ONNX graph, "{role}.onnx"')
            digest = check_sha256(table.get(f"{role}_sha256"), f"{role}_sha256")
            sessions.append(open_graph(folder / path, digest, role))
        self._encoder, self._decoder = sessions
        inputs = {len(each.shape): each for each in self._encoder.get_inputs()}
        if set(inputs) != {2, 4} or len(self._encoder.get_inputs()) != 2:
            raise UsageError("the encoder does not take a picture and bits")
        self._encoder_size = picture_size(list(inputs[4].shape), _USUAL_SIDE, "the encoder")
        self._decoder_size = picture_size(list(self._decoder.get_inputs()[0].shape), _USUAL_SIDE, "the decoder")
        self._picture, self._bits = inputs[4].name, inputs[2].name
        self._count = inputs[2].shape[1]
        least = len(to_bits(Payload(0, 0)))
        if not isinstance(self._count, int) or not least <= self._count <= 4096:
            raise UsageError(f"the encoder takes {self._count} bits, and a payload with its check has {least}")

    @staticmethod
    def read(path: Path) -> Marker:
        """Open the marker that a TOML file names: encoder, encoder_sha256, decoder, decoder_sha256, strength.

        Raises UsageError, naming what is wrong.
        """
        try:
            return Marker(read_toml(path, _LARGEST_FILE), path.parent)
        except UsageError as error:
            raise UsageError(f"marker {one_line(path)}: {error}") from error

    def over(self, frames: Iterable[NDArray[np.uint8]], payload: Payload) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames, uint8 [H, W, 3], RGB, with the payload in them. Raises EngineError."""
        bits = np.zeros((1, self._count), np.float32)
        code = to_bits(payload)
        bits[0, : len(code)] = code
        for frame in frames:
            height, width = frame.shape[:2]
            cover = _picture(frame, self._encoder_size)
            marked = self._run(self._encoder, {self._picture: cover, self._bits: bits})
            if marked.shape != cover.shape:
                raise EngineError(f"the marker's encoder gave {list(marked.shape)} for {list(cover.shape)}")
            change = (marked - cover)[0]
            change = change.transpose(1, 2, 0) if self._encoder_size[0] else change
            change = np.stack([_resized(change[..., channel], width, height) for channel in range(3)], axis=-1)
            yield np.clip(np.rint(frame + 127.5 * self.strength * change), 0, 255).astype(np.uint8)

    def find(self, frames: Iterable[NDArray[np.uint8]]) -> Detection:
        """Look for a payload in frames, uint8 [H, W, 3]; the sum over up to 16 of them decides. Raises EngineError."""
        total, count = np.zeros(self._count), 0
        for frame in frames:
            values = self._run(self._decoder, {self._decoder.get_inputs()[0].name: _picture(frame, self._decoder_size)})
            if values.size != self._count:
                raise EngineError(f"the marker's decoder gave {values.size} bits of {self._count}")
            total += np.tanh(values.ravel())
            count += 1
            if count == _MOST_FRAMES:
                break
        payload = from_bits((total > 0).astype(int).tolist()) if count else None
        return Detection(payload, 0.0, agreement=float(payload is not None), frames=count)

    def _run(self, session: Any, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        try:
            output = np.asarray(session.run(None, inputs)[0], np.float32)
        except Exception as error:  # ONNX Runtime raises what it likes
            raise EngineError(f"the marker cannot be run: {brief(error)}") from error
        if not np.isfinite(output).all():
            raise EngineError("the marker gave values that are not finite numbers")
        return output


def _picture(frame: NDArray[np.uint8], size: tuple[bool, int, int]) -> NDArray[np.float32]:
    first, height, width = size
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    small = picture.reformat(width=width, height=height, interpolation="BILINEAR").to_ndarray()
    values = small.astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray((values.transpose(2, 0, 1) if first else values)[None])


def _resized(plane: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Return a plane of another size, by straight lines between the middles of its pixels."""
    for axis, length in ((0, height), (1, width)):
        have = plane.shape[axis]
        places = np.clip((np.arange(length) + 0.5) * have / length - 0.5, 0, have - 1)
        below = np.minimum(places.astype(int), have - 1)
        above = np.minimum(below + 1, have - 1)
        part = (places - below).astype(np.float32)
        part = part[:, None] if axis == 0 else part[None]
        plane = plane.take(below, axis) * (1 - part) + plane.take(above, axis) * part
    return plane
