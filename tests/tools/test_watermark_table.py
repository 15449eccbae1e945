"""The program behind the watermark's table: what it measures, and the promises of docs/provenance.md on a few clips."""

from __future__ import annotations

import numpy as np
import pytest

from edgereel.tools.footage import footage
from edgereel.tools.watermark_table import Frames, footage_clip, measure, table, unmarked

pytestmark = pytest.mark.lean


def _six_pictures(width: int, height: int, seed: int) -> Frames:
    return list(footage(seed, width, height, 6))


def test_a_table_of_a_small_clip_and_one_without_a_mark():
    row = {"kind": "272x208", **measure(_six_pictures, 272, 208, 3)}
    plain = {"kind": "unmarked", **unmarked(0)}
    assert row["found"]["as written"][0]
    assert not any(wrong for _, _, wrong in row["found"].values())
    assert not plain["false"]
    text = table([row, plain])
    assert "272x208, 1 clips:" in text
    assert "| as written | 1 of 1 |" in text
    assert "1 unmarked clips: 0 called marked" in text


@pytest.mark.full
def test_the_promises_at_832x480():
    rows = [measure(footage_clip, 832, 480, seed) for seed in range(8)]
    assert min(row["psnr"] for row in rows) >= 42
    assert np.mean([row["growth"] for row in rows]) < 1.25
    read = {attack: np.mean([row["found"][attack][0] for row in rows]) for attack in rows[0]["found"]}
    assert min(read.values()) >= 0.85, read
    assert not any(wrong for row in rows for _, _, wrong in row["found"].values())
    assert not any(unmarked(seed)["false"] for seed in range(200))
