"""Takes of a scene, the one that is picked, and films that are made again on saving."""

from __future__ import annotations

import av
import pytest
from conftest import DEMO_REEL
from helpers.story_files import story_file, write_story

from edgereel.core.errors import OutputError, UsageError
from edgereel.runtime.batch import ReelOptions
from edgereel.story.film.film import FilmOptions, describe_film
from edgereel.story.film.takes import make_takes, pick
from edgereel.story.film.watch import watch_film

REEL = ReelOptions("cpu", 1)
STORY = """# mine
title: x
seed: 2
format: 64x64
scenes:
  - name: one  # the first
    prompt: a red ball bounces
      over the ocean
    pictures: 5
  - prompt: a blue star rises in the forest
    pictures: 5
    seed: 4  # tried many
  - {name: three, prompt: "a red ball", pictures: 5}
  - {name: four, seed: 1, prompt: a red ball, pictures: 5}
  - {name: c, card: x}
"""


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("one", "    prompt: a red ball bounces\n", "    seed: 77\n    prompt: a red ball bounces\n"),
        ("scene-2", "    seed: 4  # tried many\n", "    seed: 77  # tried many\n"),
        ("three", "{name: three, prompt:", "{name: three, seed: 77, prompt:"),
        ("four", "seed: 1, prompt", "seed: 77, prompt"),
    ],
)
def test_a_pick_changes_its_line_alone(tmp_path, name, old, new):
    path = write_story(tmp_path / "film.yaml", STORY)
    pick(path, name, 77)
    assert path.read_text() == STORY.replace(old, new)
    assert [each.name for each in tmp_path.iterdir()] == ["film.yaml"]


def test_a_scene_that_begins_with_its_prompt(tmp_path):
    text = "title: x\nscenes:\n  - prompt: a red ball\n    pictures: 5\n"
    path = write_story(tmp_path / "film.yaml", text)
    pick(path, "scene-1", 3)
    assert path.read_text() == "title: x\nscenes:\n  - seed: 3\n    prompt: a red ball\n    pictures: 5\n"


@pytest.mark.parametrize(("name", "seed", "said"), [("c", 1, "card"), ("no", 1, "choose from"), ("one", -1, "range")])
def test_what_cannot_be_picked(tmp_path, name, seed, said):
    path = write_story(tmp_path / "film.yaml", STORY)
    with pytest.raises(UsageError, match=said):
        pick(path, name, seed)
    assert path.read_text() == STORY


def test_a_file_that_cannot_be_changed_by_itself_stays(tmp_path):
    text = 'title: x\nscenes:\n  - &a {"prompt": a red ball}\n  - *a\n'
    path = write_story(tmp_path / "film.yaml", text)
    with pytest.raises(UsageError, match="write seed: 5 into scene scene-2"):
        pick(path, "scene-2", 5)
    assert path.read_text() == text


def test_takes_are_kept_for_the_film(tmp_path):
    path = write_story(tmp_path / "film.yaml", STORY)
    options = FilmOptions(bundle=DEMO_REEL)
    record = make_takes(path, "one", 2, tmp_path / "takes.png", options, REEL)
    assert [(take["seed"], take["made"]) for take in record["takes"]] == [(2, True), (3, True)]
    with av.open(str(tmp_path / "takes.png")) as sheet:
        assert (sheet.streams.video[0].height, sheet.streams.video[0].width) == (128, 64 * 7)
    pick(path, "one", 3)
    scenes = describe_film(path, options, REEL)["scenes"]
    assert [scene["kept"] for scene in scenes[:2]] == [True, False]
    assert scenes[0]["key"] == record["takes"][1]["key"]


def test_watching_shows_a_quick_look_and_then_the_film(tmp_path):
    path = write_story(tmp_path / "film.yaml", "title: x\nscenes:\n  - {prompt: a red ball, pictures: 5}\n")
    told = []

    def tell(kind, record):
        told.append((kind, record if isinstance(record, str) else record["made"]))
        if len(told) == 2:
            write_story(path, "title: x\nscenes:\n  - {prompt: a red zeppelin, pictures: 5}\n")

    watch_film(path, tmp_path / "film.mp4", FilmOptions(bundle=DEMO_REEL), REEL, tell, rounds=2)
    assert told[:2] == [("preview", ["scene-1"]), ("film", ["scene-1"])]
    assert [kind for kind, _ in told[2:]] == ["error"]
    assert "film.yaml:3: " in told[2][1]
    assert (tmp_path / "film.mp4").exists()
    assert (tmp_path / "film.preview.mp4").exists()


def test_stories_are_read_as_they_are_written(tmp_path):
    story = story_file(tmp_path / "a.yaml", STORY).story
    assert story.scenes[0].prompt == "a red ball bounces over the ocean"


def test_a_sheet_does_not_replace_the_story(tmp_path):
    path = write_story(
        tmp_path / "film.png", "title: t\nscenes: [{name: a, prompt: a red ball rises over the ocean}]\n"
    )
    before = path.read_bytes()
    with pytest.raises(OutputError, match="the film is made of it"):
        make_takes(path, "a", 1, path, FilmOptions(bundle=DEMO_REEL), ReelOptions("cpu", 1))
    assert path.read_bytes() == before
