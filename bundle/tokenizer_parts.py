"""What a tokenizer.json may be made of, and by how much each part can make a text longer.

Growth is in characters and never too small: of Unicode's forms it is the worst character's, of a replacement that of a text
which it replaces throughout. Parts come one after another, so the growth of all is the product.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from .patterns import least_match

MOST_GROWTH = 1024
"""XLNet's and ALBERT's tokenizers, the longest chains known, come to 972."""
_MOST_PARTS = 16
_LONGEST_CONTENT = 64
_MOST_SPECIAL = 64
_MOST_WORDS = 2**20
_LONGEST_WORD = 512
_MOST_ADDED = 2**14
_LONGEST_ADDED = 2**18
_MOST_ADDED_MADE = 2**23
_LAST_ID = 2**31 - 1

Part = Mapping[str, Any]


def check_tokenizer(data: Any) -> int:
    """Return by how much a tokenizer can make a text longer at most.

    Raises ValueError, which names the part, for whatever is not known to be bounded in time and memory.
    """
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    try:
        return _checked_growth(data)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("one of its parts is not as such a part is written") from error


def _checked_growth(data: Part) -> int:
    growth = _growth(data.get("normalizer"), "normalizer", "normalizers", _NORMALIZERS)
    growth *= _growth(data.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS)
    if growth > MOST_GROWTH:
        raise ValueError(f"its normalizer can make a text {growth} times as long: at most {MOST_GROWTH} is accepted")
    _growth(data.get("decoder"), "decoder", "decoders", _DECODERS)
    _growth(data.get("post_processor"), "post_processor", "processors", _POST_PROCESSORS)
    _check_added(data.get("added_tokens"), growth)
    model: Any = data.get("model")
    kind: Any = model.get("type") if isinstance(model, dict) else None
    if kind not in _MODELS:
        raise ValueError(f"its model is {kind!r:.40}: known are {', '.join(_MODELS)}")
    _MODELS[kind](model)
    return growth


def _growth(part: Any, name: str, list_key: str, kinds: Mapping[str, Callable[[Part], int]]) -> int:
    """Return by how much a part, or all parts of a Sequence, can make a text longer."""
    if part is None:
        return 1
    growth = 1
    for number, single in enumerate(_flat(part, name, list_key, 0), start=1):
        if number > _MOST_PARTS:
            raise ValueError(f"its {name} has more than {_MOST_PARTS} parts")
        kind: Any = single.get("type")
        if kind not in kinds:
            raise ValueError(f"its {name} is {kind!r:.40}: known are Sequence, {', '.join(kinds)}")
        try:
            growth *= kinds[kind](single)
        except ValueError as error:
            raise ValueError(f"its {name} {kind}: {error}") from error
    return growth


def _flat(part: Any, name: str, list_key: str, depth: int) -> Iterator[Part]:
    if not isinstance(part, dict) or depth > 3:
        raise ValueError(f"its {name} is not as such a part is written")
    if part.get("type") != "Sequence":
        yield part
        return
    inner = part.get(list_key)
    if not isinstance(inner, list):
        raise ValueError(f"its {name} is a Sequence without {list_key}")
    for single in inner:
        yield from _flat(single, name, list_key, depth + 1)


def _same(_: Part) -> int:
    return 1


def _pattern(part: Part) -> int:
    """Return the least number of characters that a part's pattern matches; raise ValueError for one that is not safe."""
    (kind, pattern), *others = part["pattern"].items()
    if others or kind not in ("String", "Regex") or not isinstance(pattern, str):
        raise TypeError
    return len(_short(pattern)) if kind == "String" else least_match(pattern)


def _replace(part: Part) -> int:
    content, least = len(_short(part["content"])), _pattern(part)
    return content + 1 if least == 0 else max(1, -(-content // least))


def _prepend(part: Part) -> int:
    return 1 + len(_short(part["prepend"]))


def _split(part: Part) -> int:
    _pattern(part)
    return 1


def _fixed_length(part: Part) -> int:
    _number(part.get("length", 1), 1, 2**20, "length")
    return 1


def _precompiled(part: Part) -> int:
    """Return the length of the longest text that SentencePiece's table puts in the place of a character."""
    try:
        table = base64.b64decode(part["precompiled_charsmap"], validate=True)
    except binascii.Error as error:
        raise ValueError("its table is not base64") from error
    if len(table) < 4 or (size := struct.unpack_from("<I", table)[0]) % 4 or not 0 < size <= len(table) - 4:
        raise ValueError("its table is damaged")
    longest = max(len(text.decode()) for text in table[4 + size :].split(b"\0"))
    if longest > _LONGEST_CONTENT:
        raise ValueError(f"it puts {longest} characters in the place of one")
    return max(1, longest)


def _template(part: Part) -> int:
    """Check that a template has the text once, and few tokens beside it."""
    pieces, tokens = part["single"], part["special_tokens"]
    if len(part.get("pair") or ()) > _MOST_SPECIAL or len(pieces) > _MOST_SPECIAL or len(tokens) > _MOST_SPECIAL:
        raise ValueError(f"it has more than {_MOST_SPECIAL} pieces")
    if sum("Sequence" in piece for piece in pieces) > 1:
        raise ValueError("it has the text more than once")
    if sum(len(token["ids"]) for token in tokens.values()) > _MOST_SPECIAL:
        raise ValueError(f"it has more than {_MOST_SPECIAL} special tokens")
    return 1


_NORMALIZERS: dict[str, Callable[[Part], int]] = {
    "NFC": lambda _: 3,
    "NFD": lambda _: 4,
    "NFKC": lambda _: 18,
    "NFKD": lambda _: 18,
    "Lowercase": lambda _: 2,
    "Nmt": _same,
    "Strip": _same,
    "StripAccents": _same,
    "BertNormalizer": lambda _: 24,
    "ByteLevel": lambda _: 4,
    "Precompiled": _precompiled,
    "Prepend": _prepend,
    "Replace": _replace,
}
_PRE_TOKENIZERS: dict[str, Callable[[Part], int]] = {
    "BertPreTokenizer": _same,
    "ByteLevel": lambda _: 5,
    "CharDelimiterSplit": _same,
    "Digits": _same,
    "FixedLength": _fixed_length,
    "Metaspace": lambda _: 2,
    "Punctuation": _same,
    "Split": _split,
    "UnicodeScripts": _same,
    "Whitespace": _same,
    "WhitespaceSplit": _same,
}
_DECODERS: dict[str, Callable[[Part], int]] = {
    "BPEDecoder": _same,
    "ByteFallback": _same,
    "ByteLevel": _same,
    "CTC": _same,
    "Fuse": _same,
    "Metaspace": _same,
    "Replace": _replace,
    "Strip": _same,
    "WordPiece": _same,
}
_POST_PROCESSORS: dict[str, Callable[[Part], int]] = {
    "BertProcessing": _same,
    "ByteLevel": _same,
    "RobertaProcessing": _same,
    "TemplateProcessing": _template,
}


def _check_added(added: Any, growth: int) -> None:
    """Check tokens beside the model's: the library looks for all of them in every text, normalized when it opens."""
    if added is None:
        return
    lengths = [len(token["content"]) for token in added]
    for token in added:
        _number(token["id"], 0, _LAST_ID, "id of an added token")
    if len(lengths) > _MOST_ADDED or sum(lengths) > _LONGEST_ADDED or sum(lengths) * growth > _MOST_ADDED_MADE:
        raise ValueError("it has more added_tokens than tokenizers need")


def _check_words(model: Part, words: list[Any], ids: list[Any]) -> None:
    if len(words) > _MOST_WORDS:
        raise ValueError(f"its model has more than {_MOST_WORDS} words")
    if not all(type(word) is str and len(word) <= _LONGEST_WORD for word in words):
        raise ValueError(f"its model has a word of more than {_LONGEST_WORD} characters")
    if not all(type(number) is int and 0 <= number <= _LAST_ID for number in ids):
        raise ValueError(f"its model has an id that is not between 0 and {_LAST_ID}")


def _vocabulary(model: Part) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):
        raise ValueError("its model has no vocab of words and ids")
    _check_words(model, list(vocabulary), list(vocabulary.values()))
    return vocabulary


def _check_word_level(model: Part) -> None:
    _vocabulary(model)


def _check_word_piece(model: Part) -> None:
    _vocabulary(model)
    _number(model.get("max_input_chars_per_word", 100), 1, 1000, "max_input_chars_per_word")
    _short(model.get("continuing_subword_prefix") or "")


def _check_bpe(model: Part) -> None:
    _vocabulary(model)
    if model.get("dropout"):
        raise ValueError("its model drops merges at random, so that a prompt would not mean the same twice")
    prefix = _short(model.get("continuing_subword_prefix") or "")
    _short(model.get("end_of_word_suffix") or "")
    merges = model.get("merges")
    if not isinstance(merges, list) or len(merges) > _MOST_WORDS:
        raise ValueError("its model has no list of merges, or one too long")
    pairs = [merge.split(" ") if type(merge) is str else merge for merge in merges]
    if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        raise ValueError("its model has a merge that is no pair")
    _check_words(model, list(chain.from_iterable(pairs)), [])
    vocabulary = model["vocab"]
    for first, second in pairs:
        if not second.startswith(prefix) or first + second.removeprefix(prefix) not in vocabulary:
            raise ValueError(f"its model merges {(first + ' ' + second)[:40]!r} to a word that it does not have")


def _check_unigram(model: Part) -> None:
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not all(type(piece) is list and len(piece) == 2 for piece in pieces):
        raise ValueError("its model has no vocab of pieces and scores")
    _check_words(model, [piece for piece, _ in pieces], [])
    if not all(type(score) in (int, float) and -1e30 < score < 1e30 for _, score in pieces):
        raise ValueError("its model has a score that is no number of use")
    if model.get("unk_id") is not None:
        _number(model["unk_id"], 0, len(pieces) - 1, "unk_id")


_MODELS: dict[str, Callable[[Part], None]] = {
    "BPE": _check_bpe,
    "Unigram": _check_unigram,
    "WordLevel": _check_word_level,
    "WordPiece": _check_word_piece,
}


def _short(text: Any) -> str:
    if not isinstance(text, str) or len(text) > _LONGEST_CONTENT:
        raise ValueError(f"has a text of more than {_LONGEST_CONTENT} characters")
    return text


def _number(value: Any, least: int, most: int, name: str) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is not between {least} and {most}")
