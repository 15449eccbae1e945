from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.small_bundle import write_small_bundle

from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import GeometryError, UsageError
from edgereel.runtime.request import OpenRequest

pytestmark = pytest.mark.lean

LATENTS = np.zeros((1, 2, 2, 4, 2), np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return open_bundle(write_small_bundle(tmp_path_factory.mktemp("request") / "small.reel")).manifest


def test_everything_left_open_comes_from_the_bundle(manifest):
    request = OpenRequest("a red ball").complete(manifest)
    assert request.settings() == {
        "prompt": "a red ball",
        "negative_prompt": "",
        "seed": 0,
        "steps": 3,
        "guidances": (4.0,),
        "sampler": "unipc",
        "shift": 3.0,
        "recipe": "best",
        "width": 32,
        "height": 16,
        "frames": 9,
        "fps": 8,
        "own_latents": False,
    }
    json.dumps(request.settings(), allow_nan=False)


def test_what_is_asked_for_goes_before_the_recipe(manifest):
    asked = OpenRequest("a", recipe="quick", steps=7, guidance=2, seed=5, size=(16, 48), frames=1, fps=30)
    request = asked.complete(manifest)
    assert (request.recipe, request.sampler, request.steps, request.guidances) == ("quick", "euler", 7, (2.0,))
    assert (request.seed, request.width, request.height, request.frames, request.fps) == (5, 16, 48, 1, 30)
    assert OpenRequest("a", recipe="quick", sampler="unipc").complete(manifest).sampler == "unipc"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sampler": "magic"}, "unknown sampler 'magic': choose from euler, rcm, sde, unipc"),
        ({"recipe": "worst"}, "no recipe 'worst': choose from best, quick"),
        ({"steps": 0}, "0 steps are not possible with unipc: choose from 1 to 1000"),
        ({"steps": 10**30}, "choose from 1 to 1000"),
        ({"guidance": -0.1}, "choose from 0 to 100"),
        ({"guidance": 101}, "choose from 0 to 100"),
        ({"guidance": float("nan")}, "guidance nan is not possible"),
        ({"guidance": float("inf")}, "guidance inf is not possible"),
        ({"guidance": 1.0, "negative_prompt": "square"}, "a negative prompt has no effect at guidance 1"),
        ({"fps": 0}, "0 frames per second are not possible"),
        ({"fps": 241}, "choose from 1 to 240"),
        ({"size": (33, 16)}, "the nearest is 32x16"),
        ({"size": (0, 0)}, "the nearest is 16x16"),
        ({"frames": 8}, "the nearest is 9"),
        ({"latents": LATENTS[0]}, r"takes \[1, 2, F, H, W\]"),
        ({"latents": LATENTS[:, :1]}, r"takes \[1, 2, F, H, W\]"),
        ({"latents": LATENTS[:, :, :0]}, r"shape \[1, 2, 0, 4, 2\]"),
        ({"latents": LATENTS.astype(np.float64)}, "latents are float64: they must be float32"),
        ({"latents": LATENTS.astype(">f4")}, "they must be float32"),
        ({"latents": LATENTS.tolist()}, "latents are a list: they must be a numpy array"),
        ({"latents": LATENTS + np.float32("nan")}, "not finite"),
        ({"latents": LATENTS[..., :1]}, "size 8x32 is not possible with this model: the nearest is 16x32"),
        ({"latents": LATENTS, "size": (32, 16)}, "make 5 frames of 16x32, not what was asked for"),
        ({"latents": LATENTS, "frames": 9}, "make 5 frames of 16x32, not what was asked for"),
    ],
)
def test_what_cannot_be_done(manifest, asked, message):
    with pytest.raises(UsageError, match=message):
        OpenRequest("a red ball", **asked).complete(manifest)


def test_latents_decide_size_and_length(manifest):
    request = OpenRequest("a", latents=LATENTS, size=(16, 32), frames=5).complete(manifest)
    assert (request.width, request.height, request.frames, request.own_latents) == (16, 32, 5, True)
    assert OpenRequest("a", latents=LATENTS).complete(manifest).frames == 5


def test_a_size_is_a_geometry_error(manifest):
    with pytest.raises(GeometryError):
        OpenRequest("a", size=(1, 1)).complete(manifest)
