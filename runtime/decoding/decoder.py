"""Decoding as a stream: one latent frame and the decoder's state go in, that frame's pictures and the next state come out.

The state stays wherever the engine keeps it; memory does not grow with the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.geometry import clip_size
from ...bundle.manifest import LatentGeometry
from ...core.errors import EngineError
from ...engines import Session, Tensor
from ...engines.options import FRAMES, FRAMES_MEAN, PICTURES

_STATE, _HIDDEN = "state_", "hidden_"
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
    yield from decode_inputs(first, following, latent_frames(latents), (height, width), geometry)


def latent_frames(latents: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what a decoder takes for each latent frame of latents [1, C, F, H, W]."""
    for index in range(latents.shape[2]):
        yield {"latent": latents[:, :, index : index + 1]}


def run_front(first: Session, following: Session, latents: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what the front of a decoder (see Part) hands on to its rear for each latent frame, by name.

    Raises EngineError where the front hands nothing on, or does not hand its state on.
    """
    state: dict[str, Tensor] = {}
    for index, frame in enumerate(latent_frames(latents)):
        session = first if index == 0 else following
        outputs = session.run({**tensors_of(frame), **state})
        state = next_state(outputs, state, f"decoding latent frame {index + 1}")
        maps = {name: tensor.numpy() for name, tensor in outputs.items() if name.startswith(_HIDDEN)}
        del outputs
        if not maps:
            raise EngineError(
                f"decoding latent frame {index + 1} gave nothing to decode further: the engine is at fault"
            )
        yield maps


def decode_inputs(
    first: Session,
    following: Session,
    inputs: Iterable[Mapping[str, NDArray[Any]]],
    size: tuple[int, int],
    geometry: LatentGeometry,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a decoder or of its rear, as decode_frames does.

    inputs: what it takes for each latent frame beside its state. size: height and width of the pictures.
    """
    for pictures in pictures_of_inputs(first, following, inputs, size, geometry):
        yield from pictures


def pictures_of_inputs(
    first: Session,
    following: Session,
    inputs: Iterable[Mapping[str, NDArray[Any]]],
    size: tuple[int, int],
    geometry: LatentGeometry,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [T, H, W, 3], of one latent frame after the other; see decode_inputs.

    The state is handed on for as long as inputs come, so that a clip that never ends has no seam.
    """
    state: dict[str, Tensor] = {}
    for index, frame in enumerate(inputs):
        session, count = (first, 1) if index == 0 else (following, geometry.temporal_scale)
        doing = f"decoding latent frame {index + 1}"
        outputs = session.run({**tensors_of(frame), **state})
        pictures = checked_pictures(outputs, count, size, doing)
        state = next_state(outputs, state, doing)
        del outputs  # the state of before is large, and the pictures may take long to be used
        yield pictures


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return arrays as a session takes them."""
    return {name: Tensor.from_numpy(array) for name, array in arrays.items()}


def checked_pictures(outputs: Mapping[str, Tensor], count: int, size: tuple[int, int], doing: str) -> NDArray[np.uint8]:
    """Return `count` pictures, uint8 [T, H, W, 3], of a decoder's outputs: it gives these, or frames as numbers.

    size: their height and width. Raises EngineError, which says what it was `doing`.
    """
    name = PICTURES if PICTURES in outputs else FRAMES
    shape = (1, count, *size, 3) if name == PICTURES else (1, 3, count, *size)
    values = outputs[name].numpy() if name in outputs else None
    if values is None or values.shape != shape:
        given = "no frames" if values is None else f"{name} of shape {list(values.shape)}"
        raise EngineError(f"{doing} gave {given} in the place of {list(shape)}: the bundle is at fault")
    telling = outputs[FRAMES_MEAN].numpy() if name == PICTURES and FRAMES_MEAN in outputs else values
    if not np.isfinite(telling).all():
        raise EngineError(f"{doing} gave values that are not numbers: the bundle or engine is at fault")
    return values[0] if name == PICTURES else to_uint8(values)


def next_state(outputs: Mapping[str, Tensor], before: Mapping[str, Tensor], doing: str) -> dict[str, Tensor]:
    """Return the state among a decoder's or encoder's outputs, under the names that the next run takes it by.

    before: the state that went in, empty at first. Raises EngineError, which says what it was `doing`.
    """
    state = {name.removesuffix(_NEXT): tensor for name, tensor in outputs.items() if name.startswith(_STATE)}
    if not state or (before and set(state) != set(before)):
        raise EngineError(f"{doing} gave the state {sorted(state)}, needed is {sorted(before) or 'state_00, ...'}")
    return state
