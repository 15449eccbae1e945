"""Stories that are played: what a visitor is sent, what is made ahead for him, and what becomes of it when he goes."""

from __future__ import annotations

import base64
import contextlib
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.causal_bundle import write_causal_bundle
from helpers.served import frames_of, until
from helpers.story_files import write_story, write_wav

from edgereel.core.errors import EngineError, UsageError
from edgereel.media.transitions import mix
from edgereel.provenance.marks import Marks
from edgereel.runtime.reel import load
from edgereel.runtime.video.jpeg import jpeg_bytes
from edgereel.story.film.film import FilmOptions
from edgereel.story.film.pictures import FilmPictures
from edgereel.story.film.plan import plan_film
from edgereel.story.film.scenes import SceneMaker
from edgereel.story.film.store import Store
from edgereel.story.play import tape
from edgereel.story.play.pictures import way_pictures
from edgereel.story.play.player import MOST_VISITS, Player

STORY = """
title: A way
seed: 3
music: {file: music.wav, volume: 0.5, ducked: 0.2}
scenes:
  - name: one
    prompt: a red ball bounces over the ocean
    pictures: 9
    captions: [{text: At sea, at: 0.25, seconds: 0.5}]
  - name: where
    card: Where to?
    pictures: 4
    choices: [{text: up, goto: up}, {text: home, goto: home}, {text: again, goto: one}]
  - name: up
    prompt: a blue star rises in the forest
    pictures: 9
    caption: It rose
    narration: {file: said.wav, at: 0.5, volume: 2}
    ends: true
  - name: home
    prompt: a green square falls in the snow
    pictures: 5
    transition: {kind: dissolve, seconds: 0.3}
    ends: true
format: 64x64
"""
LONGER = STORY.replace("pictures: 4", "pictures: 8").replace("pictures: 5", "pictures: 9")


@pytest.fixture(scope="module")
def reel():
    with load(DEMO_REEL, engine="cpu", threads=1) as opened:
        yield opened


class Played:
    """A player at work, and what it told."""

    def __init__(self, folder, reel, text=STORY):
        write_wav(folder / "music.wav", 0.9, 220)
        write_wav(folder / "said.wav", 0.3, 880)
        self.story = write_story(folder / "way.yaml", text)
        self.options = FilmOptions(bundle=DEMO_REEL, store=folder / "store")
        self.told = []
        self.player = Player(self.story, self.options, reel, self._tell)
        self._thread = threading.Thread(target=self.player.run, daemon=True)

    def _tell(self, event, **facts):
        self.told.append({"event": event, **facts})

    def start(self):
        self._thread.start()
        return self

    def end(self):
        self.player.close()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def messages(self, visit, kind):
        return [
            each["message"]
            for each in list(self.told)
            if each["event"] == "visit" and each["visit"] == visit and each["message"]["type"] == kind
        ]

    def jpegs(self, visit):
        found = [each for each in list(self.told) if each["event"] == "picture" and each["visit"] == visit]
        assert [each["number"] for each in found] == list(range(len(found)))
        return [base64.b64decode(each["jpeg"]) for each in found]

    def wait(self, visit, kind, count=1):
        return until(lambda: len(found := self.messages(visit, kind)) >= count and found)[-1]

    def until_ready(self, visit):
        """Wait until all lies ready that this visitor may choose."""
        ahead = self.player._visits[visit].ahead
        until(lambda: ahead and all(each.ended or each.failure for each in ahead.values()))


@pytest.fixture
def playing(tmp_path, reel):
    with contextlib.ExitStack() as ends:

        def play(text=STORY, *, start=True):
            played = Played(tmp_path, reel, text)
            if start:
                ends.callback(played.start().end)
            return played

        yield play


def film_of(played, reel, choices):
    """Return the pictures of the film of a way."""
    show = played.player.show
    plan = plan_film(show.file, reel, choices=choices, lettering=show.lettering)
    return list(FilmPictures(plan, SceneMaker(plan, reel, Store(played.options.store)), show.lettering).all())


def test_what_is_shown_is_the_film_of_the_way(playing, reel, tmp_path):
    played = playing()
    played.player.begin("a", [], 1000)
    started, way = played.wait("a", "started"), played.wait("a", "way")
    assert (started["title"], started["music"]) == ("A way", {"sound": 0, "volume": 0.5, "ducked": 0.2})
    assert (way["choices"], way["picture"]) == ([], 0)
    assert played.wait("a", "waits")["picture"] == 13
    played.player.choose("a", 3)
    assert played.wait("a", "waits", 2)["picture"] == 26
    played.player.choose("a", 1)
    assert played.wait("a", "ends")["picture"] == 35
    assert [each["choices"] for each in played.messages("a", "way")] == [[], [3], [3, 1]]
    expected = film_of(played, reel, [3, 1])
    assert played.jpegs("a") == [jpeg_bytes(picture) for picture in expected]
    record = played.player.film("a", tmp_path / "film.mp4")
    assert (record["pictures"], record["made"]) == (35, []), "scenes that were shown are not made again"
    assert len(frames_of(tmp_path / "film.mp4")) == 35


def test_what_is_said_beside_the_pictures(playing):
    played = playing()
    played.player.begin("a", [], 1000)
    played.wait("a", "waits")
    played.player.choose("a", 1)
    played.wait("a", "ends")
    cues = {each.pop("picture"): each for each in played.messages("a", "cue")}
    fps = played.messages("a", "started")[0]["fps"]
    assert cues[0] == {"type": "cue", "scene": "one", "card": "", "caption": ""}
    assert cues[round(0.25 * fps)] == {"type": "cue", "caption": "At sea"}
    assert cues[round(0.75 * fps)] == {"type": "cue", "caption": ""}
    assert cues[9] == {
        "type": "cue",
        "scene": "where",
        "card": "Where to?",
        "caption": "",
        "choices": ["up", "home", "again"],
    }
    assert cues[13] == {"type": "cue", "scene": "up", "card": "", "caption": "It rose"}
    assert cues[13 + round(0.5 * fps)] == {"type": "cue", "sound": {"sound": 1, "volume": 2.0}}


def test_what_lies_ready_is_sent_the_moment_it_is_chosen(playing):
    played = playing()
    played.player.begin("a", [], 1000)
    played.wait("a", "waits")
    played.until_ready("a")
    with played.player._changed:  # nothing is made while this is held
        sent = len(played.jpegs("a"))
        played.player.choose("a", 1)
        assert len(played.jpegs("a")) == sent + 9


def test_a_dissolve_begins_with_the_picture_that_stood_still(playing, reel):
    played = playing()
    played.player.begin("a", [], 1000)
    played.wait("a", "waits")
    played.player.choose("a", 2)
    played.wait("a", "ends")
    blend = max(1, round(0.3 * played.messages("a", "started")[0]["fps"]))
    show = played.player.show
    way = show.way([2])
    assert (way.begin, way.plan.scenes[2].blend) == (2, blend)
    maker = SceneMaker(way.plan, reel, Store(played.options.store))
    held = film_of(played, reel, [1])[12]
    plain = list(maker.video(2))
    expected = [mix(held, plain[at], (at + 1) / (blend + 1)) for at in range(blend)] + plain[blend:]
    assert played.jpegs("a")[13:] == [jpeg_bytes(picture) for picture in expected]


def test_scenes_become_one_another_as_in_the_film(playing, reel):
    text = LONGER.replace("pictures: 8", "pictures: 8\n    transition: {kind: fade, seconds: 0.6}")
    played = playing(text.replace("    ends: true\n  - name: home", "    goto: home\n  - name: home"), start=False)
    show = played.player.show
    way = show.way([1])
    assert [scene.transition for scene in way.plan.scenes] == ["cut", "fade", "cut", "dissolve"]
    maker = SceneMaker(way.plan, reel, Store(played.options.store))
    maker.make_all(None)
    expected = film_of(played, reel, [1])
    assert all(map(np.array_equal, way_pictures(way.plan, maker, show.lettering, 0, None), expected))
    start = way.plan.scenes[2].start
    later = list(way_pictures(way.plan, maker, show.lettering, 2, expected[start - 1]))
    assert len(later) == len(expected) - start
    assert all(map(np.array_equal, later, expected[start:]))


def test_a_fade_darkens_the_picture_that_stood_still(playing, reel):
    played = playing(LONGER.replace("kind: dissolve, seconds: 0.3", "kind: fade, seconds: 0.6"), start=False)
    way = played.player.show.way([2])
    blend = way.plan.scenes[2].blend
    assert blend >= 4
    maker = SceneMaker(way.plan, reel, Store(played.options.store))
    maker.make_all(None)
    held = np.full((*way.plan.size.shown[::-1], 3), 200, np.uint8)
    shown = list(way_pictures(way.plan, maker, None, 2, held))
    light = [int(picture.max()) for picture in shown[: blend // 2]]
    assert light == [round(200 * (blend // 2 - at) / (blend // 2 + 1)) for at in range(blend // 2)]
    assert len(shown) == blend // 2 + way.plan.scenes[2].pictures


def test_a_scene_that_goes_on_from_the_one_before_the_choice(tmp_path):
    bundle = write_causal_bundle(tmp_path / "causal.reel")
    text = """
title: On
seed: 3
scenes:
  - {name: one, prompt: a red ball, choices: [{text: "on", goto: two}, {text: end, goto: three}]}
  - {name: three, prompt: the green square, ends: true}
  - {name: two, prompt: the green square slides, from: {scene: one}, ends: true}
"""
    with load(bundle, engine="cpu", threads=1) as reel:
        played = Played(tmp_path, reel, text).start()
        try:
            played.player.begin("a", [], 1000)
            first = played.wait("a", "waits")["picture"]
            played.player.choose("a", 1)
            played.wait("a", "ends")
            expected = film_of(played, reel, [1])
            assert len(expected) > first
            assert played.jpegs("a") == [jpeg_bytes(picture) for picture in expected]
        finally:
            played.end()


def test_no_more_is_sent_than_there_is_credit_for_and_choices_may_come_early(playing):
    played = playing()
    played.player.begin("a", [], 2)
    until(lambda: len(played.jpegs("a")) == 2)
    played.player.give_credit("a", 3)
    until(lambda: len(played.jpegs("a")) == 5)
    until(lambda: played.player._visits["a"].ahead)
    played.player.choose("a", 1)
    played.player.give_credit("a", 100)
    assert played.wait("a", "ends")["picture"] == 5 + 9
    with pytest.raises(UsageError, match="choice 1 is not open"):
        played.player.choose("a", 1)


def test_somebody_who_begins_in_the_middle(playing, reel):
    played = playing()
    played.player.begin("a", [3, 1], 1000)
    assert played.wait("a", "ends")["picture"] == 9
    assert played.jpegs("a") == [jpeg_bytes(picture) for picture in film_of(played, reel, [3, 1])[26:]]
    played.player.begin("b", [1, 1], 1000)
    told = played.wait("b", "failed")["message"]
    assert "there is no choice 1 here" in told
    assert "/" not in told  # where the story lies is nothing that visitors are to know


def test_a_bounded_number_of_visitors_and_what_is_freed(playing):
    played = playing()
    for number in range(MOST_VISITS):
        played.player.begin(f"v{number}", [], 1000)
    with pytest.raises(UsageError, match=f"{MOST_VISITS} visitors are here already"):
        played.player.begin("one more", [], 1000)
    for number in range(MOST_VISITS):
        played.wait(f"v{number}", "waits")
        played.until_ready(f"v{number}")
    tapes = [weakref.ref(each) for visit in played.player._visits.values() for each in visit.ahead.values()]
    assert len(tapes) == 3 * MOST_VISITS
    for number in range(MOST_VISITS):
        played.player.leave(f"v{number}")
    until(lambda: not played.player._dropped)
    until(lambda: gc.collect() is not None and not any(each() for each in tapes))
    with pytest.raises(UsageError, match="no such visit"):
        played.player.give_credit("v0", 1)


def test_little_lies_ready_of_a_long_scene(playing, monkeypatch):
    played = playing(start=False)
    bytes_each = len(jpeg_bytes(np.zeros((8, 8, 3), np.uint8)))
    monkeypatch.setattr(tape, "SHOWN", tape.Limit(2**20, 0.5))
    monkeypatch.setattr("edgereel.story.play.visit.SHOWN", tape.Limit(2**20, 0.5))
    fps = played.player.show.facts()["fps"]
    assert bytes_each < 2**20
    played.player._opening = tape.Tape(played.player.show, ())
    played.player.begin("a", [], 0)
    played.start()
    try:
        shown = played.player._visits["a"].tape
        most = max(1, round(0.5 * fps))
        until(lambda: len(shown.shots) == most and not shown.wants(tape.Limit(2**20, 0.5)))
        time.sleep(0.1)
        assert len(shown.shots) == most
        played.player.give_credit("a", 1000)
        assert played.wait("a", "waits")["picture"] == 13
    finally:
        played.end()


def test_a_model_that_fails_in_the_middle(playing, reel, monkeypatch):
    make, broken = type(reel).make, {"is": True}

    def failing(self, asked, *arguments):
        if "blue star" in asked.prompt and broken["is"]:
            raise EngineError("the model has had enough")
        return make(self, asked, *arguments)

    monkeypatch.setattr(type(reel), "make", failing)
    played = playing()
    played.player.begin("a", [], 1000)
    played.wait("a", "waits")
    played.until_ready("a")
    played.player.choose("a", 1)
    assert played.wait("a", "failed") == {"type": "failed", "message": "the model has had enough"}
    assert {"event": "note", "text": "the model has had enough"} in played.told
    played.player.leave("a")
    played.player.begin("b", [2], 1000)
    played.wait("b", "ends")
    broken["is"] = False
    played.player.begin("c", [1], 1000)
    assert played.wait("c", "ends")["picture"] == 9


def test_a_story_that_is_edited_meanwhile(playing):
    played = playing()
    played.player.begin("a", [], 1000)
    played.wait("a", "waits")
    write_story(played.story, STORY.replace("It rose", "It rose and rose").replace("A way", "Another way"))
    played.player.begin("b", [], 1000)
    assert played.wait("b", "started")["title"] == "Another way"
    assert [each["facts"]["title"] for each in played.told if each["event"] == "show"] == ["Another way"]
    write_story(played.story, STORY.replace("goto: home", "goto: nowhere"))
    played.player.begin("c", [], 1000)
    assert played.wait("c", "started")["title"] == "Another way"
    (note,) = [each["text"] for each in played.told if each["event"] == "note"]
    assert note.startswith("the story as it was goes on: ")
    assert note.endswith("there is no scene 'nowhere'")
    for visit, caption in (("a", "It rose"), ("b", "It rose and rose")):
        played.player.choose(visit, 1)
        played.wait(visit, "ends")
        assert played.messages(visit, "cue")[-2]["caption"] == caption


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("a blue star rises", "a purple elephant rises"), 15, "elephant"),
        (("goto: home", "goto: nowhere"), 13, "there is no scene 'nowhere'"),
        (("{kind: dissolve, seconds: 0.3}", "{kind: dissolve, seconds: 9}"), 23, "longer than a scene beside it"),
        (("at: 0.5, volume: 2", "at: 5, volume: 2"), 18, "its words end at"),
    ],
)
def test_what_is_wrong_behind_a_choice_is_told_before_anything_is_played(playing, change, line, words):
    assert change[0] in STORY
    with pytest.raises(UsageError, match=words) as raised:
        playing(STORY.replace(*change))
    assert f"way.yaml:{line}: " in str(raised.value), str(raised.value)


def test_marks_that_its_films_cannot_bear_are_told_before_anything_is_played(tmp_path, reel):
    story = write_story(tmp_path / "small.yaml", "title: Small\nformat: 64x64\nscenes: [{card: Small}]\n")
    options = FilmOptions(bundle=DEMO_REEL, store=tmp_path / "store", marks=Marks.choose("watermark"))
    with pytest.raises(UsageError, match="watermark"):
        Player(story, options, reel, lambda event, **facts: None)
