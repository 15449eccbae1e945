"""`continue`, `live` and pictures for `generate`: what they write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.causal_bundle import write_causal_bundle
from helpers.command_line import BUNDLE, PROMPT, frames_of, metadata_of, refused
from PIL import Image

pytestmark = pytest.mark.lean

BALL, SQUARE = "a red ball", "the green square slides"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the options that choose a causal bundle, which has a format and two decoders."""

    def change(data):
        data["defaults"] = {**data["defaults"], "formats": {"square": [8, 8]}}
        roles = data["roles"]
        full = {name: roles.pop(name) for name in ("decoder_first", "decoder_next")}
        roles["decoders"] = {"full": full, "tiny": full}
        data["default_decoder"] = "full"

    folder = write_causal_bundle(tmp_path_factory.mktemp("causal") / "small.reel", change=change)
    return ["--bundle", str(folder), "--engine", "cpu", "--threads", "1"]


def picture(folder, name="a.png"):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(folder / name)
    return folder / name


def test_live_writes_a_film_with_prompts_that_follow_one_another(run, small):
    code, out, err = run("live", BALL, "-o", "film.mp4", "--seconds", "6", "--then", "2", SQUARE, "--json", *small)
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert len(frames_of("film.mp4")) == 24
    assert record["settings"]["then"] == [[2.0, SQUARE]]
    assert record["stream"]["sampled"] > 0
    assert record["seconds"]["remember"] > 0
    comment = json.loads(metadata_of("film.mp4")["comment"])
    assert comment["ai_generated"] is True
    assert comment["prompt"] == BALL
    assert comment["ran"]["engine"] == "cpu"
    assert record["memory"]["plan"]["context"] > 0
    run("live", BALL, "-o", "again.mp4", "--seconds", "6", "--then", "2", SQUARE, *small)
    assert Path("again.mp4").read_bytes() == Path("film.mp4").read_bytes()
    run("live", BALL, "-o", "other.mp4", "--seconds", "6", *small)
    first, other = frames_of("film.mp4"), frames_of("other.mp4")
    assert np.array_equal(first[:8], other[:8])
    assert not np.array_equal(first, other)
    code, out, _ = run("live", BALL, "-o", "private.mp4", "--seconds", "2", "--private", "--json", *small)
    assert BALL not in out + json.dumps(metadata_of("private.mp4"))


def test_a_clip_is_kept_and_continued(run, small):
    assert run("generate", BALL, "-o", "a.mp4", "--keep-latents", "--size", "square", *small)[0] == 0
    code, out, err = run(
        "continue", "a.safetensors", SQUARE, "-o", "b.mp4", "--seconds", "2", "--keep-latents", "--json", *small
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["latents"] == "b.safetensors"
    assert frames_of("b.mp4").shape == (8, 8, 8, 3)
    assert run("decode", "b.safetensors", "-o", "c.mp4", *small)[0] == 0
    assert Path("b.mp4").read_bytes() == Path("c.mp4").read_bytes()
    assert run("continue", "a.mp4", SQUARE, "-o", "d.gif", "--seconds", "1", *small)[0] == 0
    assert Path("d.gif").read_bytes().startswith(b"GIF89a")


def test_a_film_begins_with_a_picture(run, small, tmp_path):
    names = []
    for fit in ("crop", "pad"):
        names.append(f"{fit}.mp4")
        code, _, err = run("generate", BALL, "--image", picture(tmp_path), "--fit", fit, "-o", names[-1], *small)
        assert (code, err) == (0, "")
    assert not np.array_equal(*map(frames_of, names))
    code, out, _ = run(
        "live", BALL, "--image", picture(tmp_path), "--seconds", "3", "--decoder", "tiny", "--json", *small
    )
    assert code == 0
    assert json.loads(out)["settings"]["decoder"] == "tiny"
    assert len(json.loads(out)["settings"]["image"]) == 64


def test_the_plan_is_of_a_decoder_and_of_pictures(run, small):
    code, out, _ = run("plan", small[1], "--engine", "cpu", "--pictures", "--decoder", "tiny", "--json")
    assert code == 0
    assert list(json.loads(out)["components"]) == ["text_encoder", "encoder", "denoiser", "decoder"]
    refused(
        run("plan", small[1], "--engine", "cpu", "--decoder", "huge"),
        2,
        "has no decoder 'huge': choose from full, tiny",
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["live", BALL, SQUARE], "2 prompts and 0 times"),
        (["live", BALL, "--then", "2"], "1 prompts and 1 times"),
        (["live", BALL, "--seconds", "0"], "no time in seconds"),
        (["live", BALL, "--seconds", "2", "--then", "3", SQUARE], "the film is over at 2 s"),
        (["live", BALL, "--then", "3", "a quokka"], '"quokka"'),
        (["live", "a quokka"], '"quokka"'),
        (["live", BALL, "--size", "round"], "no format 'round': choose from square"),
        (["live", BALL, "--size", "7x7"], "the nearest is 8x8"),
        (["live", BALL, "--decoder", "huge"], "choose from full, tiny"),
        (["live", BALL, "-o", "film.avi"], "no known suffix"),
        (["live", BALL, "--image", "nothing.png"], "nothing.png: cannot be read"),
        (["live", BALL, "--fit", "pad"], "fit is for pictures"),
        (["generate", BALL, "--last-image", "a.png"], "takes no last picture"),
        (["generate", BALL, "--image", "nothing.png"], "nothing.png: cannot be read"),
        (["continue", "nothing.mp4", BALL], "nothing.mp4: there is no such file"),
        (["continue", "nothing.safetensors", BALL], "there is no such file"),
        (["continue", "nothing.mp4", "a quokka"], '"quokka"'),
    ],
)
def test_refused_in_one_line_with_nothing_written(run, small, arguments, part):
    refused(run(*arguments, *small), 2, part)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["live", PROMPT], "makes clips, not streams"),
        (["generate", PROMPT, "--image", "a.png"], "takes no picture"),
    ],
)
def test_a_bundle_of_clips_of_a_prompt_alone(run, arguments, part):
    if json.loads((DEMO_REEL / "reel.json").read_text())["schema"] > 1:
        pytest.skip("the demo makes streams")
    refused(run(*arguments, *BUNDLE), 2, part)


def test_a_prompt_file_and_a_bad_picture_leave_no_folder(run, small, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{BALL}\n{SQUARE}\n")
    (tmp_path / "bad.png").write_text("no picture")
    refused(
        run("generate", "--prompts", tmp_path / "prompts.txt", "--image", tmp_path / "bad.png", *small),
        2,
        "is not a PNG",
    )
    code, _, _ = run(
        "generate", "--prompts", tmp_path / "prompts.txt", "--image", picture(tmp_path), "-o", "clips", *small
    )
    assert code == 0
    assert sorted(path.name for path in Path("clips").iterdir()) == ["001.mp4", "002.mp4"]
