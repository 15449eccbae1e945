"""Decoding as a stream: one latent frame and the decoder's state go in, that frame's pictures and the next state come out.

The state stays wherever the engine keeps it; memory does not grow with the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines import Session, Tensor
from ..errors import EngineError

_STATE = "state_"
# ONNX wants every name in a graph once, so a state that decoder_next takes as `state_00` leaves it as `state_00_next`.
_NEXT = "_next"


def to_uint8(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pictures [T, H, W, 3], 0 to 255, of frames [1, 3, T, H, W] in [-1, 1]: round(255 * x) as diffusers does."""
    unit = np.clip(frames[0].transpose(1, 2, 3, 0) * np.float32(0.5) + np.float32(0.5), 0, 1)
    pictures: NDArray[np.uint8] = np.round(unit * np.float32(255)).astype(np.uint8)
    return pictures


def decode_frames(first: Session, following: Session, latents: NDArray[np.float32]) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [H, W, 3], of latents [1, C, F, H, W] (normalised units), as they are decoded.

    first, following: the opened `decoder_first` and `decoder_next` graphs. Raises EngineError where the decoder gives
    values that are not numbers.
    """
    state: dict[str, Tensor] = {}
    for index in range(latents.shape[2]):
        latent = Tensor.from_numpy(latents[:, :, index : index + 1])
        outputs = (following if state else first).run({"latent": latent, **state})
        frames: NDArray[Any] = outputs.pop("frames").numpy()
        state = {name.removesuffix(_NEXT): tensor for name, tensor in outputs.items() if name.startswith(_STATE)}
        if not np.isfinite(frames).all():
            raise EngineError(
                f"decoding latent frame {index + 1} gave values that are not numbers: the bundle or engine is at fault"
            )
        yield from to_uint8(frames)
