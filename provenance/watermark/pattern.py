"""The keyed tile that carries a codeword: which waves it is made of.

A tile of 128 pixels is repeated over the picture, so that any crop holds whole ones and its place is found by correlation
(Kalker, Depovere, Haitsma, Maes: A video watermarking system for broadcast monitoring, SPIE 3657, 1999). It is made of
waves of low frequency, which encoders keep and which cost few bytes. Part of them are pilots of known phase; each other
one carries two bits of the codeword in its phase, as spread-spectrum marks do (Cox, Kilian, Leighton, Shamoon, IEEE Trans.
Image Processing 6, 1997).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .payload import CODE_BITS

TILE = 128
"""Pixels a side after which the mark repeats, in the size that the clip was made in."""
PUBLIC_KEY = "edgereel"
"""The key that is used where no other is configured: everyone can read such marks."""
_LOWEST = 2.5  # waves per tile
_PILOTS = 96
_DATA = CODE_BITS // 2
REACH = 14
"""No wave repeats more often than this in a tile, in either direction: 16 would be the grid of 8x8 blocks of encoders."""


@dataclass(frozen=True)
class Pattern:
    """The waves of one key. All arrays are in one order of waves.

    across, down: how often a wave repeats in a tile, [N]; of a wave and its opposite only one is listed. phases: the keyed
    phase of each, unit complex. pilots, data: indices of waves; the data ones in the order of the codeword's pairs of bits.
    """

    across: NDArray[np.int64]
    down: NDArray[np.int64]
    phases: NDArray[np.complex64]
    pilots: NDArray[np.int64]
    data: NDArray[np.int64]

    def tile(self, code: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return the tile of a codeword, [TILE, TILE], of mean 0 and variance 1."""
        values = self.phases.astype(np.complex128)
        pairs = code.reshape(-1, 2)
        values[self.data] *= (pairs[:, 0] + 1j * pairs[:, 1]) / np.sqrt(2)
        # Lower waves are stronger: they outlive more, cost fewer bytes, and hide in what pictures have most of.
        values /= np.hypot(self.down, self.across)
        spectrum = np.zeros((TILE, TILE), np.complex128)
        spectrum[self.down, self.across] = values
        spectrum[-self.down, -self.across] = values.conj()
        tile = np.fft.ifft2(spectrum).real
        return np.asarray(tile / tile.std(), np.float32)


@lru_cache(maxsize=4)
def pattern_of(key: str) -> Pattern:
    """Return the waves of a key."""
    down, across = np.mgrid[1 : REACH + 1, -REACH : REACH + 1]
    # The edges of letterboxes and screens lie along the axes, so no wave runs along one.
    radius = np.where(across == 0, np.inf, np.hypot(down, across))
    order = np.argsort(np.where(radius < _LOWEST, np.inf, radius), axis=None, kind="stable")[: _PILOTS + _DATA]
    random = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")))
    phases = np.exp(2j * np.pi * random.random(len(order))).astype(np.complex64)
    # Every third wave, counted outwards, is a pilot: what becomes of a ring is then known for its data.
    pilots = np.arange(len(order))[1::3]
    data = random.permutation(np.setdiff1d(np.arange(len(order)), pilots))
    return Pattern(across.ravel()[order], down.ravel()[order], phases, pilots, data)
