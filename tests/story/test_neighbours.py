"""What comes in from other programs and goes out to them: screenplays, edit lists, speech, boxes of stereo and spheres."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.story_files import story_file, write_story, write_wav

from edgereel.core.errors import OutputError, UsageError
from edgereel.media.spatial import Spatial, mark_spatial
from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.video.output import Output
from edgereel.story.film.film import FilmOptions, describe_film, load_story, make_film
from edgereel.story.film.speech import spoken
from edgereel.story.film.timeline import write_timeline
from edgereel.story.script.beginning import write_beginning
from edgereel.story.script.path import follow
from edgereel.story.script.source import read_source
from edgereel.story.script.story import read_story
from edgereel.story.script.tale import between_brackets

REEL = ReelOptions("cpu", 1)
PLAY = """Title: The Ball
Author: nobody

# Act one

EXT. SEA - DAY

= a red ball bounces over the ocean

The *ball* is {red}. [[make it redder]]

BALL (V.O.)
(softly)
I bounce.

NARRATOR
It did --> always.

DISSOLVE TO:

INT. FOREST - NIGHT #2#

A blue star rises in the forest

FADE TO BLACK.

EXT. NOWHERE

> THE END <
"""


def test_a_screenplay_becomes_a_story(tmp_path):
    (tmp_path / "play.fountain").write_text(PLAY)
    path = write_beginning(tmp_path / "film.yaml", tmp_path / "play.fountain")
    assert "# EXT. SEA - DAY" in path.read_text()
    story = story_file(path, path.read_text()).story
    assert story.title == "The Ball"
    one, two, end = story.scenes
    assert end.card is not None
    assert end.card.text == "THE END"
    assert (one.prompt, one.chapter) == ("a red ball bounces over the ocean", "Act one")
    assert one.narration is not None
    assert (one.narration.text, one.narration.caption) == ("I bounce. It did -> always.", True)
    assert two.prompt == "A blue star rises in the forest"
    assert two.transition is not None
    assert two.transition.kind == "dissolve"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"Title: x\n\nno scene at all\n", b"\0" * 100])
def test_what_is_no_screenplay(tmp_path, content):
    (tmp_path / "play.fountain").write_bytes(content)
    with pytest.raises(UsageError, match=r"play\.fountain"):
        write_beginning(tmp_path / "film.yaml", tmp_path / "play.fountain")
    assert not (tmp_path / "film.yaml").exists()


TALE = {
    "name": "Tale {1}",
    "startnode": "2",
    "passages": [
        {"name": "the end", "pid": "1", "text": "It is over."},
        {"name": "a start!", "pid": "2", "text": "= a red ball\nIt was red.\n\n[[go on->the end]] [[again|a start!]]"},
        {"name": "a start?", "pid": "3", "text": "[[the end]]"},
    ],
}


def test_a_tale_becomes_a_story_that_branches(tmp_path):
    (tmp_path / "tale.json").write_text(json.dumps(TALE))
    path = write_beginning(tmp_path / "film.yaml", tale=tmp_path / "tale.json")
    file, _ = load_story(path)
    start, end, other = file.story.scenes
    assert (start.name, start.prompt, start.caption) == ("a-start", "a red ball", "It was red.")
    assert [(choice.text, choice.goto) for choice in start.choices] == [("go on", "the-end"), ("again", "a-start")]
    assert end.card is not None
    assert (end.card.text, end.ends) == ("It is over.", True)
    assert (other.name, other.goto) == ("a-start-2", "the-end")
    assert follow(file, [2, 2, 1]) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"passages": []}',
        '{"passages": [{"name": "a"}]}',
        '{"passages": [{"name": "a", "text": "[[b]]"}]}',
    ],
)
def test_what_is_no_tale(tmp_path, content):
    (tmp_path / "tale.json").write_text(content)
    with pytest.raises(UsageError, match=r"tale\.json"):
        write_beginning(tmp_path / "film.yaml", tale=tmp_path / "tale.json")


STORY = """
title: x
format: 64x64
music: music.wav
scenes:
  - {name: one, prompt: a red ball rises over the ocean, pictures: 9, chapter: A}
  - {name: two, prompt: a blue star falls in the forest, pictures: 9, transition: {kind: dissolve, seconds: 0.6}}
  - {name: three, prompt: a red ball, pictures: 5, narration: said.wav, chapter: B}
"""


def test_an_edit_list_is_as_long_as_the_film_and_names_what_is_there(tmp_path):
    otio = pytest.importorskip("opentimelineio")
    write_wav(tmp_path / "music.wav", 1)
    write_wav(tmp_path / "said.wav", 0.3)
    path = write_story(tmp_path / "film.yaml", STORY.replace("narration: said.wav", "narration: {file: said.wav}"))
    options = FilmOptions(bundle=DEMO_REEL)
    write_timeline(path, tmp_path / "film.otio", options, REEL)
    timeline = otio.adapters.read_from_file(str(tmp_path / "film.otio"))
    video, narration, music = timeline.tracks
    facts = describe_film(path, options, REEL)
    assert video.duration().to_seconds() == facts["seconds"] == 18 / 8
    assert music.duration().to_seconds() == pytest.approx(18 / 8, abs=1e-3)
    assert [type(each).__name__ for each in video] == ["Clip", "Transition", "Clip", "Clip"]
    for clip in video.find_clips():
        with av.open(str(tmp_path / clip.media_reference.target_url)) as container:
            frames = container.streams.video[0].frames
        available = clip.media_reference.available_range
        assert frames == available.duration.value
        assert available.start_time <= clip.source_range.start_time
        assert clip.source_range.end_time_exclusive() <= available.end_time_exclusive()
    # What a dissolve shows beyond the cut is there on both sides.
    one, dissolve, two = video[0], video[1], video[2]
    assert one.source_range.end_time_exclusive().value + dissolve.out_offset.value == 9
    assert two.source_range.start_time.value == dissolve.in_offset.value
    assert narration[0].duration().to_seconds() == pytest.approx(facts["scenes"][2]["at"])
    assert [marker.name for marker in video.markers] == ["A", "B"]


def test_an_edit_list_says_what_goes_on_from_what(tmp_path):
    otio = pytest.importorskip("opentimelineio")
    text = "title: x\nformat: 64x64\nscenes:\n  - {name: one, prompt: a red ball rises over the ocean}\n"
    path = write_story(tmp_path / "film.yaml", text + "  - {name: two, prompt: it falls, from: previous}\n")
    write_timeline(path, tmp_path / "film.otio", FilmOptions(bundle=DEMO_REEL), REEL)
    one, two = otio.adapters.read_from_file(str(tmp_path / "film.otio")).find_clips()
    assert dict(one.metadata["edgereel"]) == {"prompt": "a red ball rises over the ocean", "seed": 0}
    assert dict(two.metadata["edgereel"]) == {"prompt": "it falls", "seed": 1, "from": "one"}
    assert [each.source_range.duration.value for each in (one, two)] == [17, 16]


FRAMES = [np.random.default_rng(number).integers(0, 256, (32, 64, 3), np.uint8) for number in range(4)]


def decoded(path: Path) -> tuple[list[np.ndarray], dict[str, bytes]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    kinds = {each.type.name: bytes(each) for each in frames[0].side_data}
    return [frame.to_ndarray(format="rgb24") for frame in frames], kinds


@pytest.mark.parametrize(
    "spatial", [Spatial("left-right"), Spatial("top-bottom", "equirectangular"), Spatial(None, "equirectangular")]
)
def test_boxes_are_read_by_ffmpeg_and_change_no_picture(tmp_path, spatial):
    path = tmp_path / "a.mp4"
    Output.check(path).at(8).write(FRAMES, {"title": "x"})
    before, kinds = decoded(path)
    assert not {"STEREO3D", "SPHERICAL"} & set(kinds)
    mark_spatial(path, spatial)
    after, kinds = decoded(path)
    assert np.array_equal(np.stack(before), np.stack(after))
    assert ("STEREO3D" in kinds) == (spatial.stereo is not None)
    assert ("SPHERICAL" in kinds) == (spatial.projection is not None)
    if spatial.stereo is not None:
        # AVStereo3D.type: 1 is side by side, 2 is one above the other.
        assert (
            int.from_bytes(kinds["STEREO3D"][:4], sys.byteorder) == {"left-right": 1, "top-bottom": 2}[spatial.stereo]
        )
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_a_story_says_what_its_models_pictures_are(tmp_path):
    text = "title: x\nspatial: {stereo: left-right}\nscenes:\n  - {prompt: a red ball, pictures: 5}\n"
    write_story(tmp_path / "film.yaml", text)
    make_film(tmp_path / "film.yaml", tmp_path / "film.mp4", FilmOptions(bundle=DEMO_REEL), REEL)
    assert "STEREO3D" in decoded(tmp_path / "film.mp4")[1]


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"\0\0\0\x10ftypisom\0\0\0\0", b"\0\0\0\x20moov" + b"\xff" * 24])
def test_files_that_boxes_cannot_be_put_into(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(OutputError):
        mark_spatial(tmp_path / "a.mp4", Spatial("left-right"))
    assert (tmp_path / "a.mp4").read_bytes() == content


SPEAKER = """#!{python}
import shutil, sys
if "--version" in sys.argv:
    print("eSpeak NG text-to-speech: 1.51  Data at: /nowhere")
elif "fail" in sys.stdin.read():
    sys.exit("no voice")
else:
    shutil.copy({wav!r}, sys.argv[sys.argv.index("-w") + 1])
    open({log!r}, "a").write(sys.argv[sys.argv.index("-v") + 1] + "\\n")
"""


def test_words_are_spoken_by_a_program_once(tmp_path, monkeypatch):
    program, log = tmp_path / "espeak-ng", tmp_path / "log"
    wav = write_wav(tmp_path / "a.wav", 0.4)
    program.write_text(SPEAKER.format(python=sys.executable, wav=str(wav), log=str(log)))
    program.chmod(0o755)
    text = "title: x\nlanguage: de\nscenes:\n  - {prompt: a red ball, narration: Es war.}\n"
    file = story_file(tmp_path / "film.yaml", text)
    with pytest.raises(UsageError, match="choose from espeak-ng"):
        spoken(file, "sh")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="apt-get install espeak-ng"):
        spoken(file, "espeak-ng")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for _ in range(2):
        assert spoken(file, "espeak-ng").spoken[0].read_bytes() == wav.read_bytes()
    assert log.read_text() == "de\n"
    with pytest.raises(OutputError, match="no voice"):
        spoken(story_file(tmp_path / "film.yaml", text.replace("Es war.", "fail")), "espeak-ng")


def test_what_a_tale_says_is_read_as_text_again(tmp_path):
    words = ["1e5", "12e3", "0x1F", "no", "null", "~", "1_000", "=", "1:30", "-.5e1", "x²", "½", "ﬁ", "true"]
    passages = [{"pid": str(at), "name": word, "text": f"{word}\n[[{word}]]"} for at, word in enumerate(words)]
    data = {"name": "1e5\u0000", "startnode": "0", "passages": [*passages, {"pid": "a", "name": "e", "text": "e"}]}
    (tmp_path / "tale.json").write_text(json.dumps(data))
    story = read_story(read_source(write_beginning(tmp_path / "tale.yaml", tale=tmp_path / "tale.json"))).story
    assert story.title == "1e5"
    assert [scene.card.text for scene in story.scenes if scene.card][1:4] == ["12e3", "0x1F", "no"]
    assert [scene.goto for scene in story.scenes[:-1]] == [scene.name for scene in story.scenes[:-1]]


def test_brackets_without_end_are_looked_at_once(tmp_path):
    # Looked for from each of them anew, these would take hours.
    brackets = "[" * 900_000
    (tmp_path / "tale.json").write_text(json.dumps({"passages": [{"name": "a", "text": brackets}]}))
    (tmp_path / "play.fountain").write_text(f"INT. HOUSE\n\n{brackets}\n")
    write_beginning(tmp_path / "a.yaml", tale=tmp_path / "tale.json")
    write_beginning(tmp_path / "b.yaml", tmp_path / "play.fountain")
    assert between_brackets("a [[b]] c [[d [[e]] f ]] [[g") == (["a ", " c ", " f ]] [[g"], ["b", "d [[e"])
