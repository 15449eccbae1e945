"""Watching a stream: what is told of it, and what is refused."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from helpers.causal_bundle import write_causal_bundle
from helpers.command_line import frames_of
from helpers.small_bundle import write_small_bundle
from PIL import Image, ImageSequence

import edgereel

pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_causal_bundle(tmp_path_factory.mktemp("causal") / "small.reel")


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball\nthe green square slides\n")
    return tmp_path / "prompts.txt"


def test_a_stream_is_watched(run, small, prompts):
    code, out, err = run(
        "bench", "live", small, "--engine", "cpu", "--threads", "1", "--prompts", prompts, "--seconds", "2", "--every", "0.4",
        "-o", "film.mp4", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["pictures"] == len(frames_of("film.mp4")) > 20
    assert found["seconds"] >= 2
    assert found["pictures_per_second"] == pytest.approx((found["pictures"] - 1) / found["seconds"])
    assert sum(found["by_quarter"]) / 4 == pytest.approx(found["pictures_per_second"], rel=0.01)
    assert 1 <= len(found["switch_seconds"]) <= 5
    assert found["switch_median"] > 0
    assert found["sampled"] > 0 < found["decoded"]
    assert found["memory_trend"] is None, "a second is too short"
    assert not found["partial"]


@pytest.mark.parametrize("decoder", ["full", "tiny"])
def test_a_stream_is_watched_with_either_decoder(run, tmp_path, decoder):
    (tmp_path / "prompt.txt").write_text("a red ball\n")
    watched = (
        "bench",
        "live",
        "--engine",
        "cpu",
        "--threads",
        "1",
        "--size",
        "64x64",
        "--seconds",
        "1",
        "--every",
        "1",
    )
    kept = ("--prompts", tmp_path / "prompt.txt", "-o", "film.webp", "--json")
    code, _, _ = run(*watched, "--decoder", decoder, *kept)
    assert code == 0
    with edgereel.load(engine="cpu", threads=1) as reel, Image.open("film.webp") as film:
        stream = reel.stream("a red ball", size=(64, 64), decoder=decoder)
        pictures = [np.asarray(picture.convert("RGB")) for picture in islice(ImageSequence.Iterator(film), 17)]
        assert np.array_equal(pictures, list(islice(stream, 17)))


def test_it_is_told_in_a_table(run, small, prompts):
    code, out, _ = run(
        "bench",
        "live",
        small,
        "--engine",
        "cpu",
        "--threads",
        "1",
        "--prompts",
        prompts,
        "--seconds",
        "1",
        "--every",
        "0.3",
    )
    assert code == 0
    for part in ("pictures a second", "another prompt | seen after", "too short for a trend of memory"):
        assert part in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--seconds", "0"], "--seconds is 1 to"),
        (["--every", "0"], "--every above 0"),
        (["--seconds", "5", "--every", "6"], "no more than that"),
    ],
)
def test_times_that_cannot_be(run, small, arguments, part):
    code, out, err = run("bench", "live", small, "--engine", "cpu", *arguments)
    assert (code, out) == (2, "")
    assert part in err


def test_a_bundle_that_makes_no_streams(run, tmp_path, prompts):
    folder = write_small_bundle(tmp_path / "small.reel")
    code, out, err = run("bench", "live", folder, "--engine", "cpu", "--prompts", prompts)
    assert (code, out) == (2, "")
    assert "makes clips, not streams" in err
