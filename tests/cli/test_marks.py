"""Marks, label and policy on every command that makes videos: one place puts them on, whatever the frames come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

c2pa = pytest.importorskip("c2pa")

from helpers.causal_bundle import write_causal_bundle  # noqa: E402
from helpers.command_line import frames_of  # noqa: E402
from PIL import Image  # noqa: E402

BALL, SQUARE = "a red ball", "the green square slides"
SIZE = ("--size", "128x128")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, run):
    monkeypatch.setenv("EDGEREEL_HOME", str(tmp_path / "home"))
    for name in ("EDGEREEL_KEYS", "EDGEREEL_MARK"):
        monkeypatch.delenv(name, raising=False)
    assert run("provenance", "init", "--name", "Booth 7")[0] == 0
    return tmp_path / "home"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the options that choose a bundle that takes pictures and makes streams."""
    folder = write_causal_bundle(tmp_path_factory.mktemp("causal") / "small.reel")
    return ["--bundle", str(folder), "--engine", "cpu", "--threads", "1"]


def picture(name="a.png", size=(160, 140)):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(name)
    return name


def made(run, *arguments):
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def refused(result, part):
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert part in err
    assert not Path("b.mp4").exists()


def looked_at(run, name):
    code, out, _ = run("verify-media", name, "--json")
    assert code == 0
    return json.loads(out)["files"][0]


def test_every_command_marks_as_generate_does(run, small):
    """A clip, its latents decoded, what follows it, a film, and a file of prompts: signed, watermarked, labelled, logged."""
    marks = ("--mark", "all", "--log", "log.db", "--label", "AI", *small)
    records = {"a.mp4": made(run, "generate", BALL, *SIZE, "-o", "a.mp4", "--keep-latents", *marks)}
    records["decoded.mp4"] = made(run, "decode", "a.safetensors", "-o", "decoded.mp4", *marks)
    records["more.mp4"] = made(run, "continue", "a.safetensors", SQUARE, "--seconds", "2", "-o", "more.mp4", *marks)
    records["after.mp4"] = made(run, "continue", "a.mp4", SQUARE, "--seconds", "2", "-o", "after.mp4", *marks)
    records["film.mp4"] = made(
        run, "live", BALL, "--seconds", "3", "--then", "1", SQUARE, *SIZE, "-o", "film.mp4", *marks
    )
    Path("prompts.txt").write_text(f"{BALL}\n{SQUARE}\n")
    for video in made(run, "generate", "--prompts", "prompts.txt", "-o", "clips", *SIZE, *marks)["videos"]:
        records[video["output"]] = video
    assert len(records) == 7
    assert len({record["marks"]["id"] for record in records.values()}) == 7
    for name, record in records.items():
        signature = looked_at(run, name)["signature"]
        assert (signature["state"], signature["signer"]) == ("trusted", "Booth 7"), name
        assert signature["id"] == record["marks"]["id"], name
        assert signature["soft_binding"] == record["marks"]["watermark"] is not None, name
        assert BALL not in json.dumps(signature), name
        assert SQUARE not in json.dumps(signature), name
        (entry,) = made(run, "provenance", "log", record["marks"]["watermark"], "--log", "log.db")["clips"]
        assert entry["sha256"] == record["marks"]["sha256"], name
    assert run("decode", "a.safetensors", "-o", "plain.mp4", *small)[0] == 0
    corner, plain = (frames_of(name)[:, -14:, -20:].astype(int) for name in ("decoded.mp4", "plain.mp4"))
    assert np.abs(corner - plain).max() > 60, "the label"
    ingredients = looked_at(run, "after.mp4")["signature"]["ingredients"]
    assert ingredients == 1, "the clip that it goes on from"


def test_private_films_tell_no_prompt(run, small):
    options = ("--private", "--mark", "signature", "--log", "log.db", *small)
    made(run, "live", BALL, "--seconds", "2", "--then", "1", SQUARE, "-o", "film.mp4", *options)
    made(run, "generate", BALL, "-o", "a.mp4", "--keep-latents", *options)
    made(run, "continue", "a.mp4", SQUARE, "--seconds", "1", "-o", "b.gif", *options)
    made(run, "decode", "a.safetensors", "-o", "c.webp", *options)
    for name in ("film.mp4", "a.mp4", "a.safetensors", "b.gif", "c.webp", "log.db"):
        content = Path(name).read_bytes().lower()
        for word in ("red ball", "green square", "slides"):
            for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                assert word.encode(encoding) not in content, name


def test_signatures_that_are_required_are_so_everywhere(run, small, home):
    assert run("generate", BALL, "-o", "a.mp4", "--keep-latents", *small)[0] == 0
    for key in (home / "keys").iterdir():
        key.unlink()
    required = ("--mark", "signature", "--require-signature", "-o", "b.mp4", *small)
    for command in (["live", BALL, "--seconds", "1"], ["continue", "a.mp4", SQUARE], ["decode", "a.safetensors"]):
        refused(run(*command, *required), "make one with edgereel provenance init")


def test_a_policy_is_asked_by_every_command_that_takes_prompts(run, small):
    picture()
    policy = ("--policy", "booth", "-o", "b.mp4", *small)
    refused(run("live", BALL, "--then", "1", "a nude man", *policy), "category: sexual")
    refused(run("continue", "a.safetensors", "a nude man", *policy), "category: sexual")
    Path("prompts.txt").write_text(f"{BALL}\na nude man\n")
    refused(run("generate", "--prompts", "prompts.txt", "--policy", "booth", *small), "category: sexual")
    for command in (
        ["generate", BALL, "--image", "a.png"],
        ["live", BALL, "--image", "a.png"],
        ["continue", "a.mp4", BALL],
    ):
        refused(run(*command, *policy), "takes no pictures of visitors")
