"""Checking many prompts at once says what checking each would, with the number of the prompt, and tells how far it is."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import DEMO_REEL
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bundle.reader import peek_bundle
from edgereel.core.errors import Cancelled, PromptError
from edgereel.runtime.text import tokens
from edgereel.runtime.text.tokens import PromptTokenizer, clean_prompt

pytestmark = pytest.mark.lean

RULES = peek_bundle(DEMO_REEL).manifest.text
GOOD = "a red ball bounces over the ocean"


@pytest.fixture(scope="module")
def tokenizer():
    return PromptTokenizer(DEMO_REEL / "tokenizer.json", RULES)


def test_good_prompts_pass_and_progress_is_told(tokenizer):
    calls = []
    tokenizer.check_all([GOOD] * 600, lambda *call: calls.append(call))
    assert calls == [("prompts", done, 600) for done in (0, 256, 512, 600)]
    tokenizer.check_all([])


@pytest.mark.parametrize("place", [0, 1, 255, 256, 511, 599])
@pytest.mark.parametrize(
    "wrong",
    ["", "a red zeppelin", "a " * 40, "a \x00 ball", None, "a" * 40_000, "a red &#x81; ball"],
    ids=["empty", "unknown", "long", "no text", "none", "longer", "hidden"],
)
def test_the_first_prompt_that_is_wrong_is_named_by_its_number(tokenizer, place, wrong):
    prompts = [GOOD] * 600
    prompts[place] = wrong
    if place < 599:
        prompts[599] = "another xylophone"
    with pytest.raises(PromptError) as alone:
        tokenizer.encode(wrong)
    with pytest.raises(PromptError) as caught:
        tokenizer.check_all(prompts)
    assert str(caught.value) == f"prompt {place + 1} of 600, {str(wrong)[:60]!r}: {alone.value}"


def test_checking_can_be_cancelled(tokenizer):
    with pytest.raises(Cancelled):
        tokenizer.check_all([GOOD] * 600, lambda stage, done, total: done < 256)


def test_the_library_starts_no_threads_of_its_own(tokenizer, monkeypatch):
    """With them it would write a warning whenever the process forks later."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    tokenizer.encode(GOOD)
    assert tokens.os.environ["TOKENIZERS_PARALLELISM"] == "false"


@settings(max_examples=200)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_plain_text_is_cleaned_as_any_other(text):
    """What is printable ASCII without an ampersand takes a shorter way, which must end at the same text."""
    ftfy = pytest.importorskip("ftfy")
    import html

    long_way = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert clean_prompt(text, ["fix_text", "html_unescape"]) == long_way


def test_ids_are_those_of_one_prompt_at_a_time(tokenizer):
    """A batch of several lengths is not padded by the library."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(DEMO_REEL / "tokenizer.json"))
    for text in ("a", GOOD, "the red ball, a blue star"):
        ids = tokenizer.encode(text).input_ids[0]
        expected = plain.encode(text).ids
        np.testing.assert_array_equal(ids, expected + [RULES.pad_token_id] * (RULES.max_tokens - len(expected)))
