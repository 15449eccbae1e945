"""Sampling in two stages: the hand-over has the distribution that flow matching has there, and costs what it should."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import edit_manifest
from pydantic import ValidationError

import edgereel
from edgereel.bundle.geometry import latent_shape
from edgereel.bundle.manifest import LatentGeometry, Recipe
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import BundleError, UsageError
from edgereel.runtime.describe import describe
from edgereel.runtime.memory.work import count_runs, count_work
from edgereel.runtime.request import OpenRequest
from edgereel.runtime.sampling.noise import NoiseSource
from edgereel.runtime.sampling.samplers import sample_euler
from edgereel.runtime.sampling.schedules import Schedule
from edgereel.runtime.sampling.stages import Stage, enlarge, first_shape, hand_over, stages_of

pytestmark = pytest.mark.lean

GEOMETRY = LatentGeometry(channels=2, temporal_scale=4, spatial_scale=8, patch=[1, 2, 2])
SHAPE = (1, 2, 4, 64, 48)
MEAN, DEVIATION = 1.5, 0.4
TWO: dict[str, Any] = {
    "name": "two", "sampler": "euler", "steps": 2, "sigmas": [1.0, 0.5], "timesteps": [950.0, 250.0], "guidance": 1.0,
    "second": {"scale": 0.5, "upscale": "nearest", "sigmas": [0.75, 0.5], "timesteps": [625.0, 250.0]},
}  # fmt: skip


def recipe(**second: Any) -> Recipe:
    return Recipe.model_validate({**TWO, "second": {**TWO["second"], **second}})


def velocity(latents: np.ndarray, sigma: float, deviation: float = DEVIATION) -> np.ndarray:
    """The exact velocity, noise less data as expected, where data are independent normal numbers."""
    spread = ((1 - sigma) * deviation) ** 2 + sigma**2
    gain = (sigma - (1 - sigma) * deviation**2) / spread
    return (gain * (latents - (1 - sigma) * MEAN) - MEAN).astype(np.float32)


def fine(start: float, steps: int = 200) -> Schedule:
    sigmas = np.linspace(start, 0, steps + 1).astype(np.float32)
    return Schedule(sigmas, 1000 * sigmas[:-1])


def test_the_hand_over_has_the_distribution_of_its_noise_level() -> None:
    """Data of one mean and deviation, sampled exactly at half the size; enlarged by `nearest`, each number keeps its own.

    At sigma they are normal with mean (1 - sigma)·m and variance ((1 - sigma)·s)² + sigma², two that came of one number of the
    small clip have the covariance ((1 - sigma)·s)², all others none.
    """
    sigma = 0.7
    second = recipe(sigmas=[sigma, 0.3], timesteps=None).second
    assert second is not None
    source = NoiseSource(3)
    first = first_shape(second, GEOMETRY, SHAPE)
    assert first == (1, 2, 4, 32, 24)
    clean = sample_euler(lambda x, _, level: velocity(x, level), source.draw(first), fine(1.0, 400))
    assert clean.mean() == pytest.approx(MEAN, abs=4 * DEVIATION / math.sqrt(clean.size))
    assert clean.std() == pytest.approx(DEVIATION, rel=0.03)
    start = hand_over(
        clean, stages_of(recipe(sigmas=[sigma, 0.3], timesteps=None), "euler", 2, GEOMETRY, SHAPE)[1], second, source
    )
    assert (start.shape, start.dtype) == (SHAPE, np.float32)
    kept = ((1 - sigma) * DEVIATION) ** 2
    variance = kept + sigma**2
    centred = start - (1 - sigma) * MEAN
    error = variance * math.sqrt(2 / clean.size)
    assert centred.mean() == pytest.approx(0, abs=4 * math.sqrt(variance / clean.size))
    assert np.square(centred).mean() == pytest.approx(variance, abs=5 * error)
    inside = (centred[..., 0::2] * centred[..., 1::2]).mean()
    across = (centred[..., 1:-1:2] * centred[..., 2::2]).mean()
    assert inside == pytest.approx(kept, abs=5 * error)
    assert across == pytest.approx(0, abs=5 * error)
    # Given the small clip it is normal about (1 - sigma)·x0, with the noise that comes next from the seed.
    again = NoiseSource(3)
    again.draw(first)
    large = enlarge(clean, (64, 48), "nearest")
    level = np.float32(sigma)
    np.testing.assert_array_equal(start, (np.float32(1) - level) * large + level * again.draw(SHAPE))


def test_going_on_from_the_hand_over_ends_at_the_data() -> None:
    """From x at sigma the exact flow ends at m + s·(x - (1 - sigma)·m) / sqrt(((1 - sigma)·s)² + sigma²)."""
    sigma = 0.7
    source = NoiseSource(5)
    second = recipe(sigmas=[sigma], timesteps=None).second
    assert second is not None
    stage = Stage(SHAPE, fine(sigma, 400))
    clean = MEAN + DEVIATION * source.draw((1, 2, 4, 32, 24))
    start = hand_over(clean, stage, second, source)
    made = sample_euler(lambda x, _, level: velocity(x, level), start, stage.schedule)
    spread = math.sqrt(((1 - sigma) * DEVIATION) ** 2 + sigma**2)
    expected = MEAN + DEVIATION * (start - (1 - sigma) * MEAN) / spread
    assert np.abs(made - expected).max() < 0.02
    assert made.std() == pytest.approx(DEVIATION, rel=0.03)


def test_linear_enlargement_takes_the_variance_that_its_weights_take() -> None:
    rng = np.random.default_rng(0)
    small = rng.standard_normal((1, 1, 1, 400, 400)).astype(np.float32)
    large = enlarge(small, (800, 800), "linear")[0, 0, 0]
    inner = large[2:-2, 2:-2]
    assert inner.var() == pytest.approx((0.75**2 + 0.25**2) ** 2, rel=0.02)
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 1, 1, 4, 6))
    np.testing.assert_allclose(
        enlarge(ramp, (4, 12), "linear")[0, 0, 0, 0], np.clip((np.arange(12) + 0.5) / 2 - 0.5, 0, 5)
    )


@pytest.mark.extras
@pytest.mark.parametrize(("how", "mode"), [("nearest", "nearest-exact"), ("linear", "bilinear")])
@pytest.mark.parametrize("size", [(8, 12), (7, 11), (5, 6), (4, 6)])
def test_enlarging_is_torchs(how: Any, mode: str, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    latents = np.random.default_rng(1).standard_normal((1, 3, 2, 4, 6)).astype(np.float32)
    frames = torch.from_numpy(latents)[0].transpose(0, 1)
    expected = torch.nn.functional.interpolate(frames, size=size, mode=mode).transpose(0, 1).numpy()
    np.testing.assert_allclose(enlarge(latents, size, how)[0], expected, atol=1e-5)  # torch has coordinates in float32


@pytest.mark.parametrize(
    ("scale", "shape", "expected"),
    [
        (0.5, (64, 48), (32, 24)),
        (0.5, (6, 10), (4, 4)),
        (0.01, (6, 10), (2, 2)),
        (0.99, (6, 10), (6, 10)),
        (0.6, (60, 104), (36, 62)),
    ],
)
def test_the_first_size_is_of_whole_patches(scale: float, shape: tuple[int, int], expected: tuple[int, int]) -> None:
    second = recipe(scale=scale).second
    assert second is not None
    assert first_shape(second, GEOMETRY, (1, 2, 3, *shape)) == (1, 2, 3, *expected)


@pytest.fixture
def two_stage_reel(words_copy: Path) -> Path:
    edit_manifest(words_copy, lambda data: data.update(schema=2, recipes=[*data["recipes"], TWO]))
    return words_copy


def test_a_clip_in_two_stages(two_stage_reel: Path) -> None:
    """The latents are those of the parts run one by one; the same seed makes the same clip; progress counts all steps."""
    told: list[tuple[str, int, int]] = []
    size = {"size": (64, 64), "frames": 5, "seed": 8}
    with edgereel.load(two_stage_reel, "cpu", threads=1) as reel:
        video = reel.generate("a red ball", recipe="two", on_progress=lambda *at: told.append(at), **size)
        assert [at for at in told if at[0] == "denoise"] == [
            ("denoise", 0, 4), ("denoise", 1, 4), ("denoise", 2, 4), ("denoise", 2, 4), ("denoise", 3, 4), ("denoise", 4, 4)
        ]  # fmt: skip
        shape = latent_shape(reel.bundle.manifest.latent, 64, 64, 5)
        request = video.request
        first, last = request.stages(reel.bundle.manifest)
        assert (first.shape, last.shape) == ((1, shape[1], 2, 2, 2), shape)
        denoising, _ = reel.prepare(request, OpenRequest("").pictures(request), None)
        source = NoiseSource(8)
        clean = denoising.sample(source.draw(first.shape), source, None, schedule=first.schedule)
        second = request.chosen_recipe(reel.bundle.manifest).second
        assert second is not None
        start = hand_over(clean, last, second, source)
        np.testing.assert_array_equal(denoising.sample(start, source, None, schedule=last.schedule), video.latents)
        assert len(list(video)) == 5
        one = reel.generate("a red ball", recipe="4-step", **size)
        assert not np.array_equal(one.latents, video.latents)
    bundle = open_bundle(two_stage_reel)
    asked = [
        OpenRequest("a", recipe=name, size=(64, 64), frames=5).complete(bundle.manifest) for name in ("two", "4-step")
    ]
    assert [count_runs(bundle.manifest, request)["denoiser"] for request in asked] == [4, 4]
    assert "in stages  at 0.5 of the size, then 2 steps more at all of it, nearest, from sigma 0.75" in describe(bundle)


@pytest.mark.extras
def test_what_a_clip_in_two_stages_takes_is_counted_at_both_sizes(two_stage_reel: Path) -> None:
    pytest.importorskip("onnx")
    bundle = open_bundle(two_stage_reel)

    def flops(name: str, size: tuple[int, int], steps: int | None = None) -> int:
        request = OpenRequest("a", recipe=name, size=size, frames=5, steps=steps).complete(bundle.manifest)
        return count_work(bundle, request)["denoise"].flops

    small, large = flops("2-step", (32, 32)), flops("2-step", (64, 64))
    assert flops("two", (64, 64)) == small + large


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"latents": np.zeros((1, 24, 2, 4, 4), np.float32)}, "samples at a smaller size first, without latents"),
        ({"sampler": "unipc"}, "chooses its own"),
    ],
)
def test_what_two_stages_cannot_have(two_stage_reel: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OpenRequest("a", recipe="two", **asked).complete(open_bundle(two_stage_reel).manifest)


def test_a_sampler_that_cannot_go_on_is_refused(words_copy: Path) -> None:
    rule = {**TWO, "sigmas": None, "timesteps": None, "shift": 3.0}
    edit_manifest(
        words_copy, lambda data: data.update(schema=2, recipes=[{k: v for k, v in rule.items() if v is not None}])
    )
    manifest = open_bundle(words_copy).manifest
    assert OpenRequest("a", steps=7).complete(manifest).steps == 7
    with pytest.raises(
        UsageError, match="goes on from a noise level in its second stage, which unipc cannot: choose euler or sde"
    ):
        OpenRequest("a", sampler="unipc").complete(manifest)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"scale": 1.0}, "less than 1"),
        ({"scale": 0.0}, "greater than 0"),
        ({"upscale": "cubic"}, "nearest"),
        ({"sigmas": [1.0, 0.5]}, "begins at sigma 1"),
        ({"sigmas": [0.5, 0.75]}, "must fall strictly"),
        ({"sigmas": []}, "at least 1 item"),
        ({"timesteps": [500.0]}, "second timesteps has 1 entries for 2 steps"),
    ],
)
def test_second_stages_that_make_no_sense(second: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**second)
    with pytest.raises(ValidationError, match="a second stage is for euler and sde"):
        Recipe.model_validate({**TWO, "sampler": "unipc", "shift": 3.0, "sigmas": None, "timesteps": None})


def test_bundles_with_two_stages_are_of_the_schema_that_has_them(words_copy: Path) -> None:
    old = open_bundle(words_copy).manifest
    assert old.least_schema == 1
    assert "second" not in old.recipes[0].model_dump(mode="json")
    edit_manifest(words_copy, lambda data: data.update(recipes=[TWO]))
    with pytest.raises(BundleError, match="uses what schema 1 does not have"):
        open_bundle(words_copy)
    edit_manifest(words_copy, lambda data: data.update(schema=2))
    manifest = open_bundle(words_copy).manifest
    assert manifest.least_schema == 2
    assert manifest.recipes[0].model_dump(mode="json")["second"] == TWO["second"]
