"""Whether a decoded clip shows anything: a broken engine or precision gives frames that are all alike, and no error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError

FEWEST = 5
"""Fewer frames may be one picture that is held; sampled noise never decodes to more that are the same to the last bit."""
FLAT = 1
"""Levels of 255 by which the pixels of a flat picture differ."""


class FrameCheck:
    """Sees every frame of a clip, uint8 [H, W, 3], as it passes."""

    def __init__(self) -> None:
        self._first: NDArray[np.uint8] | None = None
        self._count = 0
        self._flat = True
        self._frozen = True

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Take in the next frame."""
        self._count += 1
        if self._first is None:
            self._first = frame.copy()
        self._frozen = self._frozen and np.array_equal(frame, self._first)
        self._flat = self._flat and int((frame.max(axis=(0, 1)) - frame.min(axis=(0, 1))).max()) <= FLAT

    def finish(self) -> None:
        """Raise EngineError where the clip shows nothing."""
        what = "show a flat colour" if self._flat else "are one and the same picture"
        if self._count and (self._flat or (self._frozen and self._count >= FEWEST)):
            raise EngineError(
                f"all {self._count} frames {what}: the engine or its precision is at fault, so nothing was written; "
                "try another engine or edgereel verify"
            )
