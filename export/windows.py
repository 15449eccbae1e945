"""Proof that a decoder of whole clips can be decoded in windows: its rear, shown the middle of a clip, makes the same pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..bundle.manifest import Parity
from ..core.errors import EngineError
from ..engines import EngineOptions, Session, Tensor, Window, get_engine
from ..engines.graphs.parts import rear_window
from .families.base import Array, Trial
from .parity import judge, relative_difference


def prove_windows(path: Path, trials: list[Trial], limit: float) -> Parity | None:
    """Return the parity of a decoder in windows, None where its graph cannot be cut, so that no windows are ever used.

    path: of a graph that takes `latents` [B, C, F, H, W] and makes all `frames`. Raises ParityError where the pictures in the
    middle of a window are not the clip's, RuntimeError where no trial is long enough for a window that is not at its ends.
    """
    try:
        window = rear_window(path)
    except EngineError:
        return None
    trial = max(trials, key=lambda each: each.inputs["latents"].shape[2])
    engine = get_engine("cpu")
    with (
        engine.open(path, EngineOptions(part="front", keep=False)) as front,
        engine.open(path, EngineOptions(part="rear", keep=False)) as rear,
    ):
        return judge(path.stem, [_difference(front, rear, window, trial)], [trial], limit)


def _difference(front: Session, rear: Session, window: Window, trial: Trial) -> float:
    hidden = _run(front, trial.inputs)["hidden_00"]
    count = hidden.shape[2]
    # The shortest window that has a frame to show, in whole latent frames.
    length = 1 + window.growth * -(-(2 * window.reach) // window.growth)
    start = (count - length) // 2
    if start < 1 or start + length >= count:
        raise RuntimeError(f"the trials' longest clip has {count} frames inside: too few for a window of {length}")
    frames = _run(rear, {"hidden_00": np.ascontiguousarray(hidden[:, :, start : start + length])})["frames"]
    pictures = window.pictures
    shown = slice(1 + pictures * (window.reach - 1), 1 + pictures * (length - window.reach - 1))
    first = pictures * start
    expected = trial.expected[:, :, first + shown.start : first + shown.stop]
    return relative_difference(frames[:, :, shown], expected)


def _run(session: Session, inputs: dict[str, Array]) -> dict[str, Array]:
    outputs = session.run({name: Tensor.from_numpy(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}
