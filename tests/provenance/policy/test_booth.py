"""The shipped policies on prompts that try not to be seen, and on harmless ones that look alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgereel.provenance.policy.screen import Policy, PromptRefused

pytestmark = pytest.mark.lean

HERE = Path(__file__).parent
UNREADABLE = {"euphemism", "misspelled", "split"}
"""Ways that a reader of words does not see through: half of these and more is missed, and said so in docs/provenance.md."""


def lines(name):
    text = (HERE / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def evasive():
    for line in lines("evasive.txt"):
        way, prompt = line.split("\t")
        # The invisible characters are written out in the file.
        yield (
            way,
            re.sub(r"\\u([0-9a-f]{4})|\\x([0-9a-f]{2})", lambda found: chr(int(found[1] or found[2], 16)), prompt),
        )


@pytest.fixture(scope="module")
def booth():
    return Policy.read("booth")


def test_evasions_are_seen_through(booth):
    rows = list(evasive())
    assert len(rows) >= 350
    missed = [(way, prompt) for way, prompt in rows if booth.screen(prompt).prompt is not None]
    seen_through = [(way, prompt) for way, prompt in missed if way not in UNREADABLE]
    assert len(seen_through) <= 3, seen_through
    assert len(missed) <= 23, missed


def test_harmless_prompts_pass(booth):
    rows = lines("innocent.txt")
    assert len(rows) == len(set(rows)) >= 350
    refused = [row for row in rows if booth.screen(row).prompt is None]
    assert len(refused) <= 3, refused


def test_the_demos_prompts_pass(booth):
    from edgereel.core.paths import demo_bundle_path

    assert demo_bundle_path().exists()
    for prompt in ("a red ball bounces over the ocean", "a blue square slides over the desert"):
        assert booth.check(prompt) == prompt


def test_the_private_policy_refuses_little():
    private = Policy.read("private")
    assert all(private.screen(row).prompt == row for row in lines("innocent.txt"))
    assert private.check("a murder in the kitchen, a nude by Titian") == "a murder in the kitchen, a nude by Titian"
    assert private.uploads
    with pytest.raises(PromptRefused, match="minors"):
        private.check("a naked chi1d")


@pytest.mark.parametrize(
    "prompt", ["Emma Watson waves", "barack 0bama surfs", "Peter Müller, my neighbour", "T.a.y.l.o.r swift"]
)
def test_real_people_are_refused(booth, prompt):
    with pytest.raises(PromptRefused, match="real person"):
        booth.check(prompt)


@pytest.mark.parametrize(
    "prompt", ["Alice in Wonderland", "Peter Pan flies", "alice paints a house", "Adam. Then night falls"]
)
def test_figures_and_first_names_pass(booth, prompt):
    assert booth.check(prompt) == prompt


def test_visitors_pictures_need_the_owners_switch(booth):
    booth.check_pictures(0)
    with pytest.raises(Exception, match=r"pictures\.uploads"):
        booth.check_pictures(1)
