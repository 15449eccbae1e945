"""How far two clips are apart: peak signal-to-noise ratio, structural similarity, gradient similarity, motion.

Clips are uint8 [frames, height, width, 3]; luma is BT.709's, 0 to 255.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.uint8]
Plane = NDArray[np.float64]

PSNR_OF_EQUAL_FRAMES = 100.0
_LUMA = np.array([0.2126, 0.7152, 0.0722])


def psnr(reference: Clip, clip: Clip) -> float:
    """Return the peak signal-to-noise ratio in dB over a whole clip; 100 where every value is equal."""
    return decibels(float(np.square(reference.astype(np.float64) - clip).mean()), 255.0)


def decibels(squared_error: float, peak: float) -> float:
    """Return the peak signal-to-noise ratio of a mean squared error, where white is `peak`; 100 at most, and for no error."""
    found = 10 * math.log10(peak**2 / squared_error) if squared_error else PSNR_OF_EQUAL_FRAMES
    return min(PSNR_OF_EQUAL_FRAMES, found)


def ssim(reference: Clip, clip: Clip) -> float:
    """Return the mean structural similarity of the frames' luma, at most 1, which equal frames have.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861): Gaussian window of 11 with sigma 1.5, K1 0.01, K2 0.03, without borders.
    Smaller frames are measured with the largest odd window that fits.
    """
    window = _gaussian(min(11, *(side - (side + 1) % 2 for side in reference.shape[1:3])))
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for a, b in zip(_luma(reference), _luma(clip), strict=True):
        mean_a, mean_b = _blur(a, window), _blur(b, window)
        variance_a, variance_b = _blur(a * a, window) - mean_a**2, _blur(b * b, window) - mean_b**2
        covariance = _blur(a * b, window) - mean_a * mean_b
        top = (2 * mean_a * mean_b + first) * (2 * covariance + second)
        scores.append((top / ((mean_a**2 + mean_b**2 + first) * (variance_a + variance_b + second))).mean())
    return float(np.mean(scores))


def gradient_deviation(reference: Clip, clip: Clip) -> float:
    """Return the mean gradient magnitude similarity deviation of the frames' luma; 0 for equal frames, larger is worse.

    GMSD, Xue et al. 2014 (arXiv 1308.3052): Prewitt gradients at half size, constant 170. A perceptual distance that
    needs no network; blur and broken edges show in it long before they show in the PSNR.
    """
    deviations = []
    for a, b in zip(_luma(reference), _luma(clip), strict=True):
        edges_a, edges_b = _edges(_halved(a)), _edges(_halved(b))
        similarity = (2 * edges_a * edges_b + 170) / (edges_a**2 + edges_b**2 + 170)
        deviations.append(similarity.std())
    return float(np.mean(deviations))


def motion(clip: Clip) -> float:
    """Return how much changes from frame to frame: the root mean square difference of neighbours, 0 to 255."""
    if len(clip) < 2:
        return 0.0
    return float(np.sqrt(np.square(np.diff(clip.astype(np.float64), axis=0)).mean()))


def _luma(clip: Clip) -> NDArray[np.float64]:
    planes: NDArray[np.float64] = clip.astype(np.float64) @ _LUMA
    return planes


def _gaussian(size: int) -> NDArray[np.float64]:
    offsets = np.arange(size) - size // 2
    weights = np.exp(-np.square(offsets) / (2 * 1.5**2))
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def _blur(plane: Plane, window: NDArray[np.float64]) -> Plane:
    """Return the plane weighted by the window along both axes, where the window fits."""
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(plane, len(window), axis=axis)
        plane = views @ window
    return plane


def _halved(plane: Plane) -> Plane:
    height, width = (side - side % 2 for side in plane.shape)
    if min(height, width) < 8:
        return plane
    halved: Plane = plane[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return halved


def _edges(plane: Plane) -> Plane:
    """Return the magnitude of Prewitt's gradient, edges repeated."""
    padded = np.pad(plane, 1, mode="edge")
    rows = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    columns = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    return np.hypot(rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2])
