"""Colours of a picture with an ICC profile of three primaries, as cameras and screens have them, in sRGB."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from .fit import Picture

_MOST_TAGS = 200
_ROWS = 256
_STEPS = 4096
# From XYZ under the profile connection space's light, D50, to linear sRGB: the inverse of the primaries that sRGB's own
# profiles state.
_SRGB = np.linalg.inv(
    np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])
)


def to_srgb(picture: Picture, profile: bytes) -> Picture:
    """Return a picture [H, W, 3] in sRGB; what other profiles can show and sRGB cannot is clipped. profile: ICC's, b"" for none.

    Raises UsageError where the profile is damaged, or is not one of three primaries with a curve each or of a grey curve.
    """
    if not profile:
        return picture
    try:
        curves, matrix = _read(profile)
    except (struct.error, IndexError, ValueError) as error:
        raise UsageError("has a colour profile that is damaged: save it as sRGB") from error
    if np.allclose(matrix, np.eye(3), atol=2e-3) and _is_srgb(curves):
        return picture
    result = np.empty_like(picture)
    encoded = np.round(_encode(np.linspace(0, 1, _STEPS**2 // 64)) * 255).astype(np.uint8)
    for start in range(0, len(picture), _ROWS):
        rows = picture[start : start + _ROWS]
        linear = np.stack([curves[colour][rows[..., colour]] for colour in range(3)], axis=-1) @ matrix.T
        places = np.clip(np.round(linear * (len(encoded) - 1)), 0, len(encoded) - 1).astype(np.int64)
        result[start : start + _ROWS] = encoded[places]
    return result


def _read(profile: bytes) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the light of each byte of each colour, three arrays [256], and the matrix from there to linear sRGB."""
    space = profile[16:20]
    if profile[36:40] != b"acsp" or space not in (b"RGB ", b"GRAY"):
        raise ValueError
    (count,) = struct.unpack_from(">I", profile, 128)
    tags: dict[bytes, bytes] = {}
    for index in range(min(count, _MOST_TAGS)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        tags[name] = profile[offset : offset + size]
    if space == b"GRAY" and b"kTRC" in tags:
        return [_curve(tags[b"kTRC"])] * 3, np.eye(3)
    names = (b"r", b"g", b"b")
    if any(name + kind not in tags for name in names for kind in (b"XYZ", b"TRC")) or b"A2B0" in tags:
        raise UsageError("has a colour profile that is not one of three primaries: save it as sRGB")
    primaries = [[_fixed(tags[name + b"XYZ"], 8 + 4 * axis) for axis in range(3)] for name in names]
    return [_curve(tags[name + b"TRC"]) for name in names], _SRGB @ np.array(primaries).T


def _fixed(data: bytes, at: int) -> float:
    (value,) = struct.unpack_from(">i", data, at)
    return float(value) / 65536


def _curve(data: bytes) -> NDArray[np.float64]:
    """Return the light, 0 to 1, of each byte."""
    x = np.linspace(0, 1, 256)
    if data[:4] == b"curv":
        (count,) = struct.unpack_from(">I", data, 8)
        if count == 0:
            return x
        if count == 1:
            return np.asarray(x ** (struct.unpack_from(">H", data, 12)[0] / 256))
        table = np.frombuffer(data, ">u2", count, 12).astype(np.float64) / 65535
        return np.interp(x, np.linspace(0, 1, count), table)
    if data[:4] != b"para":
        raise ValueError
    (kind,) = struct.unpack_from(">H", data, 8)
    if kind > 4:
        raise ValueError
    g, *rest = (_fixed(data, 12 + 4 * index) for index in range((1, 3, 4, 5, 7)[kind]))
    a, b, c, d, e, f = [*rest, *[0.0] * (6 - len(rest))]
    if kind == 0:
        return np.asarray(x**g)
    if kind in (1, 2):
        above = np.clip(a * x + b, 0, None) ** g + (c if kind == 2 else 0.0)
        return np.where(x >= -b / a, above, c if kind == 2 else 0.0)
    above = np.clip(a * x + b, 0, None) ** g + e
    return np.where(x >= d, above, c * x + f)


def _encode(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.clip(light, 0, None) ** (1 / 2.4) - 0.055)


def _is_srgb(curves: list[NDArray[np.float64]]) -> bool:
    return all(np.abs(_encode(curve) * 255 - np.arange(256)).max() < 1 for curve in curves)
