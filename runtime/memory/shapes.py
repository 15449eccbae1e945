"""The shapes that a bundle's graphs take for a clip of one size and length."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ...bundle.manifest import Manifest
from ...core.errors import BundleError
from ...engines import Part, Window
from ...engines.graphs.extents import parse_extent
from ...engines.graphs.parts import part_inputs, rear_window

Shapes = dict[str, tuple[int, ...]]


def input_shapes(manifest: Manifest, graph: str, latents: tuple[int, ...]) -> Shapes:
    """Return the shape of each input of a graph (see Roles.graphs) for latents [B, C, F, H, W].

    Encoders and decoders take one latent frame at a time; a denoiser of streams takes its longest chunk, and as much context
    as it ever has. Raises BundleError where the manifest names an extent that is not known.
    """
    specs = manifest.roles.graphs()[graph].inputs
    return shapes_of(manifest, graph, latents, {name: tuple(spec.shape) for name, spec in specs.items()})


def shapes_of(
    manifest: Manifest, graph: str, latents: tuple[int, ...], inputs: Mapping[str, tuple[int | str, ...]]
) -> Shapes:
    """Return the shape of each input of a part of a graph. inputs: its shapes in the extents' names; see input_shapes."""
    batch, _, frames, height, width = latents
    stream, (_, patch_height, patch_width) = manifest.stream, manifest.latent.patch
    known = {
        "batch": batch,
        "frames": frames if stream is None else max(stream.first, stream.chunk),
        "height": height,
        "width": width,
        "tokens": manifest.text.max_tokens,
        "context": 0 if stream is None else stream.window,
        "patches": height // patch_height * (width // patch_width),
    }
    return {name: tuple(_extent(graph, extent, known) for extent in shape) for name, shape in inputs.items()}


def part_extents(path: Path, part: Part) -> dict[str, tuple[int | str, ...]]:
    """Return the shape of each input of a part of a graph, in the extents' names; see engines.graphs.parts.part_inputs."""
    return _part_inputs(path, part, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _part_inputs(path: Path, part: Part, changed: int) -> dict[str, tuple[int | str, ...]]:
    """Cut the graph once: plans and sessions ask again and again. changed: the file's time of last change."""
    return part_inputs(path, part)


def window_of(path: Path) -> Window:
    """Return what the rear of a decoder of whole clips needs; see engines.graphs.parts.rear_window."""
    return _window(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _window(path: Path, changed: int) -> Window:
    return rear_window(path)


def _extent(graph: str, extent: int | str, known: dict[str, int]) -> int:
    """Return an extent's value: `height`, `height*4` and `frames*8-7` are what export writes."""
    if isinstance(extent, int):
        return extent
    parsed = parse_extent(extent)
    if parsed is None or parsed.name not in known:
        raise BundleError(f"the manifest gives {graph} the extent {extent!r}, which is none of {', '.join(known)}")
    return parsed.of(known[parsed.name])
