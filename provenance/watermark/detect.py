"""Finding a watermark in frames of which nothing is known: not their size, crop, speed or whether they are mirrored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pattern import PUBLIC_KEY, REACH, TILE, Pattern, pattern_of
from .payload import Payload, decode, encode

_LEAST_SCALE, _MOST_SCALE = 0.3, 2.2
_ATTEMPTS = 8
"""Codewords that are tried: noise passes one's check once in 2**24, so a file without a mark has one in two million."""
_STEP = 8.0
"""Between two sizes that are tried, in pixels over the whole picture: half a wave of the finest at its edges."""
_CLIP = 1.5
_LIMIT = 0.5
_COARSE = 64
"""Places a side of a tile that are looked at while sizes are searched."""
_FLIPS = ((False, False), (True, False), (False, True), (True, True))


@dataclass(frozen=True)
class Detection:
    """What was found in frames.

    payload: None where there is no mark. scale: size of what was found, of the size that it was made in. mirrored: left and
    right, or top and bottom, are exchanged. score: how far the pilots stand out of chance, in standard deviations.
    agreement: the part of the codeword's bits that was read right. frames: how many were looked at. bits: the codeword as it
    was read in the likeliest place, [CODE_BITS], positive for 0, even where its check fails; None where nothing was read.
    """

    payload: Payload | None
    score: float
    scale: float = 1.0
    mirrored: bool = False
    agreement: float = 0.0
    frames: int = 0
    bits: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


class FrameAverage:
    """What stays where it is while pictures change: the mark, since each frame has the same."""

    def __init__(self) -> None:
        self.total: NDArray[np.float32] | None = None
        self.count = 0

    def add(self, luma: NDArray[np.uint8]) -> None:
        """Add the brightness of a frame, [H, W]. Frames of another size than the first are left out."""
        if self.total is not None and self.total.shape != luma.shape:
            return
        detail = _detail(luma)
        self.total = detail if self.total is None else self.total + detail
        self.count += 1


def detect(lumas: Iterable[NDArray[np.uint8]], key: str = PUBLIC_KEY) -> Detection:
    """Look for a mark in frames' brightness, uint8 [H, W] each, all of one size."""
    average = FrameAverage()
    for luma in lumas:
        average.add(luma)
    return find(average, key)


def find(average: FrameAverage, key: str = PUBLIC_KEY) -> Detection:
    """Look for a mark in what an average has gathered."""
    if average.total is None or min(average.total.shape) < 16 or not average.total.any():
        return Detection(None, 0.0, frames=average.count)
    search = _Search(average.total, pattern_of(key))
    best, bits = 0.0, None
    for candidate in search.candidates():
        soft = search.read(candidate)
        if candidate.score > best:
            best, bits = candidate.score, soft
        payload = decode(soft)
        if payload is not None:
            agreement = float(np.mean(np.sign(soft) == encode(payload)))
            mirrored = candidate.flip_across or candidate.flip_down
            scale = float(np.sqrt(candidate.scale_across * candidate.scale_down))
            return Detection(payload, candidate.score, scale, mirrored, agreement, average.count, soft)
    return Detection(None, best, frames=average.count, bits=bits)


@dataclass(frozen=True)
class _Candidate:
    score: float
    scale_across: float
    scale_down: float
    flip_across: bool
    flip_down: bool
    shift_across: int
    shift_down: int


class _Search:
    """One averaged picture, and the spectra of it at sizes that are tried."""

    def __init__(self, picture: NDArray[np.float32], pattern: Pattern) -> None:
        self._picture = picture
        self._pattern = pattern
        self._rings = np.rint(np.hypot(pattern.across, pattern.down)).astype(np.int64)

    def candidates(self) -> Iterator[_Candidate]:
        """Yield the likeliest sizes and places of a mark, _ATTEMPTS at most; first that of the usual sizes."""
        yield self._refine(self._located([1.0, 0.5, 0.75, 2 / 3, 1.5, 2.0])[0])
        scales = [_LEAST_SCALE]
        while scales[-1] < _MOST_SCALE:
            scales.append(scales[-1] * (1 + min(0.02, _STEP * scales[-1] / max(self._picture.shape))))
        kept: list[_Candidate] = []
        for candidate in self._located(scales):
            if all(abs(candidate.scale_across / other.scale_across - 1) > 0.02 for other in kept):
                kept.append(candidate)
        refined = [self._refine(candidate) for candidate in kept[: _ATTEMPTS - 1]]
        yield from sorted(refined, key=lambda candidate: -candidate.score)

    def read(self, candidate: _Candidate) -> NDArray[np.float32]:
        """Return the codeword's bits as read, [CODE_BITS], each as strong as it is sure."""
        pattern = self._pattern
        spectrum = self._spectrum(candidate.scale_across, candidate.scale_down)
        values: NDArray[Any] = self._flipped(spectrum, candidate.flip_across, candidate.flip_down)
        turn = pattern.across * candidate.shift_across + pattern.down * candidate.shift_down
        values = values * np.exp(2j * np.pi * turn / TILE) * pattern.phases.conj()
        # How well each ring came through is known from its pilots, and its neighbours'.
        weights = np.empty(len(values), np.float32)
        pilot_values, pilot_rings = values[pattern.pilots].real, self._rings[pattern.pilots]
        for ring in np.unique(self._rings):
            near = np.exp(-0.5 * ((pilot_rings - ring) / 1.5) ** 2)
            weights[self._rings == ring] = max(float(near @ pilot_values / near.sum()), 0.02)
        read = (values * weights)[pattern.data]
        return np.stack([read.real, read.imag], axis=1).ravel().astype(np.float32)

    def _located(self, scales: list[float]) -> list[_Candidate]:
        found = [self._locate(scale, scale, _COARSE) for scale in scales]
        return sorted(found, key=lambda candidate: -candidate.score)

    def _refine(self, start: _Candidate) -> _Candidate:
        """Return the best candidate near one: width and height may have been changed by different parts."""
        height, width = self._picture.shape
        best = start
        for part in (3.0, 1.5):
            step_across, step_down = (part * best.scale_across / side for side in (width, height))
            for across in (-1, 0, 1):
                for down in (-1, 0, 1):
                    sizes = best.scale_across + across * step_across, best.scale_down + down * step_down
                    tried = self._locate(*sizes, _COARSE)
                    start = tried if tried.score > start.score else start
            best = start
        return self._locate(best.scale_across, best.scale_down)

    def _locate(self, scale_across: float, scale_down: float, grid: int = TILE) -> _Candidate:
        """Return the likeliest place of a mark of one size, mirrored or not, on a grid of so many places a side of a tile."""
        fits = self._pilots_fit(self._spectrum(scale_across, scale_down), grid)
        flat = fits.reshape(len(_FLIPS), -1)
        best = flat.argmax(axis=1)
        scores = flat[np.arange(len(_FLIPS)), best] / (np.sqrt(np.mean(flat**2, axis=1)) + 1e-12)
        flipped = int(scores.argmax())
        shift_down, shift_across = (int(shift) * TILE // grid for shift in divmod(int(best[flipped]), grid))
        flip_across, flip_down = _FLIPS[flipped]
        return _Candidate(
            float(scores[flipped]), scale_across, scale_down, flip_across, flip_down, shift_across, shift_down
        )

    def _pilots_fit(self, spectrum: NDArray[np.complex64], grid: int) -> NDArray[np.float32]:
        """Return how well the pilots fit at each place in a tile, [_FLIPS, grid, grid]: a correlation, by FFT."""
        pattern, pilots = self._pattern, self._pattern.pilots
        values = np.stack([self._flipped(spectrum, *flips) for flips in _FLIPS])[:, pilots]
        values *= pattern.phases[pilots].conj()
        down, across = pattern.down[pilots], pattern.across[pilots]
        right = across > 0
        waves = np.zeros((len(_FLIPS), grid, grid // 2 + 1), np.complex64)
        waves[:, down[right], across[right]] = values[:, right]
        waves[:, -down[~right], -across[~right]] = values[:, ~right].conj()
        return np.asarray(np.fft.irfft2(waves, (grid, grid)), np.float32)

    def _spectrum(self, scale_across: float, scale_down: float) -> NDArray[np.complex64]:
        """Return what the picture holds of waves that repeat so often in a tile of that size, [2·REACH+1, 2·REACH+1].

        First index: down, second: across, both from -REACH to REACH.
        """
        height, width = self._picture.shape
        across, down = _waves(width, TILE * scale_across), _waves(height, TILE * scale_down)
        # In two real products, which are half of a complex one.
        rows = self._picture @ across.real + 1j * (self._picture @ across.imag)
        half = np.concatenate([(down.conj().T @ rows)[:0:-1], down.T @ rows]).astype(np.complex64)
        return np.concatenate([half[::-1, :0:-1].conj(), half], axis=1)

    def _flipped(self, spectrum: NDArray[np.complex64], flip_across: bool, flip_down: bool) -> NDArray[np.complex64]:
        """Return the pattern's waves out of a spectrum, [N], as if the picture had been mirrored back.

        Rings are brought to one power, as in phase-only matched filters (Kalker and Janssen, 1999).
        """
        across = -self._pattern.across if flip_across else self._pattern.across
        down = -self._pattern.down if flip_down else self._pattern.down
        values: NDArray[Any] = spectrum[down + REACH, across + REACH]
        power = np.bincount(self._rings, np.abs(values) ** 2) / np.maximum(np.bincount(self._rings), 1)
        values = values / np.sqrt(power[self._rings] + 1e-12)
        # Where a picture itself has strong waves, only their phase is believed.
        return np.asarray(values / np.maximum(np.abs(values), _LIMIT), np.complex64)


def _waves(length: int, period: float) -> NDArray[np.complex64]:
    """Return exp(-2πi·k·x/period) for x below length and k from 0 to REACH, [length, REACH+1]."""
    turns = np.outer(np.arange(length) / period, np.arange(REACH + 1)).astype(np.float32)
    turns *= np.float32(-2 * np.pi)
    waves = np.empty(turns.shape, np.complex64)
    np.cos(turns, out=waves.real)
    np.sin(turns, out=waves.imag)
    return waves


def _detail(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a picture's detail, each place in units of what is usual around it, so that edges do not drown the mark."""
    sums = _sums(luma, 7, np.int64)
    detail = _mean(sums, 1, 7) - _mean(sums, 6, 7)
    around = _mean(_sums(detail * detail, 8, np.float64), 8, 8)
    around += 0.2
    detail /= np.sqrt(around, out=around)
    return np.clip(detail, -_CLIP, _CLIP, out=detail)


def _sums(picture: NDArray[Any], margin: int, kind: type) -> NDArray[Any]:
    """Return sums over all above and left of each place (Crow, 1984); the picture goes on for a margin as it ends."""
    sums = np.pad(picture, ((margin + 1, margin), (margin + 1, margin)), mode="edge").cumsum(axis=0, dtype=kind)
    return np.cumsum(sums, axis=1, out=sums)


def _mean(sums: NDArray[Any], radius: int, margin: int) -> NDArray[np.float32]:
    """Return the mean over squares of 2·radius+1 pixels a side around each place of a picture of which `sums` are."""
    side, first = 2 * radius + 1, margin - radius
    rows, columns = (length - 2 * margin - 1 for length in sums.shape)
    upper, lower = slice(first, first + rows), slice(first + side, first + side + rows)
    left, right = slice(first, first + columns), slice(first + side, first + side + columns)
    total = sums[lower, right] - sums[upper, right]
    total -= sums[lower, left]
    total += sums[upper, left]
    return np.asarray(total / side**2, np.float32)
