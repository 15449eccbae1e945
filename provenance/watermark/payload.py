"""64 bits as a codeword that bears being read half wrong, and back.

A check (CRC-24, polynomial of RFC 4880) tells a payload from noise. A convolutional code of rate 1/4 and constraint length 9
(generators 765, 671, 513, 473 octal: Larsen, IEEE Trans. Information Theory 19, 1973) is read by soft decisions
(Viterbi, IEEE Trans. Information Theory 13, 1967).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError

MAKER_BITS, CLIP_BITS = 24, 40
CHECK_BITS = 24
_POLYNOMIAL, _START = 0x864CFB, 0xB704CE
_GENERATORS = (0o765, 0o671, 0o513, 0o473)
_MEMORY = 8
_MESSAGE_BITS = MAKER_BITS + CLIP_BITS + CHECK_BITS
CODE_BITS = (_MESSAGE_BITS + _MEMORY) * len(_GENERATORS)
"""Bits of a codeword: 384."""


@dataclass(frozen=True)
class Payload:
    """What a watermark says. maker: 24 bits, who made the clip. clip: 40 bits, which of his clips."""

    maker: int
    clip: int

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that do not fit."""
        if not (0 <= self.maker < 2**MAKER_BITS and 0 <= self.clip < 2**CLIP_BITS):
            raise UsageError(
                f"a watermark holds a maker of {MAKER_BITS} bits and a clip of {CLIP_BITS} bits, not {self}"
            )

    def __str__(self) -> str:
        """Return it as people write it: `maker-clip`, hexadecimal."""
        return f"{self.maker:06x}-{self.clip:010x}"

    @staticmethod
    def parse(text: str) -> Payload:
        """Return the payload that `str` wrote. Raises UsageError."""
        maker, _, clip = text.partition("-")
        try:
            return Payload(int(maker, 16), int(clip, 16))
        except ValueError as error:
            raise UsageError(f"{text[:60]!r} is no watermark id: it looks like 0a1b2c-0123456789") from error


def encode(payload: Payload) -> NDArray[np.int8]:
    """Return the codeword of a payload, +1 for 0 and -1 for 1, [CODE_BITS]."""
    bits = to_bits(payload) + [0] * _MEMORY
    register, code = 0, []
    for bit in bits:
        register = (register >> 1) | bit << _MEMORY
        code += [(register & generator).bit_count() & 1 for generator in _GENERATORS]
    return (1 - 2 * np.array(code)).astype(np.int8)


def decode(soft: NDArray[np.float32]) -> Payload | None:
    """Return the payload of the likeliest codeword, None where its check says that it is none.

    soft: [CODE_BITS], positive for 0; its size says how sure each is. Of 2**24 readings of noise, one passes the check.
    """
    steps = soft.reshape(-1, len(_GENERATORS))
    sources, outputs = _trellis()
    score = np.full(2**_MEMORY, -np.inf, np.float32)
    score[0] = 0
    choices = np.empty((len(steps), 2**_MEMORY), np.uint8)
    states = np.arange(2**_MEMORY)
    for index, received in enumerate(steps):
        candidates = score[sources] + outputs @ received
        choices[index] = candidates.argmax(axis=1)
        score = candidates[states, choices[index]]
    state, number = 0, 0
    for index in reversed(range(len(steps))):
        if index < _MESSAGE_BITS:
            number |= (state >> (_MEMORY - 1)) << (_MESSAGE_BITS - 1 - index)
        state = int(sources[state, choices[index, state]])
    message, check = number >> CHECK_BITS, number & (2**CHECK_BITS - 1)
    if _check(message) != check:
        return None
    return Payload(message >> CLIP_BITS, message & (2**CLIP_BITS - 1))


def to_bits(payload: Payload) -> list[int]:
    """Return a payload and its check as they are, 88 bits, for marks that mend errors themselves."""
    number = payload.maker << CLIP_BITS | payload.clip
    value = number << CHECK_BITS | _check(number)
    return [value >> place & 1 for place in reversed(range(_MESSAGE_BITS))]


def from_bits(bits: Sequence[int]) -> Payload | None:
    """Return the payload of what `to_bits` gave and of bits after it, None where its check says that it is none."""
    number = 0
    for bit in bits[:_MESSAGE_BITS]:
        number = number << 1 | bit
    message, check = number >> CHECK_BITS, number & (2**CHECK_BITS - 1)
    # Nothing but zeros is what a decoder gives that sees nothing; their check is not 0, so they do not pass.
    return Payload(message >> CLIP_BITS, message & (2**CLIP_BITS - 1)) if _check(message) == check else None


@lru_cache(maxsize=1)
def _trellis() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each state its two predecessors [256, 2], and what is sent on the way from them, +1 or -1, [256, 2, 4]."""
    states = np.arange(2**_MEMORY)
    # A state holds the last eight bits, the newest on top; its predecessor's oldest bit is lost.
    sources = np.stack([(states << 1 & (2**_MEMORY - 1)) | oldest for oldest in (0, 1)], axis=1)
    registers = (states[:, None] << 1) | np.array([0, 1])
    parities = [[[(int(r) & g).bit_count() & 1 for g in _GENERATORS] for r in row] for row in registers]
    return sources, (1 - 2 * np.array(parities)).astype(np.float32)


def _check(number: int) -> int:
    value = _START
    for byte in number.to_bytes((MAKER_BITS + CLIP_BITS) // 8, "big"):
        value ^= byte << 16
        for _ in range(8):
            value <<= 1
            if value & 1 << CHECK_BITS:
                value ^= _POLYNOMIAL | 1 << CHECK_BITS
    return value
