"""An MP4 of pieces that were encoded apart, beside its pictures and beside one that was encoded whole."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from edgereel.core.errors import OutputError
from edgereel.media.captions import Caption
from edgereel.media.sound import Mix
from edgereel.media.tracks import Chapter, Tracks
from edgereel.provenance.claim import Origin
from edgereel.runtime.video.output import Output

pytestmark = pytest.mark.lean
WIDTH, HEIGHT = 96, 64
RATES = [8, Fraction(24000, 1001)]
LENGTHS = [7, 2, 1, 1, 12, 3, 30]


def moving(count: int) -> list[np.ndarray]:
    """Return pictures of a bright square that goes over a slope, so that B-frames are worth it."""
    slope = np.linspace(40, 120, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 3))
    pictures = []
    for number in range(count):
        picture = slope.copy()
        at = number * 2 % (WIDTH - 16)
        picture[20:36, at : at + 16] = (230, 90, 40)
        pictures.append(picture.astype(np.uint8))
    return pictures


def joined(folder: Path, pictures: list[np.ndarray], lengths: list[int], fps: int | Fraction, tracks=None) -> Path:
    target, pieces, at = Output.check(folder / "film.mp4").at(fps), [], 0
    for number, length in enumerate(lengths):
        pieces.append(folder / f"{number}.mp4")
        target.piece(pieces[-1], pictures[at : at + length])
        at += length
    object.__setattr__(target, "tracks", tracks)
    assert target.join(pieces, {"title": "x"}, Origin({})).frames == sum(lengths)
    return target.path


@pytest.mark.parametrize("fps", RATES)
def test_it_has_every_picture_in_its_time_and_looks_as_if_encoded_whole(tmp_path, fps):
    pictures = moving(sum(LENGTHS))
    film = joined(tmp_path, pictures, LENGTHS, fps)
    Output.check(tmp_path / "whole.mp4").at(fps).write(pictures, {"title": "x"})
    errors = {}
    for path in (film, tmp_path / "whole.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.frames, stream.average_rate) == (len(pictures), fps)
            assert stream.duration * stream.time_base == pytest.approx(len(pictures) / fps, abs=1e-4)
            assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
            frames = list(container.decode(stream))
        times = [frame.pts * frame.time_base * fps for frame in frames]
        assert [round(time) for time in times] == list(range(len(pictures)))
        assert times == pytest.approx(list(range(len(pictures))), abs=0.01)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)
        errors[path.name] = [np.mean((one - other) ** 2) for one, other in zip(shown, pictures, strict=True)]
    # 35 dB is 20.6: what H.264 at crf 18 leaves of edges in colour, in each picture, at the joints too.
    assert max(errors["film.mp4"]) < 1.3 * max(errors["whole.mp4"])
    with av.open(str(film)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) == len(pictures)
    assert all(one.dts < other.dts for one, other in pairwise(packets))
    assert all(packet.pts >= packet.dts for packet in packets)
    assert any(packet.pts != packet.dts + 2 * packet.duration for packet in packets)  # there are B-frames
    starts = np.cumsum([0, *LENGTHS[:-1]])
    keys = {round(packet.pts * packet.time_base * fps) for packet in packets if packet.is_keyframe}
    assert keys >= set(starts)
    assert film.read_bytes().count(b"x264 - core") == 1


def test_what_goes_beside_keeps_step(tmp_path):
    tracks = Tracks(Mix(Fraction(sum(LENGTHS), 8)), (Caption(1000, 2000, "hello"),), (Chapter(0, 7000, "A"),), "eng")
    film = joined(tmp_path, moving(sum(LENGTHS)), LENGTHS, 8, tracks)
    with av.open(str(film)) as container:
        assert [each["metadata"]["title"] for each in container.chapters()] == ["A"]
        texts = [packet.pts * packet.time_base for packet in container.demux(subtitles=0) if packet.size > 2]
    assert texts == [1]


def test_pieces_of_other_settings_are_refused_and_nothing_is_left(tmp_path):
    target = Output.check(tmp_path / "film.mp4").at(8)
    target.piece(tmp_path / "a.mp4", moving(5))
    target.piece(tmp_path / "b.mp4", [picture[:32] for picture in moving(5)])
    with pytest.raises(OutputError, match="other settings"):
        target.join([tmp_path / "a.mp4", tmp_path / "b.mp4"], {}, Origin({}))
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4"}
