"""The tokenizer of a bundle or a checkpoint: read without trusting it.

A tokenizer.json is a program: normalizers that replace text, patterns, rules that split and join. So its parts must be of the
kinds that text encoders' tokenizers are made of, and how much longer they can make a text is bounded before anything runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import BundleError, brief
from ..core.streams import native_words_held
from .tokenizer_parts import MOST_GROWTH, check_tokenizer
from .untrusted import parse_json, read_plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LARGEST = 2**26
_MOST_VALUES = 2**22
_LONGEST_TEXT = 2**15
_LONGEST_MADE = 2**20


@dataclass(frozen=True)
class CheckedTokenizer:
    """A tokenizer and how many characters a text may have for it: fewer where it makes texts longer."""

    tokenizer: Tokenizer
    most_characters: int


def load_tokenizer(path: Path, *, follow: bool = False) -> CheckedTokenizer:
    """Read a tokenizer.json; follow: also where it is a link.

    Raises BundleError where it is missing, damaged, or may work without end.
    """
    try:
        content = read_plain(path, _LARGEST, follow=follow)
        growth = check_tokenizer(parse_json(content.decode(), _MOST_VALUES, once=True))
    except OSError as error:
        raise BundleError(f"{path} cannot be read as a tokenizer: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{path} cannot be read as a tokenizer: {brief(error)}") from error
    with tokenizer_errors(f"{path} cannot be read as a tokenizer"):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_buffer(content)
        # The file may carry limits of its own; a prompt must be refused, not cut, and only the manifest pads.
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return CheckedTokenizer(tokenizer, min(_LONGEST_TEXT, _LONGEST_MADE // min(growth, MOST_GROWTH)))


@contextlib.contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Turn whatever the tokenizer's library raises in the block into a BundleError that begins with `what`.

    The library is in Rust: its panics are not derived from Exception, and are written to standard error before they are raised.
    """
    try:
        with native_words_held():
            yield
    except (KeyboardInterrupt, SystemExit, BundleError, ImportError):
        raise
    except BaseException as error:
        raise BundleError(f"{what}: {brief(error)}") from error
