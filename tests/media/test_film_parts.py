"""What a film is put together from: cards, captions, transitions, sound."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pysubs2
import pytest
from helpers.story_files import write_wav

from edgereel.core.errors import GeometryError, UsageError
from edgereel.media.captions import Caption, burned, check_caption, shown_on, write_captions
from edgereel.media.cards import Card, draw_card, parse_colour
from edgereel.media.lettering import Lettering
from edgereel.media.presets import presets
from edgereel.media.sound import RATE, Mix, Music, Speech, wav_seconds
from edgereel.media.transitions import dissolve, faded


def test_a_card_has_its_colours_and_its_text_where_it_should():
    card = draw_card(Card("Über Ωμέγα – Ж", background="#102030", colour="#ffffff"), 192, 96, Lettering())
    assert card.dtype == np.uint8
    assert tuple(card[0, 0]) == parse_colour("#102030")
    bright = (card > 200).all(axis=-1)
    rows, columns = np.nonzero(bright)
    assert 0.3 < rows.mean() / 96 < 0.7
    assert 0.4 < columns.mean() / 192 < 0.6
    assert bright.mean() > 0.004


def test_text_shrinks_to_fit_or_is_refused():
    lettering = Lettering()
    assert lettering.draw("a very long line of many words", 100, 60, 40).sum() > 0
    with pytest.raises(GeometryError, match="does not fit"):
        lettering.draw("word " * 100, 60, 60, 10)
    with pytest.raises(UsageError, match="永"):
        lettering.check("a永")


def test_a_font_that_is_none(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"no font")
    with pytest.raises(UsageError, match="as a font"):
        Lettering(tmp_path / "a.ttf")


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_captions_of_all_kinds_are_read_back(tmp_path, suffix):
    captions = [
        Caption(0, 1, "a"),
        Caption(999, 60_001, "two\nlines"),
        Caption(3_599_999, 3_600_000, "Ünï – <b> & 永"),
        Caption(40_000_000, 40_000_500, "after eleven hours"),
    ]
    events = pysubs2.load(str(write_captions(tmp_path / f"film{suffix}", captions)))
    assert [(each.start, each.end) for each in events] == [(each.start, each.end) for each in captions]
    assert events[1].plaintext == "two\nlines"
    assert "永" in events[2].plaintext


def test_a_caption_has_no_empty_lines():
    assert check_caption("a\n\n b \n") == "a\nb"
    for text in ("", "\n", "a\x07", "1 --> 2"):
        with pytest.raises(UsageError):
            check_caption(text)


def test_captions_are_drawn_when_they_are_shown():
    frames = [np.full((90, 120, 3), 90, np.uint8)] * 10
    when = shown_on([Caption(0, 90, "before"), Caption(200, 400, "hello")], Fraction(10), 0, 10)
    assert when == [(0, 1, "before"), (2, 4, "hello")]
    assert shown_on([Caption(200, 400, "hello")], Fraction(10), 3, 9) == [(0, 1, "hello")]
    assert shown_on([Caption(200, 400, "hello")], Fraction(10), 4, 9) == []
    shown = list(burned(iter(frames), when[1:], Lettering()))
    assert [not np.array_equal(frame, frames[0]) for frame in shown] == [False, False, True, True] + [False] * 6
    assert np.array_equal(shown[2][:60], frames[0][:60])
    assert shown[2].max() > 240
    assert shown[2].min() < 60


def test_dissolves_and_fades():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert [int(each[0, 0, 0]) for each in dissolve([black] * 3, iter([white] * 3))] == [50, 100, 150]
    assert [int(each[0, 0, 0]) for each in faded(iter([white] * 6), 6, 3, 1)] == [50, 100, 150, 200, 200, 100]


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def test_music_gives_way_to_words_and_ends_with_the_film(tmp_path):
    music = write_wav(tmp_path / "music.wav", 0.7, 200, 22_050, level=0.4)
    said = write_wav(tmp_path / "said.wav", 1, 1000, 8_000, level=0.3)
    mix = Mix(Fraction(6), (Speech(said, 2.0, wav_seconds(said)),), Music(music, 1.0, 0.25))
    sound = np.concatenate(list(mix.blocks()), axis=1)
    assert sound.shape == (2, 6 * RATE)
    assert np.array_equal(sound[0], sound[1])

    def level(at: float) -> float:
        return rms(sound[0, int(at * RATE) : int((at + 0.3) * RATE)])

    full, words = 0.4 / 2**0.5, 0.3 / 2**0.5
    assert level(0.5) == pytest.approx(full, rel=0.03)
    assert level(2.3) == pytest.approx((words**2 + (full / 4) ** 2) ** 0.5, rel=0.03)
    assert level(4.0) == pytest.approx(full, rel=0.03)
    assert level(5.69) < 0.3 * full
    # Words begin where they should, to a sample and what a resampler's filter takes.
    alone = np.concatenate(list(Mix(Fraction(4), (Speech(said, 2.0, 1.0),)).blocks()), axis=1)[0]
    begin = int(np.argmax(np.abs(alone) > 0.01)) / RATE
    assert begin == pytest.approx(2.0, abs=0.001)
    assert not alone[int(3.01 * RATE) :].any()


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\x24\0\0\0WAVEfmt ", b"\0" * 1000])
def test_files_that_hold_no_sound(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.wav"):
        wav_seconds(tmp_path / "a.wav")


def test_other_kinds_of_sound_are_not_read(tmp_path):
    """A WAV file may hold compressed sound, whose decoders are not needed."""
    data = bytearray(write_wav(tmp_path / "a.wav", 0.1).read_bytes())
    data[20:22] = (85).to_bytes(2, "little")  # MP3
    (tmp_path / "a.wav").write_bytes(bytes(data))
    with pytest.raises(UsageError, match="no plain sound"):
        wav_seconds(tmp_path / "a.wav")


def test_presets_are_shapes():
    assert {"wide", "vertical", "square", "story"} <= set(presets())
    assert all(each.width > 0 and each.height > 0 and 0 <= each.crf <= 51 for each in presets().values())
