"""Prompts as a reader sees them, whatever they are spelled with: the forms that rules are looked for in."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

# Letters of other scripts that look like Latin ones: a selection of Unicode's confusables (UTS 39), each above its twin.
_LOOK_ALIKES = str.maketrans(
    "авеѕіјкӏмнорстухԁһԛԝгпьαβεικνορτυχγωησցոսօɑıʟɡɪꜱłøđħŧƙʀɴᴀᴇᴋᴏᴛᴅᴜ",
    "abesijklmhopctyxdhqwrnbabeikvoptuxywnognuoailgislodhtkrnaekotdu",
)
_LEET = {
    "0": "o",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "g",
    "7": "t",
    "8": "b",
    "9": "g",
    "@": "a",
    "$": "s",
    "€": "e",
    "+": "t",
}
_LEET_AS = [str.maketrans({**_LEET, "1": one, "!": one, "|": one}) for one in "il"]
_NOT_LETTERS = re.compile(r"[\W_]+")
_INSIDE_WORDS = re.compile(r"(?<=\w)[^\w\s]+(?=\w)")
_SHORTEST_SPELLED_OUT = 3
_RUN_ENDS = ((0, 0), (1, 0), (0, 1))
"""A letter at either end may be a word of its own: a n u d e."""


@dataclass(frozen=True)
class Word:
    """A word in normal form, and which of the prompt's own words, divided by spaces, it stands for: first to last."""

    text: str
    first: int
    last: int


def folded(text: str) -> str:
    """Return text in small Latin letters without accents and invisible characters."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = (character for character in text if unicodedata.category(character) not in ("Mn", "Me", "Cf", "Cs", "Co"))
    return "".join(kept).translate(_LOOK_ALIKES)


def forms(prompt: str) -> list[list[Word]]:
    """Return the readings of a prompt: as it stands, digits read as letters, and words spelled out letter by letter joined."""
    own = [folded(word) for word in prompt.split()]
    readings = [own, [_INSIDE_WORDS.sub("", word) for word in own]]
    for leet in _LEET_AS:
        readings.append([_leet(word, leet) for word in own])
        readings.append([_INSIDE_WORDS.sub("", _leet(word, leet)) for word in own])
    found: list[list[Word]] = []
    for reading in readings:
        words = _words(reading)
        for form in (words, *(_joined(words, *ends) for ends in _RUN_ENDS)):
            if form not in found:
                found.append(form)
    return found


def normal_phrase(phrase: str) -> str:
    """Return a rule's phrase as `forms` would read it: words divided by one space."""
    return " ".join(_NOT_LETTERS.sub(" ", folded(phrase)).split())


def _leet(word: str, leet: dict[int, str]) -> str:
    # Numbers stay numbers: 4 and 1990 are no words, but 4ss is.
    return word.translate(leet) if any(character.isalpha() for character in word) else word


def _words(reading: list[str]) -> list[Word]:
    return [
        Word(part, index, index) for index, word in enumerate(reading) for part in _NOT_LETTERS.sub(" ", word).split()
    ]


def _joined(words: list[Word], skipped: int, left: int) -> list[Word]:
    """Return words with runs of single letters made one, but for so many at their beginning and end: n u d e."""
    result: list[Word] = []
    run: list[Word] = []
    for word in [*words, Word("  ", 0, 0)]:
        if len(word.text) == 1:
            run.append(word)
            continue
        inner = run[skipped : len(run) - left]
        if len(inner) >= _SHORTEST_SPELLED_OUT:
            result += run[:skipped]
            result.append(Word("".join(each.text for each in inner), inner[0].first, inner[-1].last))
            result += run[len(run) - left :]
        else:
            result += run
        run = []
        result.append(word)
    return result[:-1]
