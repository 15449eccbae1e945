"""A bundle with a tiny decoder beside its full one: clips, the plan, tiles, kept latents and compare work with either."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import PROMPT, frames_of, metadata_of

import edgereel
from edgereel.calibration.clips import ClipSettings
from edgereel.calibration.compare import compare_bundles
from edgereel.calibration.report import summary
from edgereel.core.errors import UsageError
from edgereel.engines import EngineOptions, get_engine
from edgereel.runtime.decoding.decoder import decode_frames
from edgereel.runtime.decoding.tiling import Tile, decode_tiled
from edgereel.runtime.latents_file import write_latents

Run = Callable[..., tuple[Any, str, str]]


def done(result: tuple[Any, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert (code, err) == (0, "")
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_kept_latents_are_decoded_by_either(run: Run, two_decoder_reel: Path, words_reel: Path) -> None:
    quick = ["--steps", "1", "--frames", "5", "--size", "32x32", "--bundle", two_decoder_reel, "--json"]
    made = done(run("generate", PROMPT, "-o", "tiny.mp4", "--decoder", "tiny", "--keep-latents", *quick))
    assert made["settings"]["decoder"] == "tiny"
    bundle = ("--bundle", two_decoder_reel, "--json")
    again = done(run("decode", "tiny.safetensors", "-o", "again.mp4", *bundle))
    full = done(run("decode", "tiny.safetensors", "-o", "full.mp4", "--decoder", "full", *bundle))
    assert (again["settings"]["decoder"], full["settings"]["decoder"]) == ("tiny", "full")
    assert np.array_equal(frames_of("tiny.mp4"), frames_of("again.mp4"))
    assert not np.array_equal(frames_of("tiny.mp4"), frames_of("full.mp4"))
    assert '"decoder": "full"' in metadata_of("full.mp4")["comment"]
    # The full decoder is the shipped bundle's, so that its latents are, too.
    alone = done(run("decode", "tiny.safetensors", "-o", "alone.mp4", "--bundle", words_reel, "--json"))
    assert "decoder" not in alone["settings"]
    assert np.array_equal(frames_of("alone.mp4"), frames_of("full.mp4"))
    code, _, err = run("decode", "tiny.safetensors", "-o", "no.mp4", "--decoder", "huge", *bundle)
    assert code == 2
    assert "has no decoder 'huge': choose from full, tiny" in err


def test_latents_of_a_bundle_without_a_tiny_decoder_are_decoded_by_one(
    two_decoder_reel: Path, words_reel: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.safetensors"
    with edgereel.load(words_reel, "cpu", threads=1) as reel:
        write_latents(kept, reel.generate(PROMPT, steps=1, frames=5, size=(32, 32)), reel.bundle)
    with edgereel.load(two_decoder_reel, "cpu", threads=1) as reel:
        video = edgereel.read_video(kept, reel, "tiny")
        assert len(list(video)) == 5
        assert set(reel.report()) == {"tiny_decoder_first", "tiny_decoder_next"}
        with pytest.raises(UsageError, match="no decoder 'small'"):
            edgereel.read_video(kept, reel, "small")


def test_the_plan_is_of_the_decoder_that_is_used(run: Run, two_decoder_reel: Path) -> None:
    size = ("--size", "64x64", "--frames", "17", "--engine", "cpu", "--json")
    plans = [done(run("plan", two_decoder_reel, "--decoder", name, *size)) for name in ("full", "tiny")]
    full, tiny = (plan["components"]["decoder"] for plan in plans)
    for key in ("weights", "activations"):
        assert tiny[key] < full[key] / 2


def test_tiles_of_a_tiny_decoder_are_near_the_whole(two_decoder_reel: Path) -> None:
    engine = get_engine("cpu")
    with edgereel.load(two_decoder_reel, "cpu", threads=1) as reel:
        geometry = reel.bundle.manifest.latent
    latents = np.random.default_rng(0).standard_normal((1, geometry.channels, 2, 12, 14)).astype(np.float32)

    def opened(part: Any) -> list[Any]:
        options = EngineOptions(threads=1, part=part)
        return [engine.open(two_decoder_reel / f"tiny_decoder_{name}.onnx", options) for name in ("first", "next")]

    rear = opened("rear")
    assert "latent" in rear[0].specs.inputs  # nothing of it sees the whole picture
    whole = np.stack(list(decode_frames(*opened(None), latents, geometry))).astype(float)
    tiled = np.stack(list(decode_tiled(None, (rear[0], rear[1]), latents, geometry, Tile(9, 9)))).astype(float)
    assert whole.std() > 20
    assert 10 * math.log10(255**2 / np.square(whole - tiled).mean()) > 40


def test_a_bundle_is_compared_with_itself_by_the_other_decoder(two_decoder_reel: Path) -> None:
    settings = ClipSettings(steps=1, size=(32, 32), frames=5, decoder="full")
    compared = compare_bundles(
        two_decoder_reel,
        two_decoder_reel,
        prompts=[PROMPT],
        settings=settings,
        second_decoder="tiny",
        engine="cpu",
        threads=1,
    )
    assert (compared.first.decoder, compared.second.decoder) == ("full", "tiny")
    assert set(compared.drift()) == {0}  # the same latents
    with edgereel.load(two_decoder_reel, "cpu", threads=1) as reel:
        clips = [
            np.stack(list(reel.generate(PROMPT, steps=1, size=(32, 32), frames=5, decoder=name))).astype(float)
            for name in ("full", "tiny")
        ]
    expected = 10 * math.log10(255**2 / np.square(clips[0] - clips[1]).mean())
    assert compared.psnr_db == pytest.approx(expected, abs=1e-6)
    assert f"{two_decoder_reel} (decoder tiny) beside" in summary(compared)


def test_previews_are_of_the_tiny_decoder(two_decoder_reel: Path) -> None:
    """At each step: the last one's latents are those of the clip, since sigma falls to 0 from there by what was predicted."""
    size = {"steps": 2, "frames": 5, "size": (32, 32)}
    shown: list[edgereel.Video] = []
    with edgereel.load(two_decoder_reel, "cpu", threads=1) as reel:
        video = reel.generate(PROMPT, on_preview=shown.append, **size)
        assert [preview.request.decoder for preview in shown] == ["tiny", "tiny"]
        assert video.request.decoder == "full"
        np.testing.assert_allclose(shown[-1].latents, video.latents, atol=1e-5)
        assert not np.allclose(shown[0].latents, video.latents, atol=1e-2)
        assert len(list(shown[0])) == 5
        assert set(reel.report()) >= {"denoiser", "tiny_decoder_first"}
        assert "decoder_first" not in reel.report()
        again = reel.generate(PROMPT, **size)
    np.testing.assert_array_equal(again.latents, video.latents)


def test_a_preview_is_written_at_each_step(run: Run, words_reel: Path) -> None:
    quick = ["--steps", "2", "--frames", "5", "--size", "32x32", "--json", "--bundle", words_reel]
    made = done(run("generate", PROMPT, "-o", "made.mp4", "--preview", "shown.mp4", *quick))
    assert frames_of("shown.mp4").shape == frames_of("made.mp4").shape
    assert np.abs(frames_of("shown.mp4").astype(int) - frames_of("made.mp4")).mean() < 2  # the last step's
    assert made["settings"]["steps"] == 2
    code, _, err = run("generate", PROMPT, "-o", "made.mp4", "--preview", "x.mp4", "--label", "AI", *quick)
    assert code == 2
    assert "--preview has no marks and no label" in err
