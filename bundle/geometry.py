"""Sizes and lengths a model can do, and the latents they take."""

from __future__ import annotations

import math

from ..core.errors import GeometryError
from .manifest import LatentGeometry


def latent_shape(latent: LatentGeometry, width: int, height: int, frames: int) -> tuple[int, int, int, int, int]:
    """Return the shape [1, C, F, H, W] of the latents of a clip of `frames` pictures of width x height pixels.

    Raises GeometryError, naming the nearest that works, where the model cannot do the size or length.
    """
    _, patch_height, patch_width = latent.patch
    nearest_width = _nearest(width, latent.spatial_scale * patch_width, latent.max_patches)
    nearest_height = _nearest(height, latent.spatial_scale * patch_height, latent.max_patches)
    if (width, height) != (nearest_width, nearest_height):
        raise GeometryError(
            f"size {width}x{height} is not possible with this model: the nearest is {nearest_width}x{nearest_height}"
        )
    nearest = nearest_frames(latent, frames)
    if frames != nearest:
        least, step = _pictures(latent, latent.patch[0]), latent.temporal_scale * latent.patch[0]
        raise GeometryError(
            f"{frames} frames are not possible with this model: the nearest is {nearest} "
            f"({least} and any multiple of {step} more)"
        )
    return (
        1,
        latent.channels,
        1 + (frames - 1) // latent.temporal_scale,
        height // latent.spatial_scale,
        width // latent.spatial_scale,
    )


def token_count(latent: LatentGeometry, shape: tuple[int, ...]) -> int:
    """Return how many tokens (patches) the denoiser makes of latents of this shape [B, C, F, H, W]."""
    return math.prod(extent // patch for extent, patch in zip(shape[2:], latent.patch, strict=True))


def clip_size(latent: LatentGeometry, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (width, height, frames) of the clip that latents of this shape [B, C, F, H, W] decode to."""
    _, _, frames, height, width = shape
    return width * latent.spatial_scale, height * latent.spatial_scale, _pictures(latent, frames)


def _pictures(latent: LatentGeometry, latent_frames: int) -> int:
    return 1 + (latent_frames - 1) * latent.temporal_scale


def _nearest(length: int, multiple: int, most: int) -> int:
    """Return the multiple, from 1 to `most` times, nearest to a length; in whole numbers, which have no largest."""
    return multiple * min(max(1, (length + multiple // 2) // multiple), most)


def nearest_frames(latent: LatentGeometry, frames: int) -> int:
    """Return the length, in pictures, that the model can do and that is nearest to one.

    Latent frames, 1 + (frames - 1) / temporal_scale, must be a positive multiple of the patch in time.
    """
    step = latent.temporal_scale * latent.patch[0]
    return _nearest(frames - 1 + latent.temporal_scale, step, latent.max_patches) + 1 - latent.temporal_scale
