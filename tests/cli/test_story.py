"""Commands of stories and campaigns: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story

BUNDLE = ("--bundle", DEMO_REEL, "--threads", "1")


def test_a_story_is_begun_planned_and_made(run):
    assert run("story", "new", "film.yaml") == (0, "film.yaml  (edgereel story make film.yaml -o film.mp4)\n", "")
    assert run("story", "new", "other.yaml") == (0, "other.yaml  (edgereel story make other.yaml -o other.mp4)\n", "")
    assert Path("other.yaml").read_text().startswith("# A story: edgereel story make other.yaml -o other.mp4\n")
    text = "title: x\nscenes:\n  - card: Hi\n    seconds: 0.5\n  - {name: one, prompt: a red ball, pictures: 5}\n"
    write_story(Path("film.yaml"), text)
    code, out, err = run("story", "make", "film.yaml", "--dry-run", *BUNDLE)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[4:] == ["to", "make", "cut", "one:", "a", "red", "ball"]
    assert "how long it takes is not known before a first film" in out
    code, out, err = run("story", "make", "film.yaml", "--json", *BUNDLE)
    assert (code, err) == (0, "")
    assert json.loads(out)["made"] == ["one"]
    assert Path("film.mp4").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["make", "no.yaml"], "no.yaml: cannot be read"),
        (["make", "bad.yaml"], "bad.yaml:3: scene 1, seconds: must be greater than 0"),
        (["make", "bad.yaml", "-o", "film.gif"], "end it in .mp4"),
        (["make", "bad.yaml", "--choose", "x"], "write numbers with commas"),
        (["take", "bad.yaml", "one", "--seeds", "0"], "0 takes are not possible"),
        (["timeline", "bad.yaml", "-o", "film.xml"], ".otio"),
    ],
)
def test_what_is_wrong_is_one_line(run, arguments, said):
    write_story(Path("bad.yaml"), "title: x\nscenes:\n  - {prompt: a red ball, seconds: 0}\n")
    code, out, err = run("story", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [path.name for path in Path.cwd().iterdir()] == ["bad.yaml"]


def test_a_campaign_is_listed(run):
    write_story(Path("ads.yaml"), "prompt: a {colour} ball\naxes: {colour: [red, blue]}\n")
    code, out, err = run("matrix", "ads.yaml", "--dry-run", *BUNDLE)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "waiting  red: a red ball (seed 0)",
        "waiting  blue: a blue ball (seed 0)",
        "2 rows, 0 of them made",
    ]
    assert not Path("campaign").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--on", "there"], "give here, ray or ray://HOST:PORT"), (["--workers", "999"], "choose from 1 to 256")],
)
def test_a_campaign_somewhere_else_is_refused(run, arguments, said):
    write_story(Path("ads.yaml"), "prompt: a {colour} ball\naxes: {colour: [red, blue]}\n")
    code, out, err = run("matrix", "ads.yaml", *arguments, *BUNDLE)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not Path("campaign").exists()
