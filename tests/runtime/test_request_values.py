"""What Python programs pass for a setting: numbers of any type are taken, everything else is refused at the door."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.small_bundle import write_small_bundle

import edgereel
from edgereel.core.errors import UsageError
from edgereel.runtime.request import OpenRequest
from edgereel.runtime.video.frame_rate import frame_rate, parse_frame_rate

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("seed", np.int64(3), 3),
        ("seed", np.uint32(2**32 - 1), 2**32 - 1),
        ("steps", np.int8(4), 4),
        ("frames", np.int64(5), 5),
        ("size", (np.int64(64), np.int16(48)), (64, 48)),
        ("size", [64, 48], (64, 48)),
        ("size", np.array([64, 48]), (64, 48)),
        ("guidance", np.float32(2.5), 2.5),
        ("guidance", 3, 3.0),
        ("fps", np.int32(12), 12),
        ("fps", 12.0, 12),
        ("fps", 23.976, Fraction(2997, 125)),
        ("fps", np.float64(12.5), Fraction(25, 2)),
        ("fps", Fraction(24000, 1001), Fraction(24000, 1001)),
        ("fps", Fraction(24, 1), 24),
    ],
)
def test_numbers_of_any_type_are_taken(name, value, taken):
    found = getattr(OpenRequest("a", **{name: value}), name)
    assert found == taken
    assert type(found) is type(taken)
    if isinstance(found, tuple):
        assert {type(part) for part in found} == {int}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", value) for value in ("7", 3.0, True, -1, 2**32, 10**5000, np.float32(3), b"1", [1])),
        *(("frames", value) for value in (5.0, "5", True, np.bool_(True), (5,), Fraction(5))),
        *(("steps", value) for value in (2.5, "4", [4])),
        *(("size", value) for value in ("64x64", 64, (64,), (64, 64, 3), (64.0, 64), {64, 32}, np.array(64), b"aa")),
        *(
            ("fps", value)
            for value in ("12", 0, 241, -5, float("nan"), float("inf"), True, 1j, Fraction(1, 10**9) + 24)
        ),
        *(("guidance", value) for value in ("4", True, 10**400, 1j, [4])),
        *(("sampler", value) for value in (3, b"euler")),
        ("recipe", 4),
    ],
    ids=lambda value: "a large number" if isinstance(value, int) and value > 10**40 else repr(value)[:30],
)
def test_everything_else_is_refused_at_the_door(name, value):
    with pytest.raises(UsageError, match=r"seed|frames|steps|size|width|height|guidance|sampler|recipe|fps") as caught:
        OpenRequest("a", **{name: value})
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_none_is_named(tmp_path):
    with edgereel.load(write_small_bundle(tmp_path / "small.reel")) as reel:
        with pytest.raises(TypeError, match="no setting 'stpes': choose from seed, steps"):
            reel.generate("a red ball", stpes=4)
        with pytest.raises(UsageError, match="seed is '7'"):
            reel.generate("a red ball", seed="7")
        assert reel.report() == {}


@pytest.mark.parametrize("text", ["24", "23.976", "24000/1001", "12.5"])
def test_speeds_are_read_as_they_are_written(text):
    assert parse_frame_rate(text) == frame_rate(Fraction(text))
    assert parse_frame_rate(str(parse_frame_rate(text))) == Fraction(text)


@pytest.mark.parametrize(
    "text", ["", "fast", "1/0", "24/00", "-24", "1e2", "٢٤", "24 ", "9" * 50, "1/9999999", "241", "0.5"]
)
def test_text_that_is_no_speed_is_refused(text):
    with pytest.raises(UsageError, match="frames per second"):
        parse_frame_rate(text)


def test_a_clip_at_the_speed_of_film(tmp_path):
    """It plays at 24000/1001, says so, and its settings are JSON."""
    with edgereel.load() as reel:
        video = reel.generate("a red ball", steps=1, frames=5, fps=Fraction(24000, 1001), seed=np.int64(3))
        video.save(tmp_path / "clip.mp4")
    settings = json.loads(json.dumps(video.settings()))
    assert (settings["fps"], settings["seed"]) == ("24000/1001", 3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(24000, 1001)
