"""Pictures into a file with its marks: what films and campaigns share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.video.output import Output

Picture = NDArray[np.uint8]


def write_marked(
    target: Output,
    pictures: Iterator[Picture],
    metadata: Mapping[str, str],
    count: int,
    settings: Mapping[str, Any],
    watch: Any = iter,
) -> dict[str, Any] | None:
    """Write pictures to an output that was checked, and return what became of its marks, None where it has none.

    settings: what it is made with, without prompts. watch: sees the pictures as they are written, marks and all.
    """
    if target.label is not None:
        pictures = target.label.over(pictures)
    if target.marks is None:
        target.write(watch(pictures), metadata, count)
        return None
    marking = target.marks.begin(target.format, settings)
    target.write(watch(iter(marking.over(pictures))), metadata, count, marking.seal)
    return marking.record()
