"""The words of prompts in a manifest: bounded, whole sentences, any schema, absent where there are none."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO_REEL
from helpers.small_bundle import edit, refused, write_small_bundle

from edgereel.bundle.reader import open_bundle
from edgereel.bundle.vocabulary import Vocabulary, prompt_words
from edgereel.bundle.writer import write_manifest

pytestmark = pytest.mark.lean

GROUPS = [{"name": "colour", "words": ["red", "orange"]}, {"name": "place", "words": ["at sea"], "optional": True}]


def vocabulary(groups=GROUPS, templates=("{a} {colour} ball {place}",)):
    return {"groups": groups, "templates": list(templates)}


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


def test_a_sentence_has_the_article_that_its_word_wants():
    words = Vocabulary.model_validate(vocabulary())
    assert words.sentence({"colour": "orange", "place": "at sea"}) == "an orange ball at sea"
    assert words.sentence({"colour": "red"}) == "a red ball"
    with pytest.raises(KeyError):
        words.sentence({"place": "at sea"})


def test_words_in_a_bundle_change_no_schema_and_are_read_as_written(reel, tmp_path):
    edit(reel, lambda data: data.update(vocabulary=vocabulary(), examples=["a red ball at sea"]))
    manifest = open_bundle(reel).manifest
    assert manifest.least_schema == 1
    write_manifest(tmp_path, manifest)
    written = json.loads((tmp_path / "reel.json").read_text(encoding="utf-8"))
    assert (written["vocabulary"], written["examples"]) == (vocabulary(), ["a red ball at sea"])
    assert prompt_words(manifest) == {"vocabulary": vocabulary(), "examples": ["a red ball at sea"]}


def test_a_bundle_without_words_says_so(reel):
    manifest = open_bundle(reel).manifest
    assert not {"vocabulary", "examples"} & set(manifest.to_json())
    assert prompt_words(manifest) == {"vocabulary": None, "examples": []}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (vocabulary(templates=["{a} {shade} {colour}"]), "no group for shade"),
        (vocabulary(templates=["{a} ball {place}"]), "leaves out colour"),
        (vocabulary(templates=["{a} {colour} {"]), "brace that stands alone"),
        (vocabulary(groups=GROUPS * 2), "not unique"),
        (vocabulary(groups=[{"name": "a", "words": ["x"]}], templates=["{a}"]), "not unique, or one is a"),
        (vocabulary(groups=[{"name": "colour", "words": ["red", "red"]}]), "twice"),
        (vocabulary(groups=[{"name": "colour", "words": [f"w{i}" for i in range(65)]}]), "at most 64"),
        (vocabulary(groups=[{"name": "colour", "words": ["{a}"]}]), "pattern"),
        (vocabulary(groups=[{"name": "colour", "words": ["x" * 61]}]), "pattern"),
        (vocabulary(templates=["{colour}" * 100]), "pattern"),
        (vocabulary(templates=[]), "at least 1"),
    ],
)
def test_what_a_vocabulary_may_not_be(reel, words, part):
    edit(reel, lambda data: data.update(vocabulary=words))
    assert part in refused(reel)


@pytest.mark.parametrize("examples", [["x" * 501], ["line\nbreak"], ["x"] * 33, [""]])
def test_examples_are_bounded(reel, examples):
    edit(reel, lambda data: data.update(examples=examples))
    assert "examples" in refused(reel)


def test_the_demo_says_its_words():
    words = prompt_words(open_bundle(DEMO_REEL).manifest)
    assert [group["name"] for group in words["vocabulary"]["groups"]] == ["colour", "shape", "motion", "place"]
    assert "a red ball bounces over the ocean" in words["examples"]
