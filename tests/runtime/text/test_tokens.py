from __future__ import annotations

import html
import json

import numpy as np
import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edgereel.bundle.manifest import TextRules
from edgereel.core.errors import BundleError, PromptError
from edgereel.runtime.text.tokens import PromptTokenizer, clean_prompt

WAN_RULES = ["fix_text", "html_unescape", "collapse_whitespace"]

SENTENCES = [
    "a red ball bounces over the ocean",
    "a blue star spins slowly under the night sky",
    "a green square slides across a field of snow",
    "the yellow ring falls into the deep ocean, twice",
]


@pytest.fixture(scope="module")
def word_level(tmp_path_factory):
    """A vocabulary of whole words that ignores case, marks the end, and carries limits of its own."""
    words = sorted({word for sentence in SENTENCES for word in sentence.replace(",", " ,").split()})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(pad_id=2, pad_token="<unk>", length=50)
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """Pieces of words, as T5 has them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def rules(max_tokens=16, unknown=2, cleaning=WAN_RULES):
    return TextRules(max_tokens=max_tokens, pad_token_id=0, unknown_token_id=unknown, cleaning=cleaning)


def reference(path, prompt, max_tokens):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    encoded = tokenizer(prompt, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="np")
    return encoded["input_ids"], encoded["attention_mask"]


@pytest.mark.parametrize("kind", ["word_level", "unigram"])
@pytest.mark.parametrize("prompt", [*SENTENCES, "A Red  BALL", "a", "ocean over the ball a", "  the ring\n\tfalls "])
def test_ids_and_mask_equal_transformers(kind, prompt, request):
    path = request.getfixturevalue(kind)
    encoded = PromptTokenizer(path, rules(64, unknown=None)).encode(prompt)
    input_ids, attention_mask = reference(path, clean_prompt(prompt, WAN_RULES), 64)
    np.testing.assert_array_equal(encoded.input_ids, input_ids)
    np.testing.assert_array_equal(encoded.attention_mask, attention_mask)
    assert encoded.input_ids.dtype == encoded.attention_mask.dtype == np.int64
    assert encoded.input_ids.shape == encoded.attention_mask.shape == (1, 64)


def test_an_empty_negative_prompt_equals_transformers(unigram):
    encoded = PromptTokenizer(unigram, rules()).encode("", allow_empty=True)
    input_ids, attention_mask = reference(unigram, "", 16)
    np.testing.assert_array_equal(encoded.input_ids, input_ids)
    np.testing.assert_array_equal(encoded.attention_mask, attention_mask)


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(),
        st.text().map(html.escape),
        st.text("&#;xamplt1289 \t\n\u00a0\u3000\x85Ãâ€™é\"'").map(lambda text: f"&amp;{text}"),
    )
)
def test_cleaning_equals_diffusers(prompt):
    assert clean_prompt(prompt, WAN_RULES) == prompt_clean(prompt)


@pytest.mark.parametrize(
    ("cleaning", "expected"),
    [
        ([], " a &amp;lt; b  âœ” "),
        (["html_unescape"], " a < b  âœ” "),
        (["collapse_whitespace"], "a &amp;lt; b âœ”"),
        (["fix_text"], " a < b  ✔ "),
        (WAN_RULES, "a < b ✔"),
    ],
)
def test_each_rule_does_its_own_part(cleaning, expected):
    assert clean_prompt(" a &amp;lt; b  âœ” ", cleaning) == expected


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'shout'"):
        clean_prompt("a", ["shout"])


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("", "the prompt is empty"),
        (" \t\n\u3000 ", "the prompt is empty"),
        ("&nbsp;", "the prompt is empty"),
        ("a red ball " * 5, "it has 16 tokens and this model takes at most 12"),
        ("a red Sqare over the ocaen", r'"Sqare" \(did you mean square\?\), "ocaen" \(did you mean ocean\?\)$'),
        ("a Zebra and a zebra, a Zebra", r'know: "Zebra", "and", "zebra"$'),
        ("red ☃ ball", r'know: "☃"$'),
        ("red \u200b ball", r'know: "\\u200b"$'),
        (" ".join("qwxyzjkvm"), 'know: "q", "w", "x", "y", "z", "j", "k", "v" and 1 more$'),
        ("a red \ud800 ball", r"U\+D800"),
        ("a red \x00 ball", r"U\+0000"),
        ("a red \x1b[31m ball", r"U\+001B"),
        ("a red &#x81; ball", r"U\+0081"),
        (b"a red ball", "a string, not bytes"),
        (None, "a string, not NoneType"),
        (7, "a string, not int"),
    ],
)
def test_prompts_that_cannot_be_used(word_level, prompt, complaint):
    with pytest.raises(PromptError, match=complaint) as caught:
        PromptTokenizer(word_level, rules(12)).encode(prompt)
    assert "\n" not in str(caught.value)


def test_a_prompt_of_exactly_the_limit_fits(word_level):
    encoded = PromptTokenizer(word_level, rules(4)).encode("a red ball")
    assert encoded.attention_mask.tolist() == [[1, 1, 1, 1]]


def test_messages_name_the_text_they_are_about(word_level):
    tokenizer = PromptTokenizer(word_level, rules(12))
    with pytest.raises(PromptError, match=r"^the negative prompt has words"):
        tokenizer.encode("blurry", allow_empty=True, name="negative prompt")
    assert tokenizer.encode("  ", allow_empty=True).attention_mask.sum() == 1


def test_a_word_with_an_unknown_piece_is_named_whole(unigram):
    with pytest.raises(PromptError, match=r'know: "sno☃w"$'):
        PromptTokenizer(unigram, rules(64)).encode("a field of sno☃w and snow")


def test_unknown_words_pass_where_the_bundle_does_not_mind(word_level):
    encoded = PromptTokenizer(word_level, rules(unknown=None)).encode("a zebra")
    assert encoded.input_ids[0, 1] == 2


def test_words_not_known_at_all_are_not_guessed_at(word_level):
    with pytest.raises(PromptError) as caught:
        PromptTokenizer(word_level, rules()).encode("a xylophone")
    assert "did you mean" not in str(caught.value)


@settings(max_examples=300)
@given(prompt=st.text(st.characters(exclude_categories=())))
def test_any_string_is_encoded_or_refused(word_level, prompt):
    try:
        encoded = PromptTokenizer(word_level, rules()).encode(prompt)
    except PromptError:
        return
    assert encoded.input_ids.shape == (1, 16)


CONTRADICTORY = {
    "version": "1.0",
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "missing", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    },
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "b"},
}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "Unigram", "vocab": [], "unk_id": 5}}', None]
)
def test_a_damaged_tokenizer_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        PromptTokenizer(path, rules())


def test_a_truncated_tokenizer_file_is_named(tmp_path, word_level):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(word_level.read_bytes()[:-20])
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        PromptTokenizer(path, rules())


WITHOUT_ITS_UNKNOWN_TOKEN = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}}


@pytest.mark.parametrize("content", [CONTRADICTORY, WITHOUT_ITS_UNKNOWN_TOKEN])
def test_a_tokenizer_that_contradicts_itself_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"tokenizer\.json does not work"):
        PromptTokenizer(path, rules()).encode("a hat")
