"""Regular expressions of a tokenizer that end soon on every text, told from those that may not.

A matcher that tries one way after another takes exponential time where a repetition stands inside another, and a power of the
text's length where many stand side by side. Tokenizers need neither: GPT-2's, CLIP's, Qwen's and Llama's patterns are
alternatives of single characters and classes, repeated at most twice. That is what is accepted here.
"""

from __future__ import annotations

import re

LONGEST_PATTERN = 1024
_MOST_ALTERNATIVES = 64
_MOST_REPEATED = 64
"""Of a number in braces, and of the product of all ranges (an optional character is a range of two) in an alternative."""

_PROPERTY = r"\\[pP]\{\^?[A-Za-z_]{1,40}\}"
_CODE = r"\\u[0-9A-Fa-f]{4}|\\x\{[0-9A-Fa-f]{1,6}\}"
_ESCAPE = rf"{_PROPERTY}|{_CODE}|\\[sSdDwWrntfv]|\\[^A-Za-z0-9\n]"
_CLASS = rf"\[\^?(?:{_ESCAPE}|[^\\\[\]&]|&(?!&))+\]"
_CHARACTER = rf"(?:{_ESCAPE}|{_CLASS}|[^\\\[\](){{}}|*+?^$])"
_PLAIN = rf"{_CHARACTER}+(?:\|{_CHARACTER}+)*"

_ATOM = re.compile(
    rf"(?P<around>\^|\$|\(\?<?[=!]{_CHARACTER}\))"
    rf"|(?P<group>\((?:\?i?:)?(?P<inside>{_PLAIN})\))"
    rf"|(?P<character>{_CHARACTER})"
)
_REPETITION = re.compile(r"[*+?][+?]?|\{(?P<least>\d{1,4})(?P<range>,(?P<most>\d{0,4}))?\}")


def least_match(pattern: str) -> int:
    """Return the least number of characters that a match of a pattern has.

    Raises ValueError for a pattern that is not known to end soon: see the module.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters is longer than tokenizers need")
    position, least = 0, []
    while True:
        shortest, position = _alternative(pattern, position)
        least.append(shortest)
        if position == len(pattern):
            break
        position += 1  # past the bar
    if len(least) > _MOST_ALTERNATIVES:
        raise ValueError("a pattern has more alternatives than tokenizers need")
    return min(least)


def _alternative(pattern: str, position: int) -> tuple[int, int]:
    """Return the least length of a match of the alternative that begins here, and where it ends."""
    least, endless, ways = 0, 0, 1
    while position < len(pattern) and pattern[position] != "|":
        atom = _ATOM.match(pattern, position)
        if atom is None:
            raise ValueError(f"a pattern has {pattern[position : position + 12]!r}, which tokenizers do not need")
        position = atom.end()
        fewest, most, position = _repetition(pattern, position)
        if (fewest, most) != (1, 1) and atom["character"] is None and (fewest, most) != (0, 1):
            raise ValueError("a pattern repeats a group, which may take time without end")
        if endless == 2 and (fewest > 0 or atom["around"] is not None):
            raise ValueError("a pattern has something to match after two repetitions, which may take time without end")
        if most is None:
            endless += 1
        else:
            ways *= most - fewest + 1
        if endless > 2 or ways > _MOST_REPEATED:
            raise ValueError("a pattern repeats more than twice, which may take time without end")
        least += fewest * _shortest(atom)
    return least, position


def _repetition(pattern: str, position: int) -> tuple[int, int | None, int]:
    """Return how often what stands before is to be there, at least and at most (None: no end), and where that is said."""
    found = _REPETITION.match(pattern, position)
    if found is None:
        return 1, 1, position
    if found["least"] is None:
        fewest, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0][0]]
        return fewest, most, found.end()
    fewest = int(found["least"])
    most = fewest if found["range"] is None else int(found["most"]) if found["most"] else None
    if fewest > _MOST_REPEATED or (most is not None and not fewest <= most <= _MOST_REPEATED):
        raise ValueError(f"a pattern repeats {found[0]} times, more often than tokenizers need")
    return fewest, most, found.end()


def _shortest(atom: re.Match[str]) -> int:
    if atom["around"] is not None:
        return 0
    if atom["group"] is None:
        return 1
    alternatives = re.findall(rf"(?:{_CHARACTER})+", atom["inside"])
    return min(len(re.findall(_CHARACTER, alternative)) for alternative in alternatives)
