"""What a tiny decoder's file is, told by the shapes of its tensors: madebyollin's taehv layout, which LightTAE shares.

The decoder's layers are numbered: 0 bounds the latents, 1 convolves them, 3 to 5, 9 to 11 and 15 to 17 are memory blocks,
7, 13 and 19 make frames of channels (`grow`), 8, 14 and 20 convolve to the next width, 22 to pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from .....bundle.manifest import LatentGeometry
from .....core.errors import CheckpointError
from ....component import Component, ComponentLayout, own_name
from ....storage.files import weight_files
from ....storage.tensors import Shape, read_as, read_headers

UPSAMPLED = 8
"""Factor in height and width by the three stages; what a patch adds comes on top."""
COLOURS = 3
GROW_LAYERS, WIDTH_LAYERS, LAST_LAYER = (7, 13, 19), (8, 14, 20), 22
TINY = ComponentLayout(unused=(r"^encoder\.",))
LARGEST = 4096
"""Of any extent of a tensor that is believed before the weights are read."""
PUBLISHED = {
    (16, 4, 8): "taew2_1 or lighttaew2_1, for Wan 2.1 and Wan 2.2 A14B",
    (48, 4, 16): "taew2_2 or lighttaew2_2, for Wan 2.2 TI2V-5B",
    (32, 4, 16): "taehv1_5, for HunyuanVideo 1.5",
    (128, 8, 32): "taeltx_2, for LTX-2",
}
"""By channels of latents and the scales in time and space."""


@dataclass(frozen=True)
class TinyShape:
    """channels: of latents. widths: of the three stages and the last layers. grow: frames that each stage makes of one.

    patch: pixels a side that the last layer gives as channels.
    """

    channels: int
    widths: tuple[int, int, int, int]
    grow: tuple[int, int, int]
    patch: int

    @property
    def temporal_scale(self) -> int:
        """Pictures of a latent frame."""
        return math.prod(self.grow)

    @property
    def spatial_scale(self) -> int:
        """Pixels of a latent in height and width."""
        return UPSAMPLED * self.patch

    def __str__(self) -> str:
        scales = (self.channels, self.temporal_scale, self.spatial_scale)
        known = f" ({PUBLISHED[scales]})" if scales in PUBLISHED else ""
        return f"latents of {scales[0]} channels, scales of {scales[1]} in time and {scales[2]} in space{known}"


def open_tiny(path: Path, geometry: LatentGeometry, notes: list[str]) -> tuple[Component, TinyShape]:
    """Return a tiny decoder's file or folder as a component, and what its shapes say; notes: where to tell how it was read.

    Raises CheckpointError where it is none, or is for other latents than the model's: the tensor that shows it is named.
    """
    shape = _shape_of(path)
    wanted = (geometry.channels, geometry.temporal_scale, geometry.spatial_scale)
    for found, needed, key in (
        (shape.channels, geometry.channels, "decoder.1.weight"),
        (shape.temporal_scale, geometry.temporal_scale, f"decoder.{GROW_LAYERS[-1]}.conv.weight"),
        (shape.spatial_scale, geometry.spatial_scale, f"decoder.{LAST_LAYER}.weight"),
    ):
        if found != needed:
            fitting = PUBLISHED.get(wanted, "none that is published")
            raise CheckpointError(
                f"{path}: tensor {key} shows a tiny decoder for {shape}, but this model's latents have {wanted[0]} channels "
                f"and scales of {wanted[1]} and {wanted[2]}, which {fitting} fits"
            )
    return Component(path, {"shape": shape}, TINY, notes), shape


def _shape_of(path: Path) -> TinyShape:
    stored = read_headers(weight_files(path).paths)

    def shape_of(layer: str, axes: int) -> Shape:
        key = f"decoder.{layer}.weight"
        tensor = read_as([key], stored, (own_name,)).tensors.get(key)
        if tensor is None:
            first = next(iter(stored), "no tensors")
            raise CheckpointError(
                f"{path}: has no tensor {key}, which every tiny decoder of the taehv layout has (its first is {first}); give "
                "taew2_1, taew2_2, lighttaew2_1 or lighttaew2_2 as .safetensors"
            )
        if len(tensor.shape) != axes or not all(0 < extent <= LARGEST for extent in tensor.shape):
            raise CheckpointError(
                f"{path}: tensor {tensor.key} has shape {list(tensor.shape)}: it is no tiny decoder's"
            )
        return tensor.shape

    first, last = shape_of("1", 4), shape_of(str(LAST_LAYER), 4)
    widths = (first[0], *(shape_of(str(layer), 4)[0] for layer in WIDTH_LAYERS))
    grown = [shape_of(f"{layer}.conv", 4)[0] for layer in GROW_LAYERS]
    patch = math.isqrt(last[0] // COLOURS)
    if last[0] != COLOURS * patch * patch or patch < 1:
        raise CheckpointError(
            f"{path}: tensor decoder.{LAST_LAYER}.weight gives {last[0]} channels: 3 times a square make pictures"
        )
    for layer, width, made in zip(GROW_LAYERS, widths, grown, strict=False):
        if made % width:
            raise CheckpointError(
                f"{path}: tensor decoder.{layer}.conv.weight makes {made} channels of {width}: no whole frames"
            )
    grow = tuple(made // width for made, width in zip(grown, widths, strict=False))
    return TinyShape(first[1], widths, grow, patch)  # type: ignore[arg-type]
