"""The visible label: where it was asked for, legible on any picture, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")

from edgereel.core.errors import GeometryError, UsageError
from edgereel.media.label import CORNERS, Label

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_label_is_in_its_corner_alone(corner, value):
    plain = np.full((240, 416, 3), value, np.uint8)
    (labelled,) = Label(corner=corner).over([plain])
    assert (plain == value).all(), "the frame that came in stays as it was"
    changed = (labelled != plain).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.max() < 60 if corner.startswith("top") else rows.min() > 180
    assert columns.max() < 208 if corner.endswith("left") else columns.min() > 208
    assert np.ptp(labelled[changed].astype(int)) > 80 or value == 255, "letters stand out from their box"


def test_letters_grow_with_the_size_that_was_asked_for():
    plain = np.zeros((480, 832, 3), np.uint8)
    heights = []
    for size in (3, 6, 12):
        (labelled,) = Label(size=size).over([plain])
        heights.append(np.ptp(np.nonzero(labelled.any(axis=(1, 2)))[0]))
    assert heights[0] < heights[1] < heights[2]


def test_the_icon_is_short():
    plain = np.zeros((128, 128, 3), np.uint8)
    widths = [
        np.ptp(np.nonzero(next(Label(text).over([plain])).any(axis=(0, 2)))[0]) for text in ("icon", "AI-generated")
    ]
    assert widths[0] < widths[1]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError, match="font has no"):
        Label("生成")
    with pytest.raises(UsageError, match="not possible"):
        Label(size=50)
    with pytest.raises(GeometryError, match="does not fit"):
        Label("a label that is much too long for it").check(64, 64)
