"""Campaigns: rows, what became of each, and what cannot be made."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import av
import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story

from edgereel.core.errors import Cancelled, EngineError, OutputError, UsageError
from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.clip import Video
from edgereel.runtime.reel import load
from edgereel.story.campaign.manifest import Manifest
from edgereel.story.campaign.rows import campaign_rows, read_campaign
from edgereel.story.campaign.run import CampaignOptions, describe_campaign, run_campaign

REEL, OPTIONS = ReelOptions("cpu", 1), CampaignOptions(bundle=DEMO_REEL)
SHEET = """
title: Balls
prompt: a {colour} {shape} rises {place}
pictures: 5
pairs: colour
axes:
  colour: [red, blue]
  shape: [ball]
  place: {sea: over the ocean, wood: in the forest}
exclude: [{colour: red, place: wood}]
include: [{colour: white, shape: ring, place: sea, seed: 9, format: vertical}]
"""
NAMES = ["red-ball-sea", "blue-ball-sea", "blue-ball-wood", "white-ring-sea-9-vertical"]


@pytest.fixture(scope="module")
def demo():
    with load(DEMO_REEL, "cpu", threads=1, cache=False) as reel:
        yield reel


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    path = write_story(folder / "ads.yaml", SHEET)
    return path, folder / "ads", run_campaign(path, folder / "ads", OPTIONS, REEL._replace(cache=False))


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())["rows"]


def test_every_row_is_made_and_told(made):
    _, folder, record = made
    assert (record["rows"], record["made"], record["made_now"], record["failed"]) == (4, 4, 4, 0)
    rows = rows_of(folder)
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        content = (folder / row["file"]).read_bytes()
        assert (row["sha256"], row["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        with av.open(str(folder / row["file"])) as container:
            assert container.streams.video[0].frames == 5
            assert json.loads(container.metadata["comment"])["prompt"] == row["settings"]["prompt"]
    assert rows[0]["pair"] == rows[1]["pair"] == "shape ball, place sea"
    assert rows[0]["settings"]["seed"] == rows[1]["settings"]["seed"]
    with av.open(str(folder / rows[3]["file"])) as container:
        stream = container.streams.video[0]
        assert stream.width / stream.height == pytest.approx(9 / 16, abs=0.02)
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_makes_what_is_missing_alone(made):
    path, folder, _ = made
    before = {each.name: each.stat().st_mtime_ns for each in folder.glob("*.mp4")}
    (folder / "red-ball-sea.mp4").unlink()
    (folder / "blue-ball-sea.mp4").write_bytes(b"cut short")
    assert run_campaign(path, folder, OPTIONS, REEL)["made_now"] == 2
    after = {each.name: each.stat().st_mtime_ns for each in folder.glob("*.mp4")}
    assert {name for name in before if after[name] != before[name]} == {"red-ball-sea.mp4", "blue-ball-sea.mp4"}


def test_a_row_that_fails_is_noted_and_tried_again(made, tmp_path, monkeypatch):
    path, _, _ = made
    settings = Video.settings

    def fail(self, *, private=False):
        if "blue" in self.request.prompt and "forest" in self.request.prompt:
            raise EngineError("the engine is at fault")
        return settings(self, private=private)

    with monkeypatch.context() as patch:
        patch.setattr(Video, "settings", fail)
        record = run_campaign(path, tmp_path / "ads", OPTIONS, REEL)
    assert (record["made"], record["failed"]) == (3, 1)
    assert [row["state"] for row in rows_of(tmp_path / "ads")] == ["made", "made", "failed", "made"]
    assert rows_of(tmp_path / "ads")[2]["error"] == "the engine is at fault"
    record = run_campaign(path, tmp_path / "ads", OPTIONS, REEL)
    assert (record["made"], record["made_now"], record["failed"]) == (4, 1, 0)


def test_what_is_stopped_goes_on(made, tmp_path):
    path, _, _ = made
    with pytest.raises(Cancelled):
        run_campaign(path, tmp_path / "ads", OPTIONS, REEL, lambda stage, done, _: (stage, done) != ("rows", 2))
    facts = describe_campaign(path, tmp_path / "ads", OPTIONS, REEL)
    assert sorted(row["state"] for row in facts["rows"]) == ["made", "made", "waiting", "waiting"]
    assert run_campaign(path, tmp_path / "ads", OPTIONS, REEL)["made_now"] == 2


def test_a_line_that_was_being_written_is_forgotten(tmp_path):
    Manifest(tmp_path).add({"name": "a", "state": "failed"})
    Manifest(tmp_path).add({"name": "a", "state": "made"})
    with (tmp_path / "manifest.jsonl").open("ab") as file:
        file.write(b'{"name": "b", "sta')
    manifest = Manifest(tmp_path)
    manifest.add({"name": "c", "state": "made"})
    assert Manifest(tmp_path).lines == {"a": {"name": "a", "state": "made"}, "c": {"name": "c", "state": "made"}}


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
def test_rows_come_from_a_table(tmp_path, demo, name):
    (tmp_path / "rows.csv").write_text('colour,seed\nred,1\n"blue",2\n')
    (tmp_path / "rows.json").write_text('[{"colour": "red", "seed": 1}, {"seed": 2, "colour": "blue"}]')
    sheet = f"prompt: a {{colour}} ball {{verb}}\nrows: {name}\naxes: {{verb: [rises, falls]}}\n"
    sheet += 'name: "{number}-{colour}-{verb}"\n'
    rows = campaign_rows(read_campaign(write_story(tmp_path / "ads.yaml", sheet)), demo)
    assert [(row.name, row.request.prompt, row.request.seed) for row in rows] == [
        ("0001-red-rises", "a red ball rises", 1),
        ("0002-red-falls", "a red ball falls", 1),
        ("0003-blue-rises", "a blue ball rises", 2),
        ("0004-blue-falls", "a blue ball falls", 2),
    ]


BAD = {
    "no rows": ("prompt: a ball\n", 1, "give axes"),
    "no prompt": ("axes: {a: [b]}\n", 1, "prompt: is missing"),
    "an empty axis": ("prompt: a ball\naxes:\n  a: []\n", 3, "at least 1"),
    "an unknown axis in a prompt": ("title: x\nprompt: a {b} ball\naxes: {a: [red]}\n", 2, "{b} is not in words"),
    "an unknown axis excluded": ("prompt: a {a}\naxes: {a: [red]}\nexclude:\n  - {b: c}\n", 4, "there is no axis 'b'"),
    "an exclusion of no row": (
        "prompt: a {a}\naxes: {a: [red, blue]}\nexclude:\n  - {a: red}\n  - {a: bleu}\n",
        5,
        "is of no row",
    ),
    "all excluded": ("prompt: a {a}\naxes: {a: [red]}\nexclude:\n  - {a: red}\n", 3, "leaves no row"),
    "a word that the model lacks": ("prompt: a {a} ball\naxes: {a: [red, mauve]}\n", 1, "row 2 (a mauve)"),
    "the same name twice": ("prompt: a {a} ball\naxes: {a: [red, blue]}\nname: x\n", 1, "row 1 is called x too"),
    "a name that is a path": ("prompt: a ball\naxes: {a: [red]}\nname: ../x\n", 1, "no name for a file"),
    "a format that is none": ("prompt: a ball\naxes: {format: [round]}\n", 1, "there is no format"),
    "a seed that is none": ("prompt: a ball\naxes: {seed: [many]}\n", 1, "whole number"),
    "10,000 rows": (
        "prompt: a {a} ball\naxes:\n" + "".join(f"  {axis}: [{','.join('0123456789')}]\n" for axis in "abcd"),
        2,
        "make 10000 rows: 5000 at most",
    ),
    "a missing table": ("prompt: a ball\nrows: no.csv\n", 2, "no file 'no.csv'"),
    "a table elsewhere": ("prompt: a ball\nrows: ../no.csv\n", 2, "not in the folder of"),
    "a table of another kind": ("prompt: a ball\nrows: rows.txt\n", 2, ".csv and .json"),
    "a table of nothing": ("prompt: a ball\nrows: empty.json\n", 2, "no list of rows"),
    "a table whose rows differ": ("prompt: a ball\nrows: differ.json\n", 2, "row 2 has other columns"),
    "a table that nests": ("prompt: a ball\nrows: nested.json\n", 2, "must be text or a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_campaigns(tmp_path, demo, name):
    text, line, said = BAD[name]
    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "differ.json").write_text('[{"a": 1}, {"b": 1}]')
    (tmp_path / "nested.json").write_text('[{"a": [1]}]')
    path = write_story(tmp_path / "ads.yaml", text)
    with pytest.raises(UsageError) as refused:
        campaign_rows(read_campaign(path), demo)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert said in message
    assert "\n" not in message


def test_a_table_with_a_short_line_is_told_by_its_own_line(tmp_path, demo):
    (tmp_path / "rows.csv").write_text("colour,place\nred,sea\nblue\n")
    path = write_story(tmp_path / "ads.yaml", "prompt: a {colour} ball\nrows: rows.csv\n")
    with pytest.raises(UsageError, match=r"rows.csv:3: "):
        campaign_rows(read_campaign(path), demo)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    {
        "a column twice": (
            "rows.csv",
            "\ufeffcolour, colour\nred,blue\n",
            r"rows.csv:1: has the column 'colour' twice",
        ),
        "a key twice": ("rows.json", '[{"colour": "red", "colour": "blue"}]', r"'colour' is there twice"),
        "half a character": ("rows.json", '[{"colour": "\\ud800"}]', r"row 1, colour: .* is no text"),
        "no number": ("rows.json", '[{"colour": NaN}]', r"row 1, colour: nan is no text and no number"),
    }.values(),
)
def test_tables_that_say_what_nobody_means(tmp_path, demo, table, content, message):
    (tmp_path / table).write_text(content)
    path = write_story(tmp_path / "ads.yaml", f"prompt: a {{colour}} ball\nrows: {table}\n")
    with pytest.raises(UsageError, match=message):
        campaign_rows(read_campaign(path), demo)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_manifest_that_is_not_ours_is_neither_waited_for_nor_written(tmp_path, kind):
    log, other = tmp_path / "manifest.jsonl", tmp_path / "other.txt"
    other.write_text("mine")
    {"pipe": os.mkfifo, "link": lambda path: path.symlink_to(other), "folder": Path.mkdir}[kind](log)
    with pytest.raises(OutputError, match=r"manifest\.jsonl: is not a regular file"):
        Manifest(tmp_path)
    assert other.read_text() == "mine"


def test_names_that_windows_has_for_devices_are_refused(tmp_path, demo):
    path = write_story(tmp_path / "ads.yaml", "prompt: a {colour} ball\naxes: {colour: [red]}\nname: 'Con.{colour}'\n")
    with pytest.raises(UsageError, match=r"ads\.yaml:1: .*device's name"):
        campaign_rows(read_campaign(path), demo)


def test_a_campaign_does_not_replace_what_it_is_read_from(tmp_path):
    path = write_story(tmp_path / "manifest.json", "prompt: a {colour} ball\naxes: {colour: [red]}\n")
    with pytest.raises(OutputError, match="the campaign is read from it"):
        run_campaign(path, tmp_path, OPTIONS, REEL)
    assert [each.name for each in tmp_path.iterdir()] == ["manifest.json"]
