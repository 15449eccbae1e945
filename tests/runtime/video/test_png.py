"""Folders of PNGs: which may be replaced, and that no other is touched."""

from __future__ import annotations

import os

import pytest
from helpers.pictures import clip, contents, write_old, write_output

from edgereel.core.errors import OutputError
from edgereel.runtime.video import png
from edgereel.runtime.video.output import Output

pytestmark = pytest.mark.lean


def test_names_of_pngs_have_digits_enough(tmp_path):
    assert write_output(tmp_path / "short", clip(2, 1, 1), 8, {}, 2) == 2
    assert sorted(os.listdir(tmp_path / "short")) == ["0001.png", "0002.png"]
    write_output(tmp_path / "long", clip(1, 1, 1), 8, {}, 12345)
    assert os.listdir(tmp_path / "long") == ["00001.png"]
    write_output(tmp_path / "long", clip(2, 1, 1), 8, {}, 2)
    assert sorted(os.listdir(tmp_path / "long")) == ["0001.png", "0002.png"]


@pytest.mark.parametrize(
    "strange",
    [
        {"notes.txt": b"mine"},
        {"0001.png": b"mine"},
        {"0001.png": "ours", "0002.png": b"\x89PNG mine"},
        {"0001.png": "ours", "notes.txt": b"mine"},
        {"0002.png": "ours"},
        {"0001.png": "ours", "sub": None},
        {"0001.png": "link"},
        {"0001.png": None},
    ],
    ids=str,
)
def test_a_folder_with_something_else_in_it_is_never_touched(tmp_path, strange):
    write_output(tmp_path / "made", clip(1), 8, {})
    ours = tmp_path / "made" / "0001.png"
    folder = tmp_path / "clip"
    folder.mkdir()
    for name, content in strange.items():
        if content is None:
            (folder / name).mkdir()
        elif content == "link":
            (folder / name).symlink_to(ours)
        else:
            (folder / name).write_bytes(ours.read_bytes() if content == "ours" else content)
    before = sorted(folder.rglob("*")), {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for attempt in (Output.check, lambda path: write_output(path, clip(), 8, {})):
        with pytest.raises(OutputError, match="holds something other than the frames of an earlier clip"):
            attempt(folder)
    assert before == (
        sorted(folder.rglob("*")),
        {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()},
    )
    assert sorted(os.listdir(tmp_path)) == ["clip", "made"]


def test_a_file_that_comes_into_the_folder_while_writing_is_kept(tmp_path):
    folder = tmp_path / "clip"
    old = write_old(folder)

    def frames():
        yield from clip(3)
        (folder / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match="holds something other"):
        write_output(folder, frames(), 8, {})
    assert contents(folder) == {**old, "notes.txt": b"mine"}
    assert os.listdir(tmp_path) == ["clip"]


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_failure_while_folders_change_places(tmp_path, monkeypatch, step, failure):
    folder = tmp_path / "clip"
    old = write_old(folder)
    rename, calls = os.rename, []

    def failing(*paths):
        calls.append(paths)
        if len(calls) == step:
            raise failure
        rename(*paths)

    monkeypatch.setattr(png.os, "rename", failing)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write_output(folder, clip(5), 8, {})
    assert contents(folder) == old
    assert os.listdir(tmp_path) == ["clip"]


def test_empty_folders_may_be_used(tmp_path):
    (tmp_path / "clip").mkdir()
    write_output(tmp_path / "clip", clip(2), 8, {})
    assert len(os.listdir(tmp_path / "clip")) == 2


def test_folders_in_use_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path in (".", "..", tmp_path / "a"):
        with pytest.raises(OutputError, match=r"cannot write .*this folder is in use"):
            Output.check(path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is in the place of the folder"):
        Output.check(tmp_path / "file")
    with pytest.raises(OutputError, match="missing does not exist"):
        Output.check(tmp_path / "missing" / "clip")
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]
