"""The shapes that a bundle's graphs take for a clip of one size and length."""

from __future__ import annotations

import re

from ..errors import BundleError
from .manifest import Manifest

Shapes = dict[str, tuple[int, ...]]
_EXTENT = re.compile(r"([A-Za-z_]\w*)(?:\*(\d{1,9}))?")


def input_shapes(manifest: Manifest, graph: str, latents: tuple[int, ...]) -> Shapes:
    """Return the shape of each input of a graph (see Roles.graphs) for latents [B, C, F, H, W].

    Decoders take one latent frame at a time. Raises BundleError where the manifest names an extent that is not known.
    """
    batch, _, frames, height, width = latents
    tokens = manifest.text.max_tokens
    known = {"batch": batch, "frames": frames, "height": height, "width": width, "tokens": tokens}
    specs = manifest.roles.graphs()[graph].inputs
    return {name: tuple(_extent(graph, extent, known) for extent in spec.shape) for name, spec in specs.items()}


def _extent(graph: str, extent: int | str, known: dict[str, int]) -> int:
    """Return an extent's value: `height` and `height*4` are what export writes."""
    if isinstance(extent, int):
        return extent
    match = _EXTENT.fullmatch(extent)
    if match is None or match[1] not in known:
        raise BundleError(f"the manifest gives {graph} the extent {extent!r}, which is none of {', '.join(known)}")
    return known[match[1]] * int(match[2] or 1)
