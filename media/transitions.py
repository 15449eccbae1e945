"""How one scene becomes the next: arithmetic on two runs of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
KINDS = ("cut", "fade", "dissolve")
"""A fade goes through black, one scene after the other; a dissolve shows both at once, for as long as it lasts."""


def dissolve(before: Sequence[Picture], after: Iterator[Picture]) -> Iterator[Picture]:
    """Yield as many pictures as `before` has, each a mix with the next of `after`, whose share grows evenly."""
    for index, picture in enumerate(before, start=1):
        yield mix(picture, next(after), index / (len(before) + 1))


def faded(pictures: Iterator[Picture], count: int, first: int, last: int, at: int = 0) -> Iterator[Picture]:
    """Yield pictures of `count`, whose first ones come out of black and whose last ones go into it.

    first, last: how many; together at most `count`. at: which of them the first one is that `pictures` has.
    """
    for index, picture in enumerate(pictures, start=at):
        light = min(1.0, (index + 1) / (first + 1), (count - index) / (last + 1))
        yield picture if light == 1 else np.rint(picture * np.float32(light)).astype(np.uint8)


def mix(one: Picture, other: Picture, share: float) -> Picture:
    """Return a picture that is the other to a share of 0 to 1."""
    return np.rint(one * np.float32(1 - share) + other * np.float32(share)).astype(np.uint8)
