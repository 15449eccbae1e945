"""Pieces of films that are kept: what a change encodes again, and that the film is the same whatever was kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story

from edgereel.core.errors import OutputError
from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.video.output import Frame, Output
from edgereel.story.film.film import FilmOptions, make_film

REEL = ReelOptions("cpu", 1)
STORY = """
title: Five
fps: 8
seed: 3
burn: true
scenes:
  - {card: One, seconds: 1}
  - {name: a, prompt: a red ball rises over the ocean, pictures: 9, transition: {kind: dissolve, seconds: 0.5}}
  - {card: Two, pictures: 2}
  - {card: Three, pictures: 5, caption: here, transition: {kind: fade, seconds: 0.125}}
  - {name: b, prompt: a red ball rises over the ocean, pictures: 9, transition: {kind: dissolve, seconds: 0.25}}
"""
"""Pieces: 4 of the card, 4 of the dissolve, 5 of a, 5 of both cards (2 are too few), 9 of the dissolve (2 too) and b."""


def test_a_change_encodes_what_it_touches_and_the_film_is_as_if_made_anew(tmp_path, monkeypatch):
    path, options = tmp_path / "film.yaml", FilmOptions(bundle=DEMO_REEL)

    def encoded(text: str, name: str, cache: str = "cache") -> int:
        monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / cache))
        write_story(path, text)
        return int(make_film(path, tmp_path / name, options, REEL)["encoded"])

    assert encoded(STORY, "film.mp4") == 27
    assert encoded(STORY, "again.mp4") == 0
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()
    assert (tmp_path / "again.poster.png").read_bytes() == (tmp_path / "film.poster.png").read_bytes()
    changes = {
        ("card: Two", "card: 2nd"): 5,
        ("caption: here", "caption: there"): 5,
        ("a, prompt: a red ball rises", "a, prompt: a red ball falls"): 9,
        ("card: One, seconds: 1", "card: One, seconds: 2"): 16,  # all that follows comes later, as it was
        ("title: Five", "title: Six"): 0,
        ("seed: 3", "seed: 3\nformat: 80x96"): 27,
    }
    for number, ((before, after), count) in enumerate(changes.items()):
        text = STORY.replace(before, after)
        assert text != STORY
        assert encoded(text, f"{number}.mp4") == count, after
        assert encoded(text, f"{number}-anew.mp4", f"other {number}") == 27 + 8 * (number == 3)
        assert (tmp_path / f"{number}.mp4").read_bytes() == (tmp_path / f"{number}-anew.mp4").read_bytes(), after


def test_without_a_cache_and_with_damaged_pieces_it_is_the_same(tmp_path, monkeypatch):
    options, films = FilmOptions(bundle=DEMO_REEL), tmp_path / "films"
    films.mkdir()
    path = write_story(
        tmp_path / "film.yaml", "title: x\nscenes:\n  - {card: a, pictures: 9}\n  - {card: b, pictures: 9}\n"
    )

    def made(name: str) -> bytes:
        make_film(path, films / name, options, REEL)
        return (films / name).read_bytes()

    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "cache"))
    film = made("film.mp4")
    kept = sorted((tmp_path / "cache" / "pieces").iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:-1500])
    kept[1].write_bytes(b"nothing")
    assert made("film.mp4") == film
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "file" / "cache"))
    assert made("film.mp4") == film
    assert {each.name for each in films.iterdir()} == {"film.mp4", "film.poster.png"}


def test_a_cache_that_becomes_full_costs_no_film(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "cache"))
    path, options = write_story(tmp_path / "film.yaml", STORY), FilmOptions(bundle=DEMO_REEL)
    write, kept = Output.piece, tmp_path / "cache" / "pieces"

    def full(output: Output, path: Path, frames: Iterable[Frame]) -> None:
        if path.parent == kept and len(list(kept.glob("*.mp4"))) >= 2:
            next(iter(frames))
            raise OutputError(f"cannot write {path}: No space left on device")
        write(output, path, frames)

    monkeypatch.setattr(Output, "piece", full)
    make_film(path, tmp_path / "full.mp4", options, REEL)
    assert len(list(kept.iterdir())) == 2
    monkeypatch.setattr(Output, "piece", write)
    make_film(path, tmp_path / "film.mp4", options, REEL)
    assert (tmp_path / "full.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()
    assert not list(tmp_path.glob(".edgereel*"))
    pieces = sorted(kept.glob("*.mp4"))
    for piece in pieces[1:]:
        piece.write_bytes(pieces[0].read_bytes())
    make_film(path, tmp_path / "mixed up.mp4", options, REEL)
    assert (tmp_path / "mixed up.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


@pytest.mark.parametrize("pictures", [1, 3])
def test_a_film_of_fewer_pictures_than_a_piece(tmp_path: Path, pictures: int):
    path = write_story(tmp_path / "film.yaml", f"title: x\nscenes:\n  - {{card: a, pictures: {pictures}}}\n")
    assert make_film(path, tmp_path / "film.mp4", FilmOptions(bundle=DEMO_REEL), REEL)["encoded"] == pictures


@pytest.mark.extras
def test_a_signed_film_names_its_clips_and_a_reader_believes_it(tmp_path, monkeypatch):
    """c2pa's own reader: the manifest is valid, and each clip that the model made is an ingredient."""
    c2pa = pytest.importorskip("c2pa")
    from edgereel.provenance import keys
    from edgereel.provenance.keys import own_root
    from edgereel.provenance.marks import Marks
    from edgereel.provenance.verify.report import examine

    device = keys.create("Test Booth 7", tmp_path / "keys")
    path = write_story(tmp_path / "film.yaml", STORY.replace("name: b, prompt: a red", "name: b, prompt: a blue"))
    options = FilmOptions(bundle=DEMO_REEL, marks=Marks(False, keys.load(device), required=True))
    for encoded in (27, 0):
        record = make_film(path, tmp_path / "film.mp4", options, REEL)
        assert (record["marks"]["signed"], record["encoded"]) == (True, encoded)
        report = examine(tmp_path / "film.mp4", own_root(device))
        assert (report.signature.state, report.signature.inputs) == ("trusted", 2)
        with c2pa.Reader(str(tmp_path / "film.mp4")) as reader:
            manifest = json.loads(reader.json())
        active = manifest["manifests"][manifest["active_manifest"]]
        assert [(each["title"], each["relationship"]) for each in active["ingredients"]] == [
            ("scene 1", "componentOf"),
            ("scene 2", "componentOf"),
        ]
        actions = next(each for each in active["assertions"] if each["label"].startswith("c2pa.actions"))
        assert [each["action"] for each in actions["data"]["actions"]] == ["c2pa.created", "c2pa.placed"]
