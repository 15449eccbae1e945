"""The stories of examples/: planned here, made and looked at by the scorer in the full run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL, ROOT

from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.reel import load
from edgereel.story.campaign.rows import campaign_rows, read_campaign
from edgereel.story.film.film import FilmOptions, load_story, make_film
from edgereel.story.film.plan import plan_film
from edgereel.story.film.scenes import SceneMaker
from edgereel.story.film.store import Store

STORIES = ROOT / "examples" / "stories"
WAYS = {"film": [None], "tale": [(1, 1), (2, 2), (1, 3, 2, 1)], "lesson": [(2,), (1, 2)]}


@pytest.fixture(scope="module")
def demo():
    with load(DEMO_REEL, "cpu", threads=1, cache=False) as reel:
        yield reel


@pytest.mark.parametrize("name", WAYS)
def test_every_way_through_them_can_be_made(demo, name):
    file, lettering = load_story(STORIES / f"{name}.yaml")
    for choices in WAYS[name]:
        plan = plan_film(file, demo, choices=choices, lettering=lettering)
        assert plan.seconds < 60
    if name == "film":
        assert len(plan.scenes) == 8


def test_the_campaign_has_200_rows(demo):
    rows = campaign_rows(read_campaign(STORIES / "campaign.yaml"), demo)
    assert len(rows) == 200
    assert len({row.key for row in rows}) == 200


def test_there_is_no_other_file():
    named = {*(f"{name}.yaml" for name in WAYS), "campaign.yaml", "README.md", "tune.wav", "bell.wav"}
    assert {path.name for path in STORIES.iterdir()} == named


@pytest.mark.full
@pytest.mark.parametrize("name", WAYS)
def test_made_they_show_what_they_tell(tmp_path: Path, name: str):
    from edgereel.demo.clips import subjects
    from edgereel.demo.scorer import read

    known = {caption: subject for subject in subjects() for caption in subject.captions()}
    choices = WAYS[name][0]
    record = make_film(
        STORIES / f"{name}.yaml", tmp_path / "film.mp4", FilmOptions(DEMO_REEL, choices=choices), ReelOptions("cpu", 1)
    )
    right = []
    with load(DEMO_REEL, "cpu", threads=1) as reel:
        file, lettering = load_story(STORIES / f"{name}.yaml")
        plan = plan_film(file, reel, choices=choices, lettering=lettering)
        maker = SceneMaker(plan, reel, Store())
        for index, scene in enumerate(plan.scenes):
            if scene.request is not None:
                reading = read(np.stack(list(maker.video(index))))
                right += reading.matches(known[scene.request.prompt]).values()
    assert record["pictures"] == plan.pictures
    assert np.mean(right) >= 0.95
