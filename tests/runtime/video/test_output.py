"""GIF, WebP and folders of PNGs, read back as others read them: frames, times, what they say of themselves."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.pictures import METADATA, NAMES, SETTINGS, clip, contents, read_back, signal_to_noise, write_output
from PIL import Image

from edgereel.core.errors import UsageError
from edgereel.runtime.video.gif import GifSink
from edgereel.runtime.video.output import SUFFIXES, Output, format_of
from edgereel.runtime.video.webp import WebPSink

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 1), (2, 300), (480, 832)])
@pytest.mark.parametrize("name", NAMES)
def test_frames_come_back_as_they_went_in(tmp_path, name, size):
    frames = np.stack(list(clip(3, *size)))
    assert write_output(tmp_path / name, iter(frames), 8, METADATA, 3) == 3
    read, _ = read_back(tmp_path / name)
    assert read.shape == frames.shape
    if name == "clip.gif":
        assert signal_to_noise(read, frames) > 28
    else:
        np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize("name", NAMES)
def test_noise_comes_back_too(tmp_path, name):
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    write_output(tmp_path / name, frames, 8, {})
    read, _ = read_back(tmp_path / name)
    if name != "clip.gif":
        np.testing.assert_array_equal(read, frames)


def test_a_gif_of_few_colours_is_nearly_exact(tmp_path):
    frames = np.random.default_rng(0).choice([0, 60, 130, 255], (4, 30, 30, 3)).astype(np.uint8)
    write_output(tmp_path / "clip.gif", frames, 8, {})
    assert np.abs(read_back(tmp_path / "clip.gif")[0].astype(int) - frames).max() <= 4


@pytest.mark.parametrize("decoder", ["pillow", "ffmpeg"])
def test_a_gif_keeps_nothing_of_the_frame_before(tmp_path, decoder):
    """Frames that are all alike, all different, and differ in a corner: what an encoder of differences gets wrong."""
    frames = np.zeros((8, 40, 50, 3), np.uint8)
    frames[2:] = (250, 30, 60)
    frames[4:, :5, :5] = (0, 255, 0)
    frames[5:] = (10, 200, 220)
    frames[6] = next(clip(1, 40, 50))
    write_output(tmp_path / "clip.gif", frames, 10, {})
    if decoder == "pillow":
        read, _ = read_back(tmp_path / "clip.gif")
    else:
        with av.open(str(tmp_path / "clip.gif")) as container:
            read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read.shape == frames.shape
    for index in range(8):
        assert signal_to_noise(read[index], frames[index]) > 28, index


def test_a_gif_dithers(tmp_path):
    """A gradient of far more than 256 colours: the mean over small blocks is nearer than single pixels can be."""
    frame = next(clip(1, 240, 320))
    write_output(tmp_path / "clip.gif", [frame], 10, {})
    read = read_back(tmp_path / "clip.gif")[0][0]

    def blurred(picture):
        return picture.reshape(60, 4, 80, 4, 3).astype(float).mean((1, 3))

    assert signal_to_noise(blurred(read), blurred(frame)) > signal_to_noise(read, frame) + 5


@pytest.mark.parametrize("fps", [1, 7, 8, 16, 24, 30, 50, Fraction(24000, 1001)])
@pytest.mark.parametrize(("name", "unit"), [("clip.gif", 10), ("clip.webp", 1)])
def test_times_add_up(tmp_path, name, unit, fps):
    write_output(tmp_path / name, clip(33, 4, 4), fps, {})
    _, durations = read_back(tmp_path / name)
    assert len(durations) == 33
    assert max(durations) - min(durations) <= unit
    assert abs(sum(durations) - 33 * 1000 / Fraction(fps)) <= unit / 2
    if (name, fps) == ("clip.gif", 8):
        assert durations[:4] == [130, 120, 130, 120]


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_a_speed_that_no_player_shows_is_refused(tmp_path, name):
    fastest = {"clip.gif": 50, "clip.webp": 90}[name]
    Output.check(tmp_path / name).at(fastest)
    with pytest.raises(UsageError, match=f"browsers play at most {fastest}"):
        write_output(tmp_path / name, clip(), fastest + 1, {})
    for sink in (GifSink, WebPSink):
        with pytest.raises(ValueError, match="fps"):
            sink(0, {})
    for other in ("clip.mp4", "clip"):
        Output.check(tmp_path / other).at(240)
    assert list(tmp_path.iterdir()) == []


def test_a_gif_says_what_it_is(tmp_path):
    write_output(tmp_path / "clip.gif", clip(), 8, METADATA)
    with Image.open(tmp_path / "clip.gif") as image:
        comment = image.info["comment"]
    title, description, settings = comment.decode("ascii").split("\n")
    assert title == "a r\\u00e9d ball \\u2603 <&>"
    assert description == "AI-generated video"
    assert "\\ud83c\\udf88" in settings
    assert json.loads(settings) == json.loads(SETTINGS)


def xmp_of(packet):
    """Return the properties of an XMP packet by the last part of their names."""
    return {
        element.tag.rsplit("}")[-1]: "".join(element.itertext())
        for element in ElementTree.fromstring(packet.strip()).iter("*")
    }


@pytest.mark.parametrize("name", ["clip.webp", "clip"])
def test_xmp_says_what_it_is(tmp_path, name):
    write_output(tmp_path / name, clip(), 8, METADATA)
    path = tmp_path / name if name == "clip.webp" else tmp_path / name / "0002.png"
    with Image.open(path) as image:
        packet = image.info["xmp"]
    properties = xmp_of(packet)
    assert properties["title"] == METADATA["title"]
    assert properties["description"] == "AI-generated video"
    assert properties["DigitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert properties.get("UserComment") == (SETTINGS if name == "clip.webp" else None)


def test_xmp_stays_xml_whatever_the_text(tmp_path):
    write_output(tmp_path / "clip.webp", clip(), 8, {"title": "a\x00\x1b]]>\udc80&b"})
    with Image.open(tmp_path / "clip.webp") as image:
        assert xmp_of(image.info["xmp"])["title"] == "a\ufffd\ufffd]]>?&b"


def test_each_png_says_what_it_is(tmp_path):
    write_output(tmp_path / "clip", clip(), 8, METADATA, 5)
    for file in (tmp_path / "clip").iterdir():
        with Image.open(file) as image:
            image.load()
            text = image.text
        assert {key: text[key] for key in ("Title", "Description", "Comment", "Software")} == {
            "Title": METADATA["title"],
            "Description": "AI-generated video",
            "Comment": SETTINGS,
            "Software": "edgereel",
        }


def test_a_webp_is_laid_out_as_its_specification_says(tmp_path):
    write_output(tmp_path / "clip.webp", clip(3, 33, 47), 8, METADATA)
    data = (tmp_path / "clip.webp").read_bytes()
    assert data[:4] + data[8:12] == b"RIFFWEBP"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    position, names = 12, []
    while position < len(data):
        names.append(data[position : position + 4])
        position += 8 + (int.from_bytes(data[position + 4 : position + 8], "little") + 1) // 2 * 2
    assert position == len(data)
    assert names == [b"VP8X", b"ANIM", b"ANMF", b"ANMF", b"ANMF", b"XMP "]


@pytest.mark.parametrize("name", NAMES)
def test_same_frames_same_bytes(tmp_path, name):
    frames = list(clip(6))
    results = []
    for rubbish in range(6):
        np.full(100_000 + rubbish, rubbish, np.uint8)
        write_output(tmp_path / name, iter(frames), 8, METADATA)
        results.append(contents(tmp_path / name))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.mp4", "mp4"), ("a.GIF", "gif"), ("x/a.b.webp", "webp"), ("a", "png"), ("folder.gif/a", "png"), (".a", "png")],
)
def test_the_name_says_the_format(name, expected):
    assert format_of(name) == expected


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a.avi", r"\.avi is no known suffix: end it in \.mp4, \.gif or \.webp, or leave"),
        ("a.png", r"\.png is no known"),
        ("v1.5", r"\.5 is no known"),
        ("a.", r"\. is no known"),
        ("x/.gif", r"the name before \.gif is missing"),
        (".MP4", "is missing"),
    ],
)
def test_names_of_no_format(tmp_path, name, complaint):
    for attempt in (format_of, lambda name: Output.check(tmp_path / name)):
        with pytest.raises(UsageError, match=complaint):
            attempt(name)


def test_every_format_has_a_test():
    assert {format_of(name) for name in NAMES} | {"mp4"} == set(SUFFIXES)
