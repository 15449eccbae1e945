"""A film of many pieces in programs that share nothing with what wrote it: a reader of boxes by hand, and Chromium."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story, write_wav

from edgereel.runtime.batch import ReelOptions
from edgereel.story.film.film import FilmOptions, make_film

STORY = """
title: Joints
format: 64x64
fps: 8
seed: 3
music: {file: music.wav, volume: 0.5}
scenes:
  - {card: Über, seconds: 1, chapter: Titel – 1}
  - {name: a, prompt: a red ball rises over the ocean, pictures: 9, transition: {kind: dissolve, seconds: 0.5}, caption: It rose}
  - {name: b, prompt: a blue star falls in the forest, pictures: 9, chapter: Two}
  - {card: End, seconds: 1, transition: {kind: fade, seconds: 0.5}, caption: The end, chapter: 終}
"""
STARTS = {"Titel – 1": 0.0, "Two": 13 / 8, "終": 22 / 8}
SECONDS = 30 / 8


CLOSE = 4
"""Levels of 255 between two ways from half the colours to RGB; the pictures beside a joint are further apart."""
PAGE = """<!doctype html><title>x</title>
<video muted><track default kind="subtitles" src="film.vtt" srclang="en"></video>
<script>
    // As a whole, since the server here does not give parts of files, which seeking asks for.
    fetch("film.mp4").then(answer => answer.blob()).then(film => {
        document.querySelector("video").src = URL.createObjectURL(film);
    });
</script>"""
SEEK = """async at => {
    const video = document.querySelector('video');
    const there = new Promise(done => video.addEventListener('seeked', done, {once: true}));
    video.currentTime = at;
    await there;
}"""
DRAW = """() => {
    const video = document.querySelector('video'), canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const pen = canvas.getContext('2d');
    pen.drawImage(video, 0, 0);
    return Array.from(pen.getImageData(0, 0, canvas.width, canvas.height).data);
}"""
PLAY = """async () => {
    const video = document.querySelector('video'), track = video.textTracks[0];
    track.mode = 'showing';
    while (!track.cues || !track.cues.length) await new Promise(done => setTimeout(done, 20));
    video.currentTime = 0;
    const ended = new Promise(done => video.addEventListener('ended', done, {once: true}));
    video.playbackRate = 4;
    await video.play();
    await ended;
    return {
        size: [video.videoWidth, video.videoHeight], seconds: video.duration, error: video.error,
        sound: video.webkitAudioDecodedByteCount, shown: video.webkitDecodedFrameCount,
        cues: Array.from(track.cues).map(cue => [cue.startTime, cue.endTime, cue.text]),
    };
}"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    write_wav(folder / "music.wav", 4, 220)
    write_story(folder / "film.yaml", STORY)
    make_film(folder / "film.yaml", folder / "film.mp4", FilmOptions(bundle=DEMO_REEL), ReelOptions("cpu", 1))
    return folder / "film.mp4"


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the boxes of ISO/IEC 14496-12: four bytes of size, four of name, content."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        assert size >= 8, "no box here is as long as the file, or longer than 4 GiB"
        yield data[at + 4 : at + 8].decode("latin-1"), data[at + 8 : at + size]
        at += size


def all_of(data: bytes, *path: str) -> list[bytes]:
    """Return the content of all boxes of that path."""
    found = [data]
    for name in path:
        found = [inner for each in found for kind, inner in boxes(each) if kind == name]
    return found


def numbers(box: bytes, start: int = 8) -> list[int]:
    """Return what follows in a full box: unsigned, 32 bits each."""
    return list(struct.unpack(f">{(len(box) - start) // 4}I", box[start:]))


def samples(data: bytes, track: bytes) -> list[tuple[float, bytes]]:
    """Return when each sample of a track is shown, in seconds, and its bytes; of tracks without reordering."""
    (table,) = all_of(track, "mdia", "minf", "stbl")
    scale = int.from_bytes(all_of(track, "mdia", "mdhd")[0][12:16], "big")
    durations = [
        length for count, length in np.reshape(numbers(all_of(table, "stts")[0]), (-1, 2)) for _ in range(count)
    ]
    fixed, count, *sizes = numbers(all_of(table, "stsz")[0], 4)
    sizes = sizes or [fixed] * count
    offsets = numbers(all_of(table, "stco")[0])
    runs = np.reshape(numbers(all_of(table, "stsc")[0]), (-1, 3))
    found, number, time = [], 0, 0
    for chunk, at in enumerate(offsets, start=1):
        per_chunk = next(run[1] for run in reversed(runs) if run[0] <= chunk)
        for _ in range(per_chunk):
            found.append((time / scale, data[at : at + sizes[number]]))
            at, time, number = at + sizes[number], time + durations[number], number + 1
    assert number == count
    return found


def test_chapters_are_there_in_both_ways_that_players_read(film):
    data = film.read_bytes()
    (movie,) = all_of(data, "moov")
    # As Nero has them: a version, a count, and for each its start in units of 100 ns, and a name with its length.
    (listed,) = all_of(movie, "udta", "chpl")
    found, at = {}, 9
    for _ in range(listed[8]):
        start, length = int.from_bytes(listed[at : at + 8], "big"), listed[at + 8]
        found[listed[at + 9 : at + 9 + length].decode()] = start / 1e7
        at += 9 + length
    assert found == pytest.approx(STARTS, abs=1e-3)
    # As QuickTime has them: a track of text that the film's track refers to.
    tracks = {int.from_bytes(all_of(track, "tkhd")[0][12:16], "big"): track for track in all_of(movie, "trak")}
    named = {
        number for track in tracks.values() for each in all_of(track, "tref", "chap") for number in numbers(each, 0)
    }
    (chapters,) = (tracks[number] for number in named)
    shown = {text[2 : 2 + int.from_bytes(text[:2], "big")].decode(): time for time, text in samples(data, chapters)}
    assert shown == pytest.approx(STARTS, abs=1e-3)


def test_every_piece_begins_with_a_picture_that_players_seek_to(film):
    (movie,) = all_of(film.read_bytes(), "moov")
    video = next(each for each in all_of(movie, "trak") if all_of(each, "mdia", "hdlr")[0][8:12] == b"vide")
    (table,) = all_of(video, "mdia", "minf", "stbl")
    # Card, dissolve, a, b with what is left of them, end: samples are counted from 1.
    assert set(numbers(all_of(table, "stss")[0])) >= {1, 5, 9, 14, 23}


@pytest.fixture
def served(film: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(film.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (film.parent / "page.html").write_text(PAGE, encoding="utf-8")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_chromium_plays_it_to_the_end_and_finds_every_joint(film, served):
    from helpers.page_browser import PATIENCE, chromium

    with av.open(str(film)) as container:
        wanted = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{served}/page.html")
        page.wait_for_function("document.querySelector('video').readyState >= 4")
        for number in (0, 3, 4, 7, 8, 12, 13, 14, 21, 22, 23, 29):
            page.evaluate(SEEK, (number + 0.5) / 8)
            for _ in range(200):  # a seek ends before its picture is there to be drawn
                seen = np.reshape(page.evaluate(DRAW), (*wanted[number].shape[:2], 4))[..., :3]
                far = float(np.abs(seen - wanted[number].astype(float)).mean())
                if far < CLOSE:
                    break
                page.wait_for_timeout(50)
            assert far < CLOSE, f"picture {number}"
        facts = page.evaluate(PLAY)
    assert facts["size"] == list(wanted[0].shape[1::-1])
    assert facts["seconds"] == pytest.approx(SECONDS, abs=0.05)
    assert facts["error"] is None
    assert facts["sound"] > 0
    assert facts["shown"] > 0
    assert facts["cues"] == [[0.5, 13 / 8, "It rose"], [22 / 8, SECONDS, "The end"]]
