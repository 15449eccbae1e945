"""Decoding where each picture depends on what comes after it: the whole clip at once or, where that is too large, in windows.

The decoder is cut in time (see engines/graphs/places.py). Its front sees the whole clip, where frames are few and small; what
it hands on stays on the host. Its rear makes pictures of a window of that at a time, with as many frames beside those that
count as its pictures depend on: they are the same as if all were decoded at once. The price: the first picture comes when the
front has seen the whole clip, and frames beside a window are decoded more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ...bundle.geometry import clip_size
from ...bundle.manifest import LatentGeometry
from ...core.errors import EngineError
from ...engines import Session, Window
from .decoder import checked_pictures, tensors_of
from .tiling import spans

_DOING = "decoding"

Inputs = Mapping[str, NDArray[np.float32]]
"""What a decoder of whole clips takes: `latents` [1, C, F, H, W] and, where it wants some, `noise` of their shape."""


def window_sizes(frames: int, window: Window) -> list[int]:
    """Return the windows, in latent frames, that a clip of so many can be decoded in, the largest first.

    Each has at least one frame that counts; a window of n latent frames is 1 + growth·(n - 1) frames of the rear.
    """
    made = 1 + window.growth * (frames - 1)
    found: list[int] = []
    for count in range(2, made + 1):
        needed = -(-(made - 2 * window.reach) // count) + 2 * window.reach
        size = 1 + max(1, ceil((needed - 1) / window.growth))
        if size < frames and 1 + window.growth * (size - 1) > 2 * window.reach and size not in found:
            found.append(size)
    return found


def decode_clip(decoder: Session, inputs: Inputs, geometry: LatentGeometry) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [H, W, 3], of a clip that is decoded at once.

    Raises EngineError where the decoder gives values that are not numbers, or other pictures than the geometry says.
    """
    width, height, count = clip_size(geometry, inputs["latents"].shape)
    yield from checked_pictures(decoder.run(tensors_of(inputs)), count, (height, width), _DOING)


def decode_windowed(
    front: Session, rear: Session, inputs: Inputs, geometry: LatentGeometry, window: Window, size: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [H, W, 3], of a clip whose rear sees `size` latent frames at a time; see window_sizes.

    front, rear: of the opened `decoder` graph. Raises EngineError as decode_clip does.
    """
    hidden = _hidden(front, inputs)
    width, height, _ = clip_size(geometry, inputs["latents"].shape)
    count = hidden.shape[2]
    begin = 0
    for start, end in spans(count, 1 + window.growth * (size - 1), 2 * window.reach):
        seen = tensors_of({"hidden_00": hidden[:, :, start:end]})
        made = 1 + window.pictures * (end - start - 1)
        pictures = checked_pictures(rear.run(seen), made, (height, width), _DOING)
        # Near an edge that is none of the clip's the rear took the edge for the clip's.
        last = end if end == count else end - window.reach
        first_picture = _first_picture(begin - start, window.pictures)
        yield from pictures[first_picture : _first_picture(last - start, window.pictures)]
        begin = last


def _first_picture(frame: int, pictures: int) -> int:
    """Return the first picture of a frame: the first frame is one picture, later ones are several."""
    return 0 if frame == 0 else 1 + pictures * (frame - 1)


def _hidden(front: Session, inputs: Inputs) -> NDArray[np.float32]:
    outputs = front.run(tensors_of(inputs))
    if list(outputs) != ["hidden_00"] or len(outputs["hidden_00"].shape) != 5:
        raise EngineError(f"the front of the decoder gave {sorted(outputs)}: the bundle is at fault")
    return outputs["hidden_00"].numpy()
