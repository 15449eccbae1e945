"""Clip metrics against closed forms and against the papers' formulas written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereel.quality.metrics import gradient_deviation, motion, psnr, ssim

SHAPE = (2, 16, 18, 3)
CLIPS = st.binary(min_size=math.prod(SHAPE), max_size=math.prod(SHAPE)).map(
    lambda values: np.frombuffer(values, np.uint8).reshape(SHAPE)
)
LUMA = np.array([0.2126, 0.7152, 0.0722])


def noisy(clip: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    noise = np.random.RandomState(seed).normal(0, deviation, clip.shape)
    return np.clip(clip + noise, 0, 255).round().astype(np.uint8)


@pytest.fixture
def clip() -> np.ndarray:
    rng = np.random.RandomState(5)
    coarse = rng.randint(40, 216, (3, 6, 7, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


def test_psnr_of_a_constant_difference(clip):
    assert psnr(clip, clip + np.uint8(5)) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(clip, clip) == 100


def test_motion_of_a_constant_change():
    brightening = np.arange(0, 40, 4, dtype=np.uint8)[:, None, None, None] + np.zeros((10, 8, 8, 3), np.uint8)
    assert motion(brightening) == pytest.approx(4)
    assert motion(brightening[:1]) == 0


def test_ssim_of_flat_pictures_is_its_luminance_term():
    a, b = (np.full((1, 16, 16, 3), value, np.uint8) for value in (100, 140))
    constant = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 140 + constant) / (100**2 + 140**2 + constant))


def test_ssim_is_the_papers_formula(clip):
    other = noisy(clip, 12)
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 4.5)
    window /= window.sum()
    scores = []
    for a, b in zip(clip @ LUMA, other @ LUMA, strict=True):
        for y in range(a.shape[0] - 10):
            for x in range(a.shape[1] - 10):
                p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                c1, c2 = 6.5025, 58.5225
                scores.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    per_frame = np.array(scores).reshape(len(clip), -1).mean(axis=1)
    assert ssim(clip, other) == pytest.approx(per_frame.mean(), rel=1e-9)


def test_gradient_deviation_is_the_papers_formula(clip):
    other = noisy(clip, 12)
    deviations = []
    for a, b in zip(clip @ LUMA, other @ LUMA, strict=True):
        magnitudes = []
        for plane in (a, b):
            small = plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean(axis=(1, 3))
            padded = np.pad(small, 1, mode="edge")
            kernel = np.array([[1, 0, -1]] * 3) / 3
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
            magnitudes.append(np.hypot((windows * kernel).sum((-1, -2)), (windows * kernel.T).sum((-1, -2))))
        m, n = magnitudes
        deviations.append(((2 * m * n + 170) / (m**2 + n**2 + 170)).std())
    assert gradient_deviation(clip, other) == pytest.approx(np.mean(deviations), rel=1e-9)


def test_more_noise_is_worse_by_every_measure(clip):
    levels = [noisy(clip, deviation) for deviation in (2, 8, 32)]
    assert psnr(clip, levels[0]) > psnr(clip, levels[1]) > psnr(clip, levels[2])
    assert ssim(clip, levels[0]) > ssim(clip, levels[1]) > ssim(clip, levels[2])
    assert (
        gradient_deviation(clip, levels[0]) < gradient_deviation(clip, levels[1]) < gradient_deviation(clip, levels[2])
    )


@given(CLIPS, CLIPS)
def test_bounds_symmetry_and_equality(a, b):
    assert ssim(a, a) == pytest.approx(1)
    assert gradient_deviation(a, a) == 0
    assert -1 <= ssim(a, b) <= 1 + 1e-12
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert psnr(a, b) == pytest.approx(psnr(b, a))
    assert 0 <= gradient_deviation(a, b) <= 1
