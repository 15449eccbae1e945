"""Decoding as a stream: one latent frame and the decoder's state go in, that frame's pictures and the next state come out.

The state stays wherever the engine keeps it; memory does not grow with the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..engines import Session, Tensor
from ..errors import EngineError
from .geometry import clip_size
from .manifest import LatentGeometry

_STATE = "state_"
# ONNX wants every name in a graph once, so a state that decoder_next takes as `state_00` leaves it as `state_00_next`.
_NEXT = "_next"


def to_uint8(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pictures [T, H, W, 3], 0 to 255, of frames [1, 3, T, H, W] in [-1, 1]: round(255 * x) as diffusers does."""
    unit = np.clip(frames[0].transpose(1, 2, 3, 0) * np.float32(0.5) + np.float32(0.5), 0, 1)
    pictures: NDArray[np.uint8] = np.round(unit * np.float32(255)).astype(np.uint8)
    return pictures


def decode_frames(
    first: Session, following: Session, latents: NDArray[np.float32], geometry: LatentGeometry
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [H, W, 3], of latents [1, C, F, H, W] (normalised units), as they are decoded.

    first, following: the opened `decoder_first` and `decoder_next` graphs. Raises EngineError where the decoder gives
    values that are not numbers, another number or size of pictures than the geometry says, or does not hand its state on.
    """
    width, height, _ = clip_size(geometry, latents.shape)
    state: dict[str, Tensor] = {}
    for index in range(latents.shape[2]):
        session, count = (first, 1) if index == 0 else (following, geometry.temporal_scale)
        latent = Tensor.from_numpy(latents[:, :, index : index + 1])
        outputs = session.run({"latent": latent, **state})
        frames = _checked_frames(outputs, (1, 3, count, height, width), index)
        state = _next_state(outputs, state, index)
        del outputs  # the state of before is large, and the pictures may take long to be used
        yield from to_uint8(frames)


def _checked_frames(outputs: Mapping[str, Tensor], shape: tuple[int, ...], index: int) -> NDArray[np.float32]:
    frames = outputs["frames"].numpy() if "frames" in outputs else None
    if frames is None or frames.shape != shape:
        given = "no frames" if frames is None else f"frames of shape {list(frames.shape)}"
        raise EngineError(f"decoding latent frame {index + 1} gave {given} in the place of {list(shape)}")
    if not np.isfinite(frames).all():
        raise EngineError(
            f"decoding latent frame {index + 1} gave values that are not numbers: the bundle or engine is at fault"
        )
    return frames


def _next_state(outputs: Mapping[str, Tensor], before: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return the state among a decoder's outputs, under the names that `decoder_next` takes it by."""
    state = {name.removesuffix(_NEXT): tensor for name, tensor in outputs.items() if name.startswith(_STATE)}
    if not state or (before and set(state) != set(before)):
        raise EngineError(
            f"decoding latent frame {index + 1} gave the state {sorted(state)}, needed is {sorted(before) or 'state_00, ...'}"
        )
    return state
