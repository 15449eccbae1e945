"""Every program of examples/ does what it says, and stays short."""

from __future__ import annotations

import ast
import runpy
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers.command_line import PROMPT, frames_of

import edgereel
from edgereel.core.errors import PlanError

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def example(monkeypatch, capsys, tmp_path):
    """Run a program of examples/ in an empty folder and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def example(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return example


def test_there_are_six_and_each_has_a_test_here():
    names = {path.stem for path in EXAMPLES}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert len(names) == 6
    assert names <= tested


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_the_public_interface(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    public = {"edgereel", "edgereel.core.errors"}
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert all(name in public for name in names if name.startswith("edgereel")), path
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgereel":
            assert node.attr in edgereel.__all__, path


def test_clip(example, tmp_path):
    assert example("clip", PROMPT, "ball.mp4", "--seed", "7") == f"{tmp_path / 'ball.mp4'}\n"
    with edgereel.load() as reel:
        video = reel.generate(PROMPT, seed=7)
        video.save("same.mp4")
    assert frames_of("ball.mp4").shape == (17, 128, 128, 3)
    np.testing.assert_array_equal(frames_of("ball.mp4"), frames_of("same.mp4"))


def test_clip_that_cannot_be_made_is_one_line(example):
    with pytest.raises(SystemExit, match='this model does not know: "quokka"'):
        example("clip", "a quokka", "ball.mp4")


def test_frames(example):
    lines = example("frames", PROMPT).splitlines()
    assert lines[0] == "17 pictures of 128x128, 8 a second"
    assert len(lines) == 18
    with edgereel.load() as reel:
        pictures = list(reel.generate(PROMPT, seed=3))
    change = np.abs(pictures[-1].astype(int) - pictures[-2]).mean()
    assert lines[-1] == f"picture 17: brightness {pictures[-1].mean():5.1f}, change {change:4.1f}"


def test_several(example, tmp_path):
    out = example("several", "clips", PROMPT, "a blue star falls in the desert")
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["001.mp4", "002.mp4"]
    assert out.count(".mp4: ") == 2


def test_several_stop_in_time(example, tmp_path):
    assert "out of time: 0 of 1 clips were made" in example("several", "--seconds", "0", "clips", PROMPT)
    assert list((tmp_path / "clips").iterdir()) == []


def test_decode_latents(example, tmp_path):
    with edgereel.load() as reel:
        video = reel.generate(PROMPT, seed=5)
        edgereel.write_latents(tmp_path / "clip.safetensors", video, reel.bundle)
        pictures = np.stack(list(video))
    assert f"'{PROMPT}', seed 5: 17 frames" in example("decode_latents", "clip.safetensors", "a.gif", "pngs")
    decoded = [frames_of(path)[0] for path in sorted((tmp_path / "pngs").iterdir())]
    np.testing.assert_array_equal(np.stack(decoded), pictures)
    assert len(frames_of("a.gif")) == 17


def test_contact_sheet(example):
    assert "seeds 0 to 1" in example("contact_sheet", PROMPT, "sheet.png", "--seeds", "2", "--columns", "3")
    (sheet,) = frames_of("sheet.png")
    with edgereel.load() as reel:
        rows = [list(reel.generate(PROMPT, seed=seed)) for seed in (0, 1)]
    expected = [np.concatenate([row[0], row[8], row[16]], axis=1) for row in rows]
    np.testing.assert_array_equal(sheet, np.concatenate(expected))


def test_memory(example):
    out = example("memory", "1GiB", "clip.mp4")
    assert out.startswith("65 frames: ")
    assert len(frames_of("clip.mp4")) == 65


def test_memory_that_is_too_little(example):
    with edgereel.load(memory="1MiB") as reel, pytest.raises(PlanError):
        reel.plan(64, 64, 1)
    with pytest.raises(SystemExit, match="no length fits"):
        example("memory", "1MiB", "clip.mp4")
