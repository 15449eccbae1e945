"""Regular expressions of tokenizers: those that end soon on every text are told from those that may not."""

from __future__ import annotations

import pytest

from edgereel.bundle.patterns import least_match

CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        (CLIP, 1),
        (GPT2, 1),
        (QWEN2, 1),
        (LLAMA3, 1),
        (O200K, 1),
        (CL100K.replace("{1,3}+", "{1,3}"), 1),
        (r"\s+", 1),
        (" {2,}", 2),
        (r"[.,;:!?\"()]", 1),
        (r"\p{Han}{3}x?", 3),
        (r"(?:ab|cde)?x", 1),
        (r"(?:ab|cde)x", 3),
        (r"a*", 0),
        (r"^", 0),
        (r"|a", 0),
        ("", 0),
    ],
)
def test_patterns_that_end_soon(pattern, least):
    assert least_match(pattern) == least


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(?:a|a)*b",
        "(?:a|b*)c",
        "(a*)*",
        "a*a*a*b",
        r"\s*\s*x",
        r".*.*(?!x)",
        r"\w+\s+$",
        "a{1,64}a{1,64}",
        "a?" * 20 + "a" * 20,
        "a{1000}",
        "a{3,2}",
        "a{2}{3}",
        "a{1,3}+",
        "a**",
        "a+*",
        r"(a)\1",
        r"(?<name>a)\k<name>",
        "(?=a+)b",
        "(?>a)",
        "(?i)a",
        "(?#a)",
        "(a|(b))",
        "[a[b]]",
        "[a&&b]",
        "[[:alpha:]]",
        "[",
        "(a",
        "a)",
        "a{",
        "\\",
        "+",
        "x" * 1025,
        "|" * 65,
    ],
)
def test_patterns_that_may_not_end(pattern):
    with pytest.raises(ValueError, match="pattern"):
        least_match(pattern)
