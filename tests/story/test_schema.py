"""The published schema, and the story that one begins with."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO_REEL, ROOT

from edgereel.core.errors import OutputError, UsageError
from edgereel.runtime.batch import ReelOptions
from edgereel.story.film.film import FilmOptions, describe_film
from edgereel.story.script.beginning import write_beginning
from edgereel.story.script.schema import campaign_schema, story_schema


def test_the_published_one_is_that_of_the_code():
    for name, schema in (("story", story_schema()), ("campaign", campaign_schema())):
        assert json.loads((ROOT / "docs" / f"{name}.schema.json").read_text(encoding="utf-8")) == schema


def test_the_first_story_is_one_that_the_demo_makes(tmp_path):
    path = write_beginning(tmp_path / "film.yaml")
    facts = describe_film(path, FilmOptions(bundle=DEMO_REEL), ReelOptions("cpu", 1))
    assert len(facts["scenes"]) == 4
    with pytest.raises(OutputError, match="is there already"):
        write_beginning(path)
    with pytest.raises(UsageError, match="yaml"):
        write_beginning(tmp_path / "film.txt")
