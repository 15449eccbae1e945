"""A tokenizer.json is a stranger's program: what real ones are made of is read, what could work without end is refused."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import random
import struct
import threading

import pytest
from conftest import DEMO_REEL
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bundle.manifest import TextRules
from edgereel.bundle.tokenizer import load_tokenizer, tokenizer_errors
from edgereel.bundle.tokenizer_parts import check_tokenizer
from edgereel.core.errors import BundleError, PromptError
from edgereel.runtime.text.tokens import PromptTokenizer

pytestmark = pytest.mark.lean

WORDS = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "red": 2, "ball": 3}, "unk_token": "<unk>"}
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def charsmap(normalized=b"a\0", size=1024):
    """Return a SentencePiece table whose trie leads nowhere."""
    return base64.b64encode(struct.pack("<I", size) + bytes(1024) + normalized).decode()


def replace(old, new, kind="String"):
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def normalized_by(*parts, model=WORDS):
    return {"model": model, "normalizer": sequence("normalizers", *parts)}


def split_by(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<unk>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}},
}
PIECES = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.5], ["▁red", -2]], "byte_fallback": False}
PAIRS = {
    "type": "BPE",
    "vocab": {"a": 0, "</w>": 1, "a</w>": 2, "r": 3, "e": 4, "re": 5},
    "merges": [["r", "e"], ["a", "</w>"]],
    "end_of_word_suffix": "</w>",
    "unk_token": "a",
    "dropout": None,
}
REAL = {
    "T5": {
        **normalized_by({"type": "Precompiled", "precompiled_charsmap": charsmap()}, replace(" {2,}", " ", "Regex")),
        "pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE),
        "post_processor": TEMPLATE,
        "decoder": METASPACE,
        "model": PIECES,
        "added_tokens": [
            {
                "id": 3,
                "content": f"<extra_id_{index}>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index in range(3)
        ],
    },
    "CLIP": {
        **normalized_by({"type": "NFC"}, replace(r"\s+", " ", "Regex"), {"type": "Lowercase"}, model=PAIRS),
        "pre_tokenizer": sequence("pretokenizers", split_by(CLIP), BYTES),
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["a", 0],
            "cls": ["r", 3],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": BYTES,
    },
    "Qwen": {
        "model": {**PAIRS, "merges": ["r e", "a </w>"]},
        "pre_tokenizer": sequence("pretokenizers", split_by(QWEN2), BYTES),
    },
    "Llama": {
        **normalized_by({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁"), model=PAIRS),
        "decoder": sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    },
    "XLNet": normalized_by(
        replace("``", '"'),
        replace("''", '"'),
        {"type": "NFKD"},
        {"type": "StripAccents"},
        {"type": "Lowercase"},
        {"type": "Precompiled", "precompiled_charsmap": charsmap("ﷺ".encode() + b"\0" + b"x" * 18)},
        model=PIECES,
    ),
    "BERT": {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "a",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"a": 0, "##b": 1},
        },
    },
}


def written(tmp_path, data):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data) if isinstance(data, dict) else data, encoding="utf-8")
    return path


@pytest.mark.parametrize("family", REAL)
def test_real_tokenizers_are_read_and_work(family, tmp_path):
    from tokenizers import Tokenizer

    path = written(tmp_path, REAL[family])
    loaded = load_tokenizer(path)
    assert loaded.tokenizer.encode("a red ball").ids == Tokenizer.from_file(str(path)).encode("a red ball").ids
    assert loaded.most_characters >= 1000


def words(**changes):
    return {"model": {**WORDS, **changes}}


HOSTILE = {
    "one letter by thousands, thrice": (normalized_by(*[replace("a", "a" * 5000)] * 3), "Replace"),
    "one letter by ten, twelve times": (normalized_by(*[replace("a", "a" * 10)] * 12), "times as long"),
    "the empty text by ten": (normalized_by(*[replace("", "a" * 10)] * 4), "times as long"),
    "nothing by ten, as a pattern": (normalized_by(*[replace("a*", "a" * 10, "Regex")] * 4), "times as long"),
    "bytes of bytes": (
        {"model": WORDS, "pre_tokenizer": sequence("pretokenizers", *[BYTES] * 16)},
        "times as long",
    ),
    "Unicode's forms": (normalized_by(*[{"type": "NFKD"}] * 9), "times as long"),
    "something put before every piece": (normalized_by(*[{"type": "Prepend", "prepend": "a" * 60}] * 3), "times as"),
    "a table that grows": (
        normalized_by({"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 5000)}),
        "5000 characters in the place of one",
    ),
    "a table cut short": (
        normalized_by({"type": "Precompiled", "precompiled_charsmap": charsmap(size=2**31)}),
        "its table is damaged",
    ),
    "a table that is none": (normalized_by({"type": "Precompiled", "precompiled_charsmap": "!"}), "not base64"),
    "a pattern that explodes": (normalized_by(replace("(a+)+b", "", "Regex")), "a pattern"),
    "a pattern that explodes as it splits": ({"model": WORDS, "pre_tokenizer": split_by("(x+x+)+y")}, "a pattern"),
    "a pattern that explodes as it is compiled": (
        {"model": WORDS, "decoder": replace("((a{1000}){1000}){1000}", "", "Regex")},
        "a pattern",
    ),
    "sequences in sequences": (
        {
            "model": WORDS,
            "normalizer": sequence("normalizers", sequence("normalizers", sequence("normalizers", sequence("n")))),
        },
        "normalizer",
    ),
    "many parts": (normalized_by(*[{"type": "Strip", "strip_left": True, "strip_right": True}] * 2000), "16 parts"),
    "an unknown part": (normalized_by({"type": "Python", "code": "print()"}), "its normalizer is 'Python'"),
    "a part without a type": (normalized_by({"strip_left": True}), "its normalizer is None"),
    "a part that is a number": (normalized_by(7), "not as such a part is written"),
    "pieces of no length": (
        {"model": WORDS, "pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "length is not between 1",
    ),
    "the text many times": (
        {"model": WORDS, "post_processor": {**TEMPLATE, "single": TEMPLATE["single"] * 8}},
        "the text more than once",
    ),
    "the text many times, in steps": (
        {"model": WORDS, "post_processor": sequence("processors", *[TEMPLATE] * 17)},
        "more than 16 parts",
    ),
    "many special tokens": (
        {
            "model": WORDS,
            "post_processor": {**TEMPLATE, "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0] * 10**5}}},
        },
        "more than 64 special tokens",
    ),
    "added tokens that grow": (
        {
            **normalized_by(replace("a", "a" * 60)),
            "added_tokens": [{"id": 9, "content": "a" * 2000, "normalized": True}] * 100,
        },
        "more added_tokens",
    ),
    "an added token of a megabyte": (
        {"model": WORDS, "added_tokens": [{"id": 9, "content": "a" * 2**20}]},
        "more added_tokens",
    ),
    "merges at random": ({"model": {**PAIRS, "dropout": 0.5}}, "at random"),
    "merges to nothing": ({"model": {**PAIRS, "merges": [["a", "e"]]}}, "to a word that it does not have"),
    "merges without their prefix": ({"model": {**PAIRS, "continuing_subword_prefix": "##"}}, "does not have"),
    "a word of a megabyte": (words(vocab={"a" * 2**20: 0}), "more than 512 characters"),
    "an id of 2^63": (words(vocab={"a": 2**63}), "an id that is not between"),
    "a negative id": (words(vocab={"a": -1}), "an id that is not between"),
    "a model that is none": ({"model": {"type": "Oracle"}}, "its model is 'Oracle'"),
    "no model": ({}, "its model is None"),
    "a score without end": (
        '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 1e999]]}}',
        "a score that is no number",
    ),
    "an unknown piece that is not there": ({"model": {**PIECES, "unk_id": 3}}, "unk_id is not between 0 and 2"),
    "long words looked for in every part": (
        {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "max_input_chars_per_word": 2**60}},
        "max_input_chars_per_word",
    ),
    "a key twice": ('{"model": {"type": "WordLevel", "type": "BPE", "vocab": {}}}', "stands twice"),
    "ten million values": ('{"model": [' + "[]," * 10**7 + "0]}", "values"),
    "nested without end": ("[" * 100_000, "nested"),
    "not a number": ('{"model": {"type": "Unigram", "vocab": [["a", NaN]]}}', "NaN"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_tokenizers_that_could_work_without_end(case, tmp_path):
    data, message = HOSTILE[case]
    path = written(tmp_path, data)
    with pytest.raises(BundleError) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(f"{path} cannot be read as a tokenizer: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_tokenizer_as_large_as_a_disk(tmp_path):
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match="too large"):
        load_tokenizer(path)


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_tokenizer_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(BundleError, match="must be a regular file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_links_are_followed_for_checkpoints_alone(tmp_path):
    (tmp_path / "link.json").symlink_to(written(tmp_path, {"model": WORDS}))
    assert load_tokenizer(tmp_path / "link.json", follow=True).tokenizer.get_vocab_size() == 4
    with pytest.raises(BundleError, match="must be a regular file"):
        load_tokenizer(tmp_path / "link.json")


def test_a_tokenizer_in_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("names of files are text here")
    assert load_tokenizer(written(folder, {"model": WORDS})).tokenizer.get_vocab_size() == 4


def test_texts_are_shorter_for_tokenizers_that_make_them_longer(tmp_path):
    rules = TextRules(max_tokens=24, pad_token_id=0)
    for data, most in (({"model": WORDS}, 2**15), (normalized_by(*[replace("b", "a" * 30)] * 2), 2**20 // 900)):
        tokenizer = PromptTokenizer(written(tmp_path, data), rules)
        assert load_tokenizer(tmp_path / "tokenizer.json").most_characters == most
        assert tokenizer.encode("a" * most).attention_mask.sum() == 1
        with pytest.raises(PromptError, match=rf"too long: it has {most + 1} characters and at most {most} are read"):
            tokenizer.encode("a" * (most + 1))


def test_what_the_library_writes_before_it_fails_is_not_seen(tmp_path, capfd):
    """A table whose trie leads out of itself; its library panics, and tells standard error."""
    table = base64.b64encode(struct.pack("<II", 4, 2**32 - 1) + b"\0").decode()
    path = written(tmp_path, normalized_by({"type": "Precompiled", "precompiled_charsmap": table}))
    tokenizer = PromptTokenizer(path, TextRules(max_tokens=24, pad_token_id=0))
    with pytest.raises(BundleError, match=r"tokenizer\.json does not work: "):
        tokenizer.encode("a red ball")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"


def test_standard_error_is_back_when_the_last_thread_is_done(capfd):
    """Threads take turns, and what a block wrote that failed is not heard."""
    inside, done = threading.Event(), threading.Event()

    def fail():
        with contextlib.suppress(BundleError), tokenizer_errors("it"):
            inside.set()
            done.wait()
            os.write(2, b"unheard\n")
            raise ValueError

    threads = [threading.Thread(target=fail) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    done.set()
    for thread in threads:
        thread.join()
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


DEMO = json.loads((DEMO_REEL / "tokenizer.json").read_text(encoding="utf-8"))
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(
        ["Lowercase", "Replace", "Regex", "a", "</s>", "BPE", "Unigram", "ByteLevel", "(a+)+", "Sequence"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "ids"]), inner),
    max_leaves=6,
)


def places(data, way=()):
    yield way
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        if "vocab" not in way:
            yield from places(value, (*way, key))


@settings(max_examples=200)
@given(
    source=st.sampled_from([*REAL, "demo"]),
    seed=st.integers(0, 2**32),
    values=st.lists(anything, min_size=1, max_size=2),
)
def test_a_tokenizer_with_anything_anywhere_works_or_is_refused(tmp_path_factory, source, seed, values):
    data, generator = copy.deepcopy({**REAL, "demo": DEMO}[source]), random.Random(seed)
    for value in values:
        way = generator.choice([way for way in places(data) if way])
        target = data
        for key in way[:-1]:
            target = target[key]
        target[way[-1]] = value
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    ids = ids_or_none(path)
    assert ids is None or ids.shape == (1, 64)


def ids_or_none(path):
    """Return the ids of a prompt, none where tokenizer or prompt is refused. Any other error fails the test."""
    try:
        return PromptTokenizer(path, TextRules(max_tokens=64, pad_token_id=0)).encode("a red ball, two").input_ids
    except (BundleError, PromptError):
        return None


def test_the_demo_grows_nothing():
    assert check_tokenizer(DEMO) == 2
