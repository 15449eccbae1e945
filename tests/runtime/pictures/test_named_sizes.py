"""Shapes by name: made at the nearest size that the model can do, and cut out of it."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from conftest import DEMO_REEL

from edgereel.bundle.geometry import latent_shape
from edgereel.core.errors import UsageError
from edgereel.media.presets import presets
from edgereel.runtime.latents_file import latents_path, read_video, write_latents
from edgereel.runtime.pictures.named_sizes import shape_size
from edgereel.runtime.reel import load
from edgereel.runtime.request import OpenRequest

pytestmark = pytest.mark.lean
BALL = "a red ball bounces over the ocean"


@pytest.fixture(scope="module")
def demo():
    with load(DEMO_REEL, "cpu", threads=1, cache=False) as reel:
        yield reel


def test_all_shapes_are_cut_out_of_sizes_that_the_model_makes(demo):
    manifest = demo.bundle.manifest
    own = manifest.defaults.width * manifest.defaults.height
    for name, preset in presets().items():
        size = shape_size(manifest, name)
        assert size is not None
        latent_shape(manifest.latent, *size.made, 1)
        assert all(shown <= made and shown % 2 == 0 for shown, made in zip(size.shown, size.made, strict=True))
        # Two sides are even, so a shape is met to two pixels of its shorter side.
        ratio = preset.width / preset.height
        assert abs(size.shown[0] - size.shown[1] * ratio) <= 2 * max(1, ratio)
        assert size.shown[0] * size.shown[1] > 0.5 * own


def test_pictures_of_a_shape_are_the_middle_of_those_that_are_made(demo, tmp_path):
    sizes = shape_size(demo.bundle.manifest, "vertical")
    assert sizes is not None
    video = demo.generate(BALL, size="vertical", seed=3, frames=5)
    made = np.stack(list(demo.generate(BALL, size=sizes.made, seed=3, frames=5)))
    width, height = video.request.shown_size
    assert (width, height) == sizes.shown
    shown = np.stack(list(video))
    left, top = (sizes.made[0] - width) // 2, (sizes.made[1] - height) // 2
    middle = made[:, top : top + height, left : left + width]
    assert shown.shape == middle.shape
    assert np.abs(shown.astype(int) - middle).mean() < 3  # half pixels, where the difference is odd
    assert np.array_equal(np.stack(list(video.made_pictures())), made)
    with av.open(str(video.save(tmp_path / "clip.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == sizes.shown
        assert json.loads(container.metadata["comment"])["shown"] == list(sizes.shown)
    kept = latents_path(tmp_path / "clip.mp4")
    write_latents(kept, video, demo.bundle)
    assert read_video(kept, demo).request == video.request


def test_the_bundles_own_sizes_are_shown_whole(demo):
    defaults = demo.bundle.manifest.defaults
    for size, wanted in [(None, (defaults.width, defaults.height)), *defaults.formats.items()]:
        request = OpenRequest(BALL, size=size).complete(demo.bundle.manifest)
        assert (request.shown, request.shown_size) == (None, tuple(wanted))
        assert "shown" not in request.settings()


def test_an_unknown_shape_names_those_there_are(demo):
    with pytest.raises(UsageError, match=r"there is no format 'round': choose from .*vertical"):
        OpenRequest(BALL, size="round").complete(demo.bundle.manifest)


def test_generate_takes_a_shape(run, tmp_path, words_reel):
    short = ("--frames", 5, "--json", "--threads", 1)
    code, out, _ = run("generate", BALL, "-o", tmp_path / "a.mp4", "--size", "wide", "--bundle", words_reel, *short)
    assert code == 0
    shown = json.loads(out)["settings"]["shown"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert [stream.width, stream.height] == shown
        assert stream.width > 1.6 * stream.height
    code, out, _ = run("generate", BALL, "-o", tmp_path / "a.mp4", "--size", "wide", *short)
    settings = json.loads(out)["settings"]
    assert (code, settings["width"], settings["height"]) == (0, 160, 96), "the model's own format of that name"
