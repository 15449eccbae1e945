"""What each of Wan's models is sampled with when nothing is asked for, and `--shift`: row 8."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.tiny_wan import write_tiny_wan

from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import ExportOptions, bundle
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.base import Facts
from edgereel.export.families.wan.published.defaults import recommended

ONE = {"experts": 1, "takes_images": False, "timestep_each": False}
MODELS = {
    "2.1 1.3B": (recommended(1536, 16, 3.0, **ONE), (832, 480, 81, 16, 50, 5.0)),
    "2.1 14B at 480p": (recommended(5120, 16, 3.0, **ONE), (832, 480, 81, 16, 50, 5.0)),
    "2.1 14B at 720p": (recommended(5120, 16, 5.0, **ONE), (1280, 720, 81, 16, 50, 5.0)),
    "2.2 5B": (recommended(3072, 48, 5.0, **ONE), (1280, 704, 121, 24, 50, 5.0)),
    "2.2 A14B": (recommended(5120, 16, 3.0, **ONE | {"experts": 2}), (1280, 720, 81, 16, 40, 4.0)),
    "2.2 A14B with pictures": (
        recommended(5120, 16, 5.0, **ONE | {"experts": 2, "takes_images": True}),
        (1280, 720, 81, 16, 40, 3.5),
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_what_is_recommended(model):
    found, expected = MODELS[model]
    assert (found.width, found.height, found.frames, found.fps, found.steps, found.guidance["guidance"]) == expected


def test_sizes_fit_the_model():
    assert recommended(3072, 48, 5.0, **ONE).size(32, 1024) == {"width": 1280, "height": 704, "frames": 121, "fps": 24}
    assert recommended(5120, 16, 5.0, **ONE).size(48, 20) == {"width": 960, "height": 720, "frames": 81, "fps": 16}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("whole") / "checkpoint", depth=1, vae_levels=2)


def facts(folder: Path, **options) -> Facts:
    """Return what an export would put into the manifest."""
    request = ExportOptions(folder, folder.parent / "x.reel", **options).complete()
    checkpoint = open_checkpoint(folder, recipe=bundle._recipe_name(request), shift=request.shift)
    return bundle._chosen_facts(open_family(checkpoint).facts, checkpoint, request)


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | changes), encoding="utf-8")


def test_expanded_timesteps_are_the_5b(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    edit(folder / "model_index.json", expand_timesteps=True)
    assert (facts(folder).defaults.fps, facts(folder).defaults.frames) == (24, 121)
    (folder / "edgereel.json").write_text('{"defaults": {"fps": 12}}')
    assert (facts(folder).defaults.fps, facts(folder).defaults.frames) == (12, 121)


def test_two_experts_have_their_own_guidance(tmp_path):
    folder = write_tiny_wan(tmp_path / "checkpoint", depth=1, vae_levels=2, experts=True)
    own = facts(folder).recipes[0]
    assert (own.steps, own.guidance, own.expert_guidance, own.shift) == (40, 4.0, [4.0, 3.0], 3.0)
    published = facts(folder, recipe="wan22-a14b").recipes[0]
    assert (published.shift, published.steps, published.expert_guidance, published.boundary) == (12, 40, [4, 3], 0.875)


def test_a_recipe_of_two_experts_on_a_model_of_one(whole):
    chosen = facts(whole, recipe="wan22-a14b").recipes[0]
    assert (chosen.boundary, chosen.expert_guidance, chosen.guidance) == (None, None, 4)


def test_shift(whole, tmp_path):
    assert [recipe.shift for recipe in facts(whole, shift=7.5).recipes] == [7.5, 7.5]
    chosen, *_own = facts(whole, recipe="self-forcing", shift=8).recipes
    assert (chosen.name, chosen.warp, chosen.shift) == ("self-forcing", [1000, 750, 500, 250], 8)
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    own = [{"name": name, "sampler": name, "steps": 2, "shift": 3.0, "guidance": 1.0} for name in ("euler", "unipc")]
    (folder / "edgereel.json").write_text(json.dumps({"recipes": own}))
    assert [recipe.shift for recipe in facts(folder, shift=4).recipes] == [4, 4]
    (folder / "edgereel.json").unlink()
    edit(folder / "scheduler" / "scheduler_config.json", flow_shift=None)
    with pytest.raises(CheckpointError, match="flow_shift is None, not a number above 0; set it, or give --shift"):
        facts(folder)
    assert facts(folder, shift=3).recipes[0].shift == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 0}, r"--shift 0: the shift is a number above 0"),
        ({"shift": -3}, r"--shift -3: "),
        ({"shift": float("nan")}, r"--shift nan: "),
        ({"shift": 1e9}, r"--shift 1e\+09: "),
        ({"shift": 3, "recipe": "fastwan"}, r"the recipe fastwan lists its noise levels as they are and has no shift"),
        ({"fused_as": "int8"}, r"fused as 'int8' is unknown: choose fp32 or bf16"),
    ],
)
def test_what_cannot_be_asked_for(options, message, whole):
    with pytest.raises(UsageError, match=message):
        facts(whole, **options)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"name": ""}, "at least 1 character"),
        ({"license": 3}, "valid string"),
        (
            {
                "recipes": [
                    {
                        "name": "x",
                        "sampler": "euler",
                        "steps": 2,
                        "shift": 3.0,
                        "guidance": 1.0,
                        "expert_guidance": [1.0, 2.0],
                    }
                ]
            },
            "guidance for 2 of 1 denoisers",
        ),
        (
            {
                "recipes": [
                    {"name": "x", "sampler": "euler", "steps": 2, "shift": 3.0, "guidance": 1.0, "boundary": 0.5}
                ]
            },
            "a boundary between two denoisers",
        ),
    ],
)
def test_what_the_manifest_would_refuse_is_refused_before_any_work(own, message, whole, tmp_path, monkeypatch):
    from edgereel.export import export_checkpoint

    folder = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    (folder / "edgereel.json").write_text(json.dumps(own))
    monkeypatch.setattr("edgereel.export.bundle.new_bundle_folder", lambda *_: pytest.fail("begun"))
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(folder, tmp_path / "x.reel")
