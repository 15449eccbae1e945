"""A classifier of pictures that a policy's owner brings: an ONNX graph that looks at every Nth frame before it is written.

It fails closed: a frame that cannot be judged is refused as one that is judged bad.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import EdgereelError, UsageError, brief, one_line
from ..graph import check_sha256, open_graph, picture_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_USUAL_SIDE = 224
_MOST_LABELS = 1000
_KEYS = {"classifier", "sha256", "every", "labels", "refuse", "softmax", "mean", "std"}
_LOG = "edgereel.policy"


class ClipRefused(EdgereelError):
    """A policy does not let these pictures be written."""


@dataclass(frozen=True)
class FrameRule:
    """What a policy says of frames.

    path: the graph. sha256: of its file. every: frames from one that is looked at to the next; the last one is looked at too.
    labels: of the graph's output, in its order. refuse: from what value on a label is refused, 0 to 1. softmax: whether the
    output has to be brought to a sum of 1 first. mean, std: of the colours, 0 to 1, that the graph is made for.
    """

    path: Path
    sha256: str
    labels: tuple[str, ...]
    refuse: Mapping[str, float]
    every: int = 8
    softmax: bool = False
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @staticmethod
    def of(table: Mapping[str, Any], folder: Path) -> FrameRule:
        """Return the rule of a policy's table `frames`. folder: the policy's, in which paths begin. Raises UsageError."""
        if unknown := sorted(set(table) - _KEYS):
            raise UsageError(f"frames: unknown key {unknown[0]!r}: choose from {', '.join(sorted(_KEYS))}")
        path, sha256, labels, refuse = (table.get(key) for key in ("classifier", "sha256", "labels", "refuse"))
        if not isinstance(path, str) or not path:
            raise UsageError('frames: classifier is the path of an ONNX graph, "frames.onnx"')
        sha256 = check_sha256(sha256, "frames: sha256")
        if (
            not isinstance(labels, list)
            or not 1 <= len(labels) <= _MOST_LABELS
            or len(set(map(str, labels))) != len(labels)
        ):
            raise UsageError(f"frames: labels are the names of the classifier's outputs, 1 to {_MOST_LABELS}, in order")
        if not isinstance(refuse, dict) or not refuse or not set(refuse) <= set(labels):
            raise UsageError("frames: refuse says from what value on a label is refused: { nudity = 0.5 }")
        limits = {label: _number(f"refuse.{label}", value, 0, 1) for label, value in refuse.items()}
        every, softmax = table.get("every", 8), table.get("softmax", False)
        if not isinstance(every, int) or isinstance(every, bool) or not 1 <= every <= 1000:
            raise UsageError("frames: every is a whole number from 1 to 1000")
        if not isinstance(softmax, bool):
            raise UsageError("frames: softmax is true or false")
        mean, std = (_colours(table, key, usual) for key, usual in (("mean", 0.0), ("std", 1.0)))
        if not all(std):
            raise UsageError("frames: std is not 0")
        return FrameRule(folder / path, sha256, tuple(map(str, labels)), limits, every, softmax, mean, std)

    def open(self, policy: str) -> FrameClassifier:
        """Open the graph. policy: whose rule this is. Raises UsageError where it is not the one, or no classifier of pictures."""
        return FrameClassifier(self, policy)


class FrameClassifier:
    """An opened classifier, which looks at the frames of clips as they pass."""

    def __init__(self, rule: FrameRule, policy: str) -> None:
        """See FrameRule.open."""
        self._rule, self._policy = rule, policy
        self._session = open_graph(rule.path, rule.sha256, "classifier")
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
        name = f"classifier {one_line(rule.path)}"
        self._planes_first, self._height, self._width = picture_size(shape, _USUAL_SIDE, name)
        self._input = inputs[0].name

    def over(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames, uint8 [H, W, 3]; the first, every Nth and the last are looked at. Raises ClipRefused."""
        last, index = None, 0
        for index, frame in enumerate(frames):
            last = None if index % self._rule.every == 0 else frame
            if last is None:
                self.check(frame, index)
            yield frame
        if last is not None:
            self.check(last, index)

    def check(self, frame: NDArray[np.uint8], index: int) -> None:
        """Look at one frame, uint8 [H, W, 3], the clip's index-th. Raises ClipRefused where it is refused or cannot be judged."""
        try:
            values = self._values(frame)
        except Exception as error:
            raise self._refusal(f"frame {index} could not be judged: {brief(error)}", "unjudged", index) from error
        for label, limit in self._rule.refuse.items():
            if values[label] >= limit:
                raise self._refusal(f"what frame {index} shows is refused (category: {one_line(label)})", label, index)

    def _refusal(self, what: str, category: str, index: int) -> ClipRefused:
        logging.getLogger(_LOG).info("policy %s: refuse, category %s, frame %d", self._policy, category, index)
        return ClipRefused(f"the policy {self._policy!r} does not let this clip be written: {what}")

    def _values(self, frame: NDArray[np.uint8]) -> dict[str, float]:
        import av
        import numpy as np

        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        small = picture.reformat(width=self._width, height=self._height, interpolation="AREA").to_ndarray()
        mean, std = np.array(self._rule.mean, np.float32), np.array(self._rule.std, np.float32)
        pixels = (small.astype(np.float32) / 255 - mean) / std
        if self._planes_first:
            pixels = pixels.transpose(2, 0, 1)
        output = np.asarray(self._session.run(None, {self._input: np.ascontiguousarray(pixels[None])})[0], np.float64)
        values = output.ravel()
        if len(values) != len(self._rule.labels) or not np.isfinite(values).all():
            raise ValueError(f"the classifier gave {output.shape} values for {len(self._rule.labels)} labels")
        if self._rule.softmax:
            values = np.exp(values - values.max())
            values /= values.sum()
        return dict(zip(self._rule.labels, map(float, values), strict=True))


def _colours(table: Mapping[str, Any], key: str, usual: float) -> tuple[float, ...]:
    values = table.get(key, [usual] * 3)
    if not isinstance(values, list) or len(values) != 3:
        raise UsageError(f"frames: {key} is a list of three numbers")
    return tuple(_number(key, value, -1000, 1000) for value in values)


def _number(key: str, value: Any, least: float, most: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or not least <= value <= most:
        raise UsageError(f"frames: {key} is a number from {least:g} to {most:g}")
    return float(value)
