"""From a prompt to token ids: cleaning, tokenizing, padding, and plain words about prompts that cannot be used."""

from __future__ import annotations

import contextlib
import difflib
import html
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from ...bundle.manifest import TextRules
from ...bundle.tokenizer import load_tokenizer, tokenizer_errors
from ...core.errors import PromptError
from ...core.progress import Progress, report_progress

# Comparing a word with every word of a large vocabulary takes seconds, and large vocabularies know nearly all words.
_SUGGEST_UP_TO = 20_000
_QUOTED = 60

_NAMED_AT_MOST = 8
_LONGEST_SHOWN = 40
_BATCH = 256


class TokenIds(NamedTuple):
    """A prompt as the text encoder takes it: int64 arrays [1, max_tokens]; the mask is 1 on tokens and 0 on padding."""

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]

    @property
    def length(self) -> int:
        """How many of them are tokens and no padding."""
        return int(self.attention_mask.sum())


def clean_prompt(prompt: str, rules: Iterable[str]) -> str:
    """Return the prompt with the manifest's cleaning rules applied in order.

    `fix_text`: ftfy repairs mis-decoded characters. `html_unescape`: twice, so that `&amp;lt;` becomes `<`.
    `collapse_whitespace`: every run of whitespace becomes one space, none at the ends. Another rule is a ValueError.
    """
    plain = prompt.isascii() and prompt.isprintable() and "&" not in prompt
    for rule in rules:
        if rule in ("fix_text", "html_unescape") and plain:
            continue  # both leave such a text as it is, and ftfy takes a tenth of a millisecond for it
        if rule == "fix_text":
            import ftfy  # slow to import, and only some bundles need it

            prompt = ftfy.fix_text(prompt)
        elif rule == "html_unescape":
            prompt = html.unescape(html.unescape(prompt))
        elif rule == "collapse_whitespace":
            prompt = re.sub(r"\s+", " ", prompt).strip()
        else:
            raise ValueError(f"unknown cleaning rule {rule!r}")
    return prompt


@contextlib.contextmanager
def prompt_named(prompt: str, number: int, count: int) -> Iterator[None]:
    """Say in a PromptError of the block which of several prompts, counted from 1, it is about."""
    try:
        yield
    except PromptError as error:
        if count == 1:
            raise
        raise PromptError(f"prompt {number} of {count}, {str(prompt)[:_QUOTED]!r}: {error}") from error


class PromptTokenizer:
    """Turns prompts into padded token ids with a bundle's tokenizer.json and text rules."""

    def __init__(self, path: str | Path, rules: TextRules) -> None:
        """Read the tokenizer. Raises BundleError where the file is missing or is not a tokenizer that can be trusted."""
        self._path = Path(path)
        self._rules = rules
        loaded = load_tokenizer(self._path)
        self._tokenizer, self._most_characters = loaded.tokenizer, loaded.most_characters

    def encode(self, prompt: str, allow_empty: bool = False, name: str = "prompt") -> TokenIds:
        """Return token ids and attention mask, int64 [1, max_tokens], padded at the end.

        allow_empty: take a text without a word in it, as negative prompts may be. name: what messages call the text.
        Raises PromptError where it is not text, is empty, too long, or has words the model does not know.
        """
        text = self._clean(prompt, name)
        encoding = self._encode([text])[0]
        self._check(text, encoding, allow_empty, name)
        count, room = len(encoding.ids), self._rules.max_tokens
        input_ids = np.full((1, room), self._rules.pad_token_id, np.int64)
        attention_mask = np.zeros((1, room), np.int64)
        input_ids[0, :count] = encoding.ids
        attention_mask[0, :count] = 1
        return TokenIds(input_ids, attention_mask)

    def check_all(self, prompts: Sequence[str], on_progress: Progress | None = None) -> None:
        """Check prompts as `encode` does, many at once.

        on_progress is told of the stage `prompts`, in prompts, after every batch. Raises PromptError, which names the number of
        the prompt, counted from 1; Cancelled.
        """
        report_progress(on_progress, "prompts", 0, len(prompts))
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            texts, wrong = self._clean_until_wrong(batch)
            for number, (text, encoding) in enumerate(zip(texts, self._encode(texts), strict=True), start=start + 1):
                with prompt_named(prompts[number - 1], number, len(prompts)):
                    self._check(text, encoding, allow_empty=False, name="prompt")
            if wrong is not None:
                with prompt_named(batch[len(texts)], start + len(texts) + 1, len(prompts)):
                    raise wrong
            report_progress(on_progress, "prompts", start + len(batch), len(prompts))

    def _clean_until_wrong(self, prompts: Sequence[str]) -> tuple[list[str], PromptError | None]:
        """Return the cleaned prompts up to the first that cannot be, and what is wrong with that one."""
        texts: list[str] = []
        for prompt in prompts:
            try:
                texts.append(self._clean(prompt, "prompt"))
            except PromptError as error:
                return texts, error
        return texts, None

    def _clean(self, prompt: str, name: str) -> str:
        """Return a cleaned prompt of a length that the tokenizer may get; raise PromptError."""
        most = self._most_characters
        text = clean_prompt(_checked(prompt, name, most), self._rules.cleaning)
        return _checked(text, name, most)  # again, since cleaning can bring characters to light

    def _check(self, text: str, encoding: Encoding, allow_empty: bool, name: str) -> None:
        """Raise PromptError where a cleaned prompt, tokenized, cannot be used."""
        if not allow_empty and (not text.strip() or all(encoding.special_tokens_mask)):
            raise PromptError(f"the {name} is empty: say what the video should show")
        count, room = len(encoding.ids), self._rules.max_tokens
        if count > room:
            raise PromptError(f"the {name} is too long: it has {count} tokens and this model takes at most {room}")
        if unknown := self._unknown_words(text, encoding):
            raise PromptError(f"the {name} has words this model does not know: {self._described(unknown)}")

    def _encode(self, texts: list[str]) -> list[Encoding]:
        # Threads of the library's own would warn on standard error whenever the process forks later.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with tokenizer_errors(f"the tokenizer in {self._path} does not work"):
            return self._tokenizer.encode_batch(texts)

    def _unknown_words(self, text: str, encoding: Encoding) -> list[str]:
        """Return the words that have an unknown token in them, as they stand in the text, each once, in order."""
        if self._rules.unknown_token_id not in encoding.ids:
            return []
        words: dict[str, None] = {}
        for position, token_id in enumerate(encoding.ids):
            if token_id == self._rules.unknown_token_id:
                word = encoding.token_to_word(position)
                # A token can be part of a word; the user is told the whole of it.
                span = None if word is None else encoding.word_to_chars(word)
                start, end = span or encoding.offsets[position]
                words[text[start:end].strip()] = None
        return list(words)

    def _described(self, words: list[str]) -> str:
        named = [f'"{_shown(word)}"{self._suggestion(word)}' for word in words[:_NAMED_AT_MOST]]
        rest = len(words) - len(named)
        return ", ".join(named) + (f" and {rest} more" if rest else "")

    def _suggestion(self, word: str) -> str:
        size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        if size > _SUGGEST_UP_TO or len(word) > _LONGEST_SHOWN or not word.isprintable():
            return ""
        # "▁" is how SentencePiece vocabularies write the space before a word; specials are no words at all.
        vocabulary = {token.lstrip("▁") for token in self._tokenizer.get_vocab(with_added_tokens=False)}
        known = sorted(token for token in vocabulary if token.isalpha())
        close = difflib.get_close_matches(word.lower(), known, n=2, cutoff=0.7)
        return f" (did you mean {' or '.join(close)}?)" if close else ""


def _shown(word: str) -> str:
    cut = word[:_LONGEST_SHOWN]
    return (cut if cut.isprintable() else ascii(cut)[1:-1]) + ("…" if len(word) > _LONGEST_SHOWN else "")


def _checked(prompt: str, name: str, most: int) -> str:
    """Return the prompt; raise PromptError where it is not a string of so many printable characters and whitespace."""
    if not isinstance(prompt, str):
        raise PromptError(f"the {name} must be a string, not {type(prompt).__name__}")
    if len(prompt) > most:
        raise PromptError(f"the {name} is too long: it has {len(prompt)} characters and at most {most} are read")
    if prompt.isprintable():
        return prompt
    for character in prompt:
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            raise PromptError(f"the {name} has the character U+{ord(character):04X} in it, which is not text")
    return prompt
