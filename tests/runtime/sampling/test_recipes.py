"""Recipes: the published ones against the tables they come from, what a manifest may say, what a caller may change."""

from __future__ import annotations

import json

import pytest
from helpers.small_bundle import write_small_bundle
from pydantic import ValidationError

from edgereel.bundle.manifest import Recipe
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import BundleError, UsageError
from edgereel.export.catalogue import put_first
from edgereel.export.families.wan.recipes import WAN_RECIPES
from edgereel.runtime.describe import describe
from edgereel.runtime.request import OpenRequest
from edgereel.runtime.sampling.recipes import schedule_of

pytestmark = pytest.mark.lean

PUBLISHED = {recipe.name: recipe for recipe in WAN_RECIPES}
WARPED_BY_5 = [1, 0.9375, 0.83333, 0.625, 0]
# As the papers' tables and programs list them, by hand: sampler, sigmas with the final 0.
LISTED = {
    "self-forcing": ("sde", WARPED_BY_5),
    "causvid-3": ("sde", [1, 0.757, 0.522, 0]),
    "causvid-4": ("sde", [1, 0.96, 0.88889, 0.72727, 0]),
    "fastwan": ("sde", [1, 0.757, 0.522, 0]),
    "lightx2v-4": ("euler", WARPED_BY_5),
    "lightx2v-4-lcm": ("sde", WARPED_BY_5),
    "rcm": ("rcm", [0.98765, 0.93378, 0.85290, 0.60898, 0]),
}
# (steps, shift, guidance)
UNDISTILLED = {
    "wan-480p": (50, 3.0, 5),
    "wan-720p": (50, 5.0, 5),
    "wan22-5b": (50, 5.0, 5),
    "wan22-a14b": (40, 12.0, 4),
}


@pytest.mark.parametrize("name", LISTED)
def test_published_recipes_reproduce_their_noise_levels_from_their_rule(name):
    sampler, sigmas = LISTED[name]
    recipe = PUBLISHED[name]
    schedule = schedule_of(recipe)
    assert (recipe.sampler, recipe.steps) == (sampler, len(sigmas) - 1)
    assert schedule.sigmas.tolist() == pytest.approx(sigmas, abs=5e-6)
    assert schedule.timesteps.tolist() == pytest.approx([1000 * sigma for sigma in sigmas[:-1]], abs=5e-3)


def test_every_published_recipe_is_checked_and_says_where_it_was_read():
    assert set(PUBLISHED) == set(LISTED) | set(UNDISTILLED)
    assert all(recipe.source for recipe in WAN_RECIPES)
    assert all(PUBLISHED[name].guidance == 1 for name in LISTED)
    for name, settings in UNDISTILLED.items():
        recipe = PUBLISHED[name]
        assert (recipe.sampler, (recipe.steps, recipe.shift, recipe.guidance)) == ("unipc", settings)
    assert PUBLISHED["wan22-a14b"].expert_guidance == [4, 3]


@pytest.mark.parametrize(
    ("steps", "sigmas"),
    [(1, [0.98765, 0]), (2, [0.98765, 0.93378, 0]), (3, [0.98765, 0.93378, 0.85290, 0])],
)
def test_rcm_in_fewer_steps(steps, sigmas):
    assert schedule_of(PUBLISHED["rcm"], steps=steps).sigmas.tolist() == pytest.approx(sigmas, abs=5e-6)


def test_the_rule_of_sde_is_the_published_warp_at_four_steps():
    rule = Recipe(name="rule", sampler="sde", steps=4, shift=5, guidance=1)
    assert schedule_of(rule).sigmas.tolist() == pytest.approx(schedule_of(PUBLISHED["self-forcing"]).sigmas.tolist())


def test_sigmas_may_go_with_timesteps_of_their_own():
    both = Recipe(name="both", sampler="euler", steps=2, sigmas=[1, 0.5], timesteps=[999, 499], guidance=1)
    assert schedule_of(both).sigmas.tolist() == [1, 0.5, 0]
    assert schedule_of(both).timesteps.tolist() == [999, 499]
    alone = Recipe(name="alone", sampler="euler", steps=2, sigmas=[1, 0.25], guidance=1, train_timesteps=500)
    assert schedule_of(alone).timesteps.tolist() == [500, 125]


COMMON = {"name": "best", "sampler": "sde", "steps": 2, "guidance": 1.0}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, "sde needs shift or a list"),
        ({"sampler": "euler"}, "euler needs shift"),
        ({"sampler": "rcm", "shift": 3.0}, "rcm needs sigma_max"),
        ({"sampler": "rcm", "sigma_max": 80.0, "steps": 5}, "rcm takes 1 to 4 steps, not 5"),
        (
            {"sampler": "rcm", "sigma_max": 80.0, "sigmas": [1, 0.5]},
            "rcm chooses its own noise levels and takes no sigmas",
        ),
        ({"sampler": "unipc", "shift": 5.0, "warp": [1000, 500]}, "unipc chooses its own noise levels"),
        ({"warp": [1000, 500]}, "warp needs shift"),
        ({"warp": [1000, 500], "shift": 5.0, "sigmas": [1, 0.5]}, "warp needs shift, and neither timesteps nor sigmas"),
        ({"timesteps": [1000, 500], "shift": 5.0}, "shift does not apply to timesteps"),
        ({"timesteps": [1000, 500, 250]}, "timesteps has 3 entries for 2 steps"),
        ({"timesteps": [500, 1000]}, "must fall strictly"),
        ({"timesteps": [500, 500]}, "must fall strictly"),
        ({"timesteps": [1001, 500]}, "from at most 1000"),
        ({"timesteps": [1000, 0]}, "greater than 0"),
        ({"timesteps": [1000, float("nan")]}, "finite"),
        ({"timesteps": ["1000", 500]}, "valid number"),
        ({"sigmas": [1.01, 0.5]}, "less than or equal to 1"),
        ({"sigmas": []}, "at least 1 item"),
        ({"sampler": "magic", "shift": 3.0}, "sampler"),
        ({"shift": 3.0, "boundary": 1.0}, "less than 1"),
        ({"shift": 3.0, "expert_guidance": [-1.0]}, "greater than or equal to 0"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(change, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Recipe.model_validate(COMMON | change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"timesteps": [1000.0]}, "timesteps has 1 entries for 2 steps"),
        ({"shift": 3.0, "expert_guidance": [4.0, 3.0]}, "guidance for 2 of 1 denoisers"),
        ({"shift": 3.0, "boundary": 0.875}, "boundary between two denoisers, but there are 1"),
    ],
)
def test_a_bundle_with_such_a_recipe_is_refused(tmp_path, change, complaint):
    folder = write_small_bundle(tmp_path / "small.reel", lambda data: data.update(recipes=[COMMON | change]))
    with pytest.raises(BundleError, match=complaint):
        open_bundle(folder)


def test_a_recipe_is_written_with_what_it_says_and_no_more():
    written = {**COMMON, "timesteps": [1000.0, 500.0], "train_timesteps": 1000, "source": "", "later": None}
    recipe = Recipe.model_validate(written)
    assert recipe.model_dump(mode="json") == written
    assert json.loads(recipe.model_dump_json()) == written
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """The small bundle with every published recipe after its own two (unipc and euler, by rule)."""

    def add(data):
        alone = [recipe.model_copy(update={"boundary": None, "expert_guidance": None}) for recipe in WAN_RECIPES]
        data["recipes"] += [recipe.model_dump(mode="json") for recipe in alone]

    return open_bundle(write_small_bundle(tmp_path_factory.mktemp("recipes") / "small.reel", add)).manifest


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("best", "unipc", 3)),
        ({"recipe": "self-forcing"}, ("self-forcing", "sde", 4)),
        ({"recipe": "self-forcing", "steps": 4}, ("self-forcing", "sde", 4)),
        ({"recipe": "self-forcing", "sampler": "euler"}, ("self-forcing", "euler", 4)),
        ({"recipe": "lightx2v-4", "sampler": "sde"}, ("lightx2v-4", "sde", 4)),
        ({"recipe": "rcm"}, ("rcm", "rcm", 4)),
        ({"recipe": "rcm", "steps": 1}, ("rcm", "rcm", 1)),
        ({"sampler": "sde", "steps": 4}, ("best", "sde", 4)),
        ({"recipe": "best", "sampler": "euler", "steps": 9}, ("best", "euler", 9)),
    ],
)
def test_what_a_caller_may_change(manifest, asked, expected):
    request = OpenRequest("a", **asked).complete(manifest)
    assert (request.recipe, request.sampler, request.steps) == expected


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            {"recipe": "self-forcing", "steps": 3},
            "self-forcing lists the noise levels of 4 steps, so 3 are not possible",
        ),
        ({"recipe": "fastwan", "steps": 4}, "fastwan lists the noise levels of 3 steps, so 4 are not possible"),
        ({"recipe": "lightx2v-4", "steps": 0}, "of 4 steps, so 0 are not possible"),
        ({"recipe": "rcm", "steps": 5}, "5 steps are not possible with rcm: choose from 1 to 4"),
        ({"recipe": "rcm", "steps": 0}, "0 steps are not possible with rcm: choose from 1 to 4"),
        ({"recipe": "self-forcing", "sampler": "unipc"}, "unipc chooses its own: choose from euler, sde"),
        ({"recipe": "self-forcing", "sampler": "rcm"}, "rcm chooses its own: choose from euler, sde"),
        ({"recipe": "rcm", "sampler": "euler"}, "rcm has no shift, which the sampler euler needs"),
        ({"sampler": "rcm", "steps": 4}, "best has no sigma_max, which the sampler rcm needs"),
        ({"recipe": "self-forcing", "sampler": "magic"}, "unknown sampler 'magic': choose from euler, rcm, sde, unipc"),
        ({"recipe": "self-forcing", "negative_prompt": "red"}, "a negative prompt has no effect at guidance 1"),
    ],
)
def test_what_a_caller_may_not_change(manifest, asked, complaint):
    with pytest.raises(UsageError, match=complaint):
        OpenRequest("a", **asked).complete(manifest)


def test_steps_alone_choose_among_listed_recipes(tmp_path):
    def add(data):
        own = [dict(COMMON, name=f"{n}-step", steps=n, timesteps=[1000 - 100 * k for k in range(n)]) for n in (4, 1, 2)]
        data["recipes"] = [*own, *data["recipes"]]

    manifest = open_bundle(write_small_bundle(tmp_path / "small.reel", add)).manifest
    assert [OpenRequest("a", steps=n).complete(manifest).recipe for n in (None, 4, 1, 2)] == ["4-step"] * 2 + [
        "1-step",
        "2-step",
    ]
    with pytest.raises(
        UsageError, match="3 steps are not possible: this bundle's recipes list the noise levels of 1, 2, 4"
    ):
        OpenRequest("a", steps=3).complete(manifest)
    with pytest.raises(UsageError, match="4-step lists the noise levels of 4 steps, so 2 are not possible"):
        OpenRequest("a", recipe="4-step", steps=2).complete(manifest)


def test_inspect_shows_recipes_in_full(tmp_path):
    def add(data):
        recipes = [PUBLISHED[name] for name in ("causvid-4", "fastwan", "rcm")]
        data["recipes"] = [recipe.model_dump(mode="json") for recipe in recipes]

    lines = describe(open_bundle(write_small_bundle(tmp_path / "small.reel", add))).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("recipe"))
    assert [" ".join(line.split()) for line in lines[start : start + 12]] == [
        "recipe causvid-4 (default): sde, 4 steps, shift 8 of 1000 750 500 250, guidance 1",
        "sigmas 1 0.96 0.88889 0.72727 0",
        "timesteps 1000 960 888.889 727.273",
        f"source {PUBLISHED['causvid-4'].source}",
        "recipe fastwan: sde, 3 steps, listed noise levels, guidance 1",
        "sigmas 1 0.757 0.522 0",
        "timesteps 1000 757 522",
        f"source {PUBLISHED['fastwan'].source}",
        "recipe rcm: rcm, 4 steps, sigma_max 80, guidance 1",
        "sigmas 0.98765 0.93378 0.8529 0.60898 0",
        "timesteps 987.654 933.781 852.895 608.979",
        f"source {PUBLISHED['rcm'].source}",
    ]


def test_a_recipe_chosen_at_export_goes_first():
    own = [Recipe(name=name, sampler="euler", steps=2, shift=3, guidance=5) for name in ("unipc", "rcm")]
    assert [recipe.name for recipe in put_first("self-forcing", WAN_RECIPES, own, 1)] == [
        "self-forcing",
        "unipc",
        "rcm",
    ]
    assert put_first("rcm", WAN_RECIPES, own, 1) == [PUBLISHED["rcm"], own[0]]
    assert put_first("lightx2v-4", WAN_RECIPES, own, 1)[0].boundary is None
    assert put_first("lightx2v-4", WAN_RECIPES, own, 2)[0].boundary == 0.875
    with pytest.raises(UsageError, match=r"unknown recipe 'magic': choose from self-forcing, causvid-3, .*, wan-720p"):
        put_first("magic", WAN_RECIPES, own, 1)
