"""Films of stories: what is in the file, what is kept, and what a change makes anew."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pysubs2
import pytest
from conftest import DEMO_REEL
from helpers.causal_bundle import write_causal_bundle
from helpers.picture_graphs import PictureGraphs, picture_reel, write_picture_bundle
from helpers.story_files import write_story, write_wav

from edgereel.core.errors import Cancelled, GeometryError, OutputError, UsageError
from edgereel.media.cards import draw_card
from edgereel.media.lettering import Lettering
from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.reel import load
from edgereel.story.film.film import FilmOptions, describe_film, load_story, make_film
from edgereel.story.film.pictures import FilmPictures
from edgereel.story.film.plan import plan_film
from edgereel.story.film.scenes import SceneMaker
from edgereel.story.film.store import Store

REEL = ReelOptions("cpu", 1)
STORY = """
title: The red ball
format: 64x64
words: {hero: a red ball, sea: over the ocean}
seed: 3
music: {file: music.wav, volume: 0.5, ducked: 0.2}
scenes:
  - card: {text: The ball, subtitle: a film}
    seconds: 1
    chapter: Titel – 1
  - name: one
    prompt: "{hero} bounces {sea}"
    pictures: 9
    transition: {kind: dissolve, seconds: 0.5}
    caption: Once there was {hero}
    narration: {file: said.wav, text: Once., at: 0.25}
    chapter: Two
  - name: two
    prompt: a blue star rises in the forest
    pictures: 9
    seed: 5
    transition: {kind: fade, seconds: 0.5}
    captions: [It rose, {text: and rose, at: 0.75}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with the story's film, made once, its record, and the store."""
    folder = tmp_path_factory.mktemp("film")
    write_wav(folder / "music.wav", 0.9, 220)
    write_wav(folder / "said.wav", 0.5, 880)
    write_story(folder / "film.yaml", STORY)
    options = FilmOptions(bundle=DEMO_REEL, store=folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEREEL_CACHE", str(folder / "cache"))
        record = make_film(folder / "film.yaml", folder / "film.mp4", options, REEL)
    return folder, options, record


def pictures_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_what_is_in_the_file(made):
    folder, _, record = made
    # 8 pictures of a card, 9 and 9 of clips, of which 4 are shown with the card's.
    assert record["pictures"] == 22
    with av.open(str(folder / "film.mp4")) as container:
        video, sound, text = container.streams.video[0], container.streams.audio[0], container.streams.subtitles[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (64, 64, 22, 8)
        assert (sound.codec_context.name, sound.rate, sound.layout.name) == ("aac", 48000, "stereo")
        for stream in (video, sound):
            assert float(stream.duration * stream.time_base) == pytest.approx(22 / 8, abs=1e-3)
        assert text.metadata["language"] == "eng"
        assert container.metadata["title"] == "The red ball"
        told = json.loads(container.metadata["comment"])
        assert (told["ai_generated"], told["scenes"]) == (True, 3)
        chapters = [(each["metadata"]["title"], each["start"] * each["time_base"]) for each in container.chapters()]
        assert chapters == [("Titel – 1", 0), ("Two", Fraction(1, 2))]
    with av.open(str(folder / "film.mp4")) as container:
        shown = [
            (float(packet.pts * packet.time_base), bytes(packet)[2:].decode())
            for packet in container.demux(container.streams.subtitles[0])
            if packet.size > 2
        ]
    assert shown == [(0.5, "Once there was a red ball"), (1.625, "It rose"), (2.375, "and rose")]


def test_captions_beside_it_are_read_by_another_library(made):
    folder, _, record = made
    assert set(record["beside"]) == {"srt", "vtt", "poster", "narration"}
    wanted = [(500, 1625, "Once there was a red ball"), (1625, 2375, "It rose"), (2375, 2750, "and rose")]
    for suffix in (".srt", ".vtt"):
        events = pysubs2.load(str(folder / f"film{suffix}"))
        assert [(each.start, each.end, each.plaintext) for each in events] == wanted
    assert (folder / "film.narration.txt").read_text() == "00:00.750\tone\tOnce.\n"


def test_pictures_are_the_clips_and_what_lies_between(made):
    """The same arithmetic once more: card, 4 dissolved, clip, 2 darker, 2 out of black, clip."""
    folder, options, _ = made
    file, lettering = load_story(folder / "film.yaml")
    with load(DEMO_REEL, "cpu", threads=1) as reel:
        plan = plan_film(file, reel, lettering=lettering)
        shown = list(FilmPictures(plan, SceneMaker(plan, reel, Store(options.store)), lettering).all())
        one = list(reel.generate("a red ball bounces over the ocean", seed=3, frames=9, size=(64, 64)))
        two = list(reel.generate("a blue star rises in the forest", seed=5, frames=9, size=(64, 64)))
    card = draw_card(plan.scenes[0].card, 64, 64, Lettering())
    wanted = [card] * 4
    wanted += [card * (1 - share / 5) + one[share - 1] * (share / 5) for share in range(1, 5)]
    wanted += [*one[4:7], one[7] * (2 / 3), one[8] * (1 / 3), two[0] * (1 / 3), two[1] * (2 / 3), *two[2:]]
    assert len(shown) == len(wanted) == 22
    for picture, exact in zip(shown, wanted, strict=True):
        assert np.abs(picture.astype(float) - exact).max() <= 0.51  # rounded once, in float32
    difference = np.abs(pictures_of(folder / "film.mp4").astype(float) - np.stack(shown))
    assert difference.mean() < 6  # what H.264 at half the colours leaves


def test_the_same_again_to_the_byte_and_nothing_sampled(made, tmp_path):
    folder, options, record = made
    assert record["made"] == ["one", "two"]
    again = make_film(folder / "film.yaml", tmp_path / "again.mp4", options, REEL)
    assert again["made"] == []
    assert (tmp_path / "again.mp4").read_bytes() == (folder / "film.mp4").read_bytes()
    assert again["expected_seconds"] is None or again["expected_seconds"] > 0


def test_a_changed_scene_alone_is_made_again(made, tmp_path):
    folder, options, record = made
    assert record["decoded"] == 18
    make_film(
        folder / "film.yaml", tmp_path / "before.mp4", options, REEL
    )  # so that pictures are in this test's own cache
    changed = STORY.replace("a blue star rises", "a green star rises").replace("It rose", "Up")
    write_story(folder / "changed.yaml", "# a comment more\n" + changed)
    facts = describe_film(folder / "changed.yaml", options, REEL)
    assert [scene["kept"] for scene in facts["scenes"]] == [None, True, False]
    again = make_film(folder / "changed.yaml", tmp_path / "changed.mp4", options, REEL)
    assert (again["made"], again["decoded"]) == (["two"], 9)


def test_stopped_anywhere_it_goes_on(made, tmp_path):
    folder, _, _ = made
    options = FilmOptions(bundle=DEMO_REEL, store=tmp_path / "store")
    for stage, at in (("denoise", 2), ("scenes", 2), ("film", 5)):

        def stop(now: str, done: int, total: int, stage: str = stage, at: int = at) -> bool:
            return (now, done) != (stage, at)

        with pytest.raises(Cancelled):
            make_film(folder / "film.yaml", tmp_path / "film.mp4", options, REEL, stop)
        assert not (tmp_path / "film.mp4").exists()
    made_then = make_film(folder / "film.yaml", tmp_path / "film.mp4", options, REEL)["made"]
    assert made_then == []  # both were kept when the third was stopped
    assert (tmp_path / "film.mp4").read_bytes() == (folder / "film.mp4").read_bytes()


def test_damaged_latents_are_made_anew(made, tmp_path):
    folder, options, _ = made
    for path in (folder / "store").rglob("latents.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    make_film(folder / "film.yaml", tmp_path / "film.mp4", options, REEL)
    assert (tmp_path / "film.mp4").read_bytes() == (folder / "film.mp4").read_bytes()


def test_other_formats_are_cut_and_drawn_in(tmp_path):
    write_story(tmp_path / "film.yaml", STORY.split("music")[0] + "burn: true\nscenes:" + STORY.split("scenes:")[1])
    write_wav(tmp_path / "said.wav", 0.5)
    record = make_film(tmp_path / "film.yaml", tmp_path / "tall.mp4", FilmOptions(DEMO_REEL, "80x96"), REEL)
    assert (record["width"], record["height"]) == (80, 96)
    shown = pictures_of(tmp_path / "tall.mp4")
    assert shown.shape[1:] == (96, 80, 3)
    assert (shown[9, 64:].min(axis=-1) > 200).sum() > 20  # white letters
    with pytest.raises(UsageError, match="even"):
        make_film(tmp_path / "film.yaml", tmp_path / "odd.mp4", FilmOptions(DEMO_REEL, "63x64"), REEL)


CAUSAL = """
title: A stream
continuity: needed
scenes:
  - {name: a, prompt: a red ball, pictures: 9}
  - {name: b, prompt: the green ball, from: previous, seconds: 2}
  - {name: c, prompt: a square bounces, from: previous, seconds: 1, transition: {kind: fade, seconds: 0.5}}
  - {name: d, prompt: a ball, from: {scene: a}, seconds: 1}
"""


def test_scenes_that_go_on_are_one_film(tmp_path):
    """Beside what reel.generate and Video.continue_ give: equal, picture by picture."""
    bundle = write_causal_bundle(tmp_path / "small.reel")
    write_story(tmp_path / "film.yaml", CAUSAL.replace(", transition: {kind: fade, seconds: 0.5}", ""))
    file, lettering = load_story(tmp_path / "film.yaml")
    with load(bundle, "cpu", threads=1) as reel:
        plan = plan_film(file, reel)
        assert [(scene.joined, scene.origin) for scene in plan.scenes] == [
            (False, None),
            (True, 0),
            (True, 1),
            (True, 0),
        ]
        maker = SceneMaker(plan, reel, Store(tmp_path / "store"))
        maker.make_all(None)
        assert list(maker.runs()) == [[0, 1, 2], [3]]
        shown = np.stack(list(FilmPictures(plan, maker, lettering).all()))
        a = reel.generate("a red ball", frames=9)
        b = a.continue_("the green ball", seconds=2)
        c = b.continue_("a square bounces", seconds=1)
        d = a.continue_("a ball", seconds=1)
        wanted = np.stack([picture for video in (a, b, c, d) for picture in video])
    assert np.array_equal(shown, wanted)


def test_a_change_reaches_the_scenes_that_go_on_from_it(tmp_path):
    bundle = write_causal_bundle(tmp_path / "small.reel")
    options = FilmOptions(bundle=bundle, store=tmp_path / "store")
    write_story(tmp_path / "film.yaml", CAUSAL)
    assert make_film(tmp_path / "film.yaml", tmp_path / "film.mp4", options, REEL)["made"] == ["a", "b", "c", "d"]
    write_story(tmp_path / "film.yaml", CAUSAL.replace("the green ball", "the green square"))
    facts = describe_film(tmp_path / "film.yaml", options, REEL)
    assert [scene["name"] for scene in facts["scenes"] if not scene["kept"]] == ["b", "c"]
    assert make_film(tmp_path / "film.yaml", tmp_path / "film.mp4", options, REEL)["made"] == ["b", "c"]


def test_where_the_model_cannot_go_on_the_story_may_begin_anew(tmp_path, words_reel):
    story = "title: x\ncontinuity: if-possible\nscenes:\n  - prompt: a red ball rises over the ocean\n"
    story += "  - prompt: a red ball falls over the ocean\n    from: previous\n    pictures: 9\n"
    write_story(tmp_path / "film.yaml", story)
    facts = describe_film(tmp_path / "film.yaml", FilmOptions(bundle=words_reel), REEL)
    assert [scene["from"] for scene in facts["scenes"]] == [None, None]
    with pytest.raises(
        UsageError, match=r"film.yaml:7: scene 2 \(scene-2\): 9 pictures are not possible where it goes on"
    ):
        describe_film(tmp_path / "film.yaml", FilmOptions(bundle=DEMO_REEL), REEL)
    write_story(tmp_path / "film.yaml", story.replace("pictures: 9", "pictures: 20"))
    facts = describe_film(tmp_path / "film.yaml", FilmOptions(bundle=DEMO_REEL), REEL)
    assert [scene["from"] for scene in facts["scenes"]] == [None, "scene-1"]


def test_prompts_a_policy_refuses_are_told_by_line(tmp_path):
    from edgereel.provenance.policy.screen import Policy

    write_story(tmp_path / "film.yaml", "title: x\nscenes:\n  - prompt: a red ball\n  - prompt: a naked ball\n")
    (tmp_path / "p.toml").write_text("")
    options = FilmOptions(bundle=DEMO_REEL, screen=Policy.read("booth").check)
    with pytest.raises(UsageError, match=r"film.yaml:4: "):
        describe_film(tmp_path / "film.yaml", options, REEL)


def test_a_model_of_pictures_goes_on_from_the_last_ones(tmp_path):
    """Beside Video.continue_: the same latents, and each scene a clip of its own."""
    graphs = PictureGraphs()
    text = "title: x\nscenes:\n  - {name: a, prompt: a red ball, pictures: 13, seed: 1}\n"
    text += "  - {name: b, prompt: the green ball, from: previous, seconds: 1}\n"
    file, _ = load_story(write_story(tmp_path / "film.yaml", text))
    with picture_reel(write_picture_bundle(tmp_path / "a.reel", held={"frames": 2}), graphs) as reel:
        plan = plan_film(file, reel)
        assert (plan.scenes[1].origin, plan.scenes[1].joined) == (0, False)
        maker = SceneMaker(plan, reel, Store(tmp_path / "store"))
        maker.make_all(None)
        kept = maker.video(1)
        exact = reel.generate("a red ball", seed=1, frames=13).continue_("the green ball", seconds=1)
        assert np.array_equal(kept.latents, exact.latents)
        assert kept.request == exact.request
        assert len(kept) == plan.scenes[1].pictures == 8


def test_a_film_has_the_marks_that_were_asked_for(tmp_path):
    from edgereel.media.label import Label
    from edgereel.provenance.marks import Marks

    text = "title: x\nformat: 128x128\nscenes:\n  - {prompt: a red ball, pictures: 5}\n"
    path = write_story(tmp_path / "film.yaml", text)
    options = FilmOptions(bundle=DEMO_REEL, marks=Marks.choose("watermark"), label=Label("AI", size=12))
    record = make_film(path, tmp_path / "film.mp4", options, REEL)
    assert record["marks"]["watermark"]
    plain = make_film(path, tmp_path / "plain.mp4", FilmOptions(bundle=DEMO_REEL), REEL)
    assert plain["made"] == []
    difference = pictures_of(tmp_path / "film.mp4").astype(float) - pictures_of(tmp_path / "plain.mp4")
    assert np.abs(difference[:, -20:, -20:]).mean() > 3 * np.abs(difference[:, :40, :40]).mean() > 0
    write_story(tmp_path / "film.yaml", text.replace("128x128", "64x64"))
    with pytest.raises(GeometryError, match="128"):
        make_film(path, tmp_path / "small.mp4", options, REEL)


@pytest.mark.parametrize("film", ["story.mp4", "music.mp4", "start.mp4"])
def test_a_film_does_not_replace_what_it_is_made_of(tmp_path, film):
    write_wav(tmp_path / "music.srt", 1.0)
    content = "title: t\nmusic: music.srt\nscenes: [{card: One, pictures: 4, caption: here}]\n"
    path = write_story(tmp_path / ("start.poster.png" if film == "start.mp4" else "story.mp4"), content)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="the film is made of it"):
        make_film(path, tmp_path / film, FilmOptions(bundle=DEMO_REEL), ReelOptions("cpu", 1))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
