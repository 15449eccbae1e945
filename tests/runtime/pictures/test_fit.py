"""Scaling as Pillow does it, cut or padded to a shape."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgereel.runtime.pictures.fit import fit_for_encoder, fit_picture

pytestmark = pytest.mark.lean


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "made"), [(300, 400, (64, 48)), (40, 30, (128, 128)), (333, 517, (300, 200)), (7, 3, (64, 8))]
)
def test_cropping_is_pillows_lanczos_of_the_middle(height, width, made):
    picture = noise(height, width)
    scale = min(width / made[0], height / made[1])
    across, down = made[0] * scale, made[1] * scale
    box = ((width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2)
    expected = np.asarray(Image.fromarray(picture).resize(made, Image.Resampling.LANCZOS, box=box))
    fitted = fit_picture(picture, *made)
    difference = np.abs(fitted.astype(int) - expected)
    assert fitted.shape == (made[1], made[0], 3)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (20, 400), (64, 64)])
def test_padding_keeps_the_whole_picture_between_black_bars(height, width):
    fitted = fit_picture(noise(height, width) // 2 + 100, 64, 48, "pad")
    shown = fitted.max(axis=2) > 20
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    inner = len(rows), len(columns)
    assert inner in [(48, min(64, round(48 * width / height))), (min(48, max(1, round(64 * height / width))), 64)]
    assert shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert abs(int(rows[0]) - (47 - int(rows[-1]))) <= 1
    assert abs(int(columns[0]) - (63 - int(columns[-1]))) <= 1


def test_a_picture_of_the_size_is_not_touched():
    picture = noise(48, 64)
    for fit in ("crop", "pad"):
        assert np.array_equal(fit_picture(picture, 64, 48, fit), picture)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (90, 31), (224, 224)])
def test_an_image_encoder_gets_what_clips_processor_gives(height, width):
    picture, side = noise(height, width), 32
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    scaled = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    resized = np.asarray(Image.fromarray(picture).resize(scaled, Image.Resampling.BICUBIC))
    top, left = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
    square = resized[top : top + side, left : left + side].astype(np.float32) / 255
    expected = ((square - mean) / std).transpose(2, 0, 1)[None]
    pixels = fit_for_encoder(picture, side, mean, std)
    assert pixels.dtype == np.float32
    assert pixels.shape == (1, 3, side, side)
    assert np.abs(pixels - expected).max() < 1.01 / 255 / 0.26
    assert np.abs(pixels - expected).mean() < 1e-3
