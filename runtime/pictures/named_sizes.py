"""The size that a model makes pictures in, and the size that is shown, for a shape that was asked for by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...bundle.geometry import latent_shape
from ...bundle.manifest import Manifest
from ...core.errors import GeometryError, UsageError
from ...media.presets import presets

Size = tuple[int, int]
_MORE = 1.05
"""How much larger than the model's own size another shape may be."""


@dataclass(frozen=True)
class PictureSize:
    """made: (width, height) that the model makes; shown: that of a film, both even. seconds, crf: see Preset."""

    made: Size
    shown: Size
    seconds: float | None = None
    crf: int = 18


def film_size(manifest: Manifest, format: str | None) -> PictureSize:
    """Return the sizes for a format: the bundle's name for one, a preset's, or WIDTHxHEIGHT; None for the bundle's own size.

    A preset's shape is cut out of the size nearest to it; WIDTHxHEIGHT is scaled to where the model cannot do it itself.
    Raises UsageError.
    """
    defaults = manifest.defaults
    own = (defaults.width, defaults.height)
    if format is None:
        return PictureSize(own, _even(own))
    if format in defaults.formats:
        width, height = defaults.formats[format]
        return PictureSize((width, height), _even((width, height)))
    if (named := shape_size(manifest, format)) is not None:
        return named
    match = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", format, re.ASCII)
    if match is None:
        known = ", ".join([*defaults.formats, *(name for name in presets() if name not in defaults.formats)])
        raise UsageError(f"there is no format {format[:40]!r}: choose from {known}, or write it as WIDTHxHEIGHT")
    size = int(match[1]), int(match[2])
    if size[0] % 2 or size[1] % 2 or not all(2 <= side <= 8192 for side in size):
        raise UsageError(f"a film of {format} is not possible: width and height must be even, from 2 to 8192")
    try:
        latent_shape(manifest.latent, *size, 1)
    except GeometryError:
        return PictureSize(nearest_shape(manifest, size[0] / size[1]), size)
    return PictureSize(size, size)


def shape_size(manifest: Manifest, name: str) -> PictureSize | None:
    """Return the sizes for a shape of media/presets.toml: it is cut out of the size nearest to it. None for another name."""
    if (preset := presets().get(name)) is None:
        return None
    ratio = preset.width / preset.height
    made = nearest_shape(manifest, ratio)
    return PictureSize(made, _within(made, ratio), preset.seconds, preset.crf)


def nearest_shape(manifest: Manifest, ratio: float) -> Size:
    """Return the size that the model makes of which most is left when it is cut to a ratio of width to height."""
    defaults, latent = manifest.defaults, manifest.latent
    down, across = latent.spatial_scale * latent.patch[1], latent.spatial_scale * latent.patch[2]
    most = defaults.width * defaults.height * _MORE
    best: tuple[float, Size] = (0.0, (defaults.width, defaults.height))
    for columns in range(1, min(latent.max_patches, int(most // (across * down))) + 1):
        width = columns * across
        for rows in {int(width / ratio // down), int(width / ratio // down) + 1}:
            height = rows * down
            if 1 <= rows <= latent.max_patches and width * height <= most:
                kept = min(width, height * ratio) * min(height, width / ratio)
                best = max(best, (kept, (width, height)))
    return best[1]


def _within(size: Size, ratio: float) -> Size:
    """Return the largest even size of a ratio that lies in another."""
    width, height = size
    return _even((round(min(width, height * ratio)), round(min(height, width / ratio))))


def _even(size: Size) -> Size:
    return max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)
