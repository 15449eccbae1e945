"""A mark in frames: invisible, found again after what is done to videos, and not found where there is none."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from edgereel.core.errors import GeometryError
from edgereel.provenance.watermark.detect import detect
from edgereel.provenance.watermark.embed import Watermark
from edgereel.provenance.watermark.payload import Payload
from edgereel.tools.footage import footage

pytestmark = pytest.mark.lean

PAYLOAD = Payload(0x0A1B2C, 0x123456789A)
WIDTH, HEIGHT = 416, 240


@pytest.fixture(scope="module")
def plain():
    return list(footage(3, WIDTH, HEIGHT, 12))


@pytest.fixture(scope="module")
def marked(plain):
    return list(Watermark(PAYLOAD).over(plain))


def lumas(frames):
    return [np.rint(frame @ np.array([0.299, 0.587, 0.114])).astype(np.uint8) for frame in frames]


def encoded(frames, crf):
    """Return frames as they come back from H.264."""
    file = io.BytesIO()
    height, width = frames[0].shape[:2]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def resized(frames, width, height):
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return [picture.reformat(width=width, height=height, interpolation="BICUBIC").to_ndarray() for picture in pictures]


def test_a_mark_cannot_be_seen(plain, marked):
    errors = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(plain, marked, strict=True)]
    assert 10 * np.log10(255**2 / max(errors)) >= 42
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(plain, marked, strict=True)) <= 12


@pytest.mark.parametrize(
    ("attack", "scale"),
    [
        (lambda frames: frames, 1.0),
        (lambda frames: encoded(frames, 28), 1.0),
        (lambda frames: encoded(resized(frames, WIDTH // 2, HEIGHT // 2), 20), 0.5),
        (lambda frames: [frame[30:220, 100:340] for frame in frames], 1.0),
        (lambda frames: encoded(resized([frame[20:220, 40:390] for frame in frames], 280, 160), 20), 0.8),
        (lambda frames: frames[::2], 1.0),
        (lambda frames: [frames[index] for index in (0, 3, 4, 9)], 1.0),
    ],
    ids=["nothing", "crf 28", "half size", "crop", "crop and resize", "twice the speed", "frames dropped"],
)
def test_a_mark_outlives(attack, scale, marked):
    found = detect(lumas(attack(marked)))
    assert found.payload == PAYLOAD
    assert found.scale == pytest.approx(scale, rel=0.02)
    assert not found.mirrored
    assert 0.7 < found.agreement <= 1


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mark_is_read_in_mirrors(axis, marked):
    found = detect(lumas(encoded([np.flip(frame, axis) for frame in marked], 23)))
    assert found.payload == PAYLOAD
    assert found.mirrored


def test_a_mark_of_another_key_is_not_read(plain):
    other = list(Watermark(PAYLOAD, key="a company's own").over(plain))
    assert detect(lumas(other)).payload is None
    assert detect(lumas(other), key="a company's own").payload == PAYLOAD


def test_unmarked_footage_has_no_mark(plain):
    assert detect(lumas(plain)).payload is None
    assert detect(lumas(footage(8, 128, 128, 4))).payload is None


def test_the_smallest_picture_that_can_be_marked():
    marked = list(Watermark(PAYLOAD).over(footage(5, 128, 128, 12)))
    assert detect(lumas(marked)).payload == PAYLOAD
    with pytest.raises(GeometryError, match="too small for a watermark"):
        next(Watermark(PAYLOAD).over(footage(5, 256, 112, 1)))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_pictures_bear_a_mark_and_have_none(value):
    blank = [np.full((240, 416, 3), value, np.uint8)] * 3
    assert detect(lumas(blank)).payload is None
    found = detect(lumas(Watermark(PAYLOAD).over(blank)))
    assert found.payload == PAYLOAD


def test_nothing_to_look_at_has_no_mark():
    assert detect([]).payload is None
    assert detect([np.zeros((8, 8), np.uint8)]).payload is None


def test_sizes_that_are_no_whole_blocks():
    frames = list(Watermark(PAYLOAD).over(footage(3, 262, 166, 8)))
    assert frames[0].shape == (166, 262, 3)
    assert detect(lumas(frames)).payload == PAYLOAD
