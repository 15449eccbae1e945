from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereel.bundle.geometry import clip_size, latent_shape
from edgereel.bundle.manifest import LatentGeometry
from edgereel.core.errors import GeometryError

pytestmark = pytest.mark.lean

WAN = LatentGeometry(channels=16, temporal_scale=4, spatial_scale=8, patch=[1, 2, 2], max_patches=64)
PAIRS_IN_TIME = LatentGeometry(channels=3, temporal_scale=4, spatial_scale=8, patch=[2, 1, 1], max_patches=5)


@pytest.mark.parametrize(
    ("size", "frames", "shape"),
    [
        ((832, 480), 81, (1, 16, 21, 60, 104)),
        ((64, 64), 17, (1, 16, 5, 8, 8)),
        ((16, 16), 1, (1, 16, 1, 2, 2)),
        ((1024, 16), 253, (1, 16, 64, 2, 128)),
    ],
)
def test_latents_of_a_clip(size, frames, shape):
    assert latent_shape(WAN, *size, frames) == shape
    assert clip_size(WAN, shape) == (*size, frames)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ((60, 64), "64x64"),
        ((64, 41), "64x48"),
        ((64, 39), "64x32"),
        ((0, 64), "16x64"),
        ((-5, -5), "16x16"),
        ((5000, 64), "1024x64"),
        ((10**400, 1), "1024x16"),
    ],
)
def test_the_nearest_size_is_named(asked, nearest):
    with pytest.raises(
        GeometryError, match=rf"size {asked[0]}x{asked[1]} is not possible .* the nearest is {nearest}$"
    ):
        latent_shape(WAN, *asked, 17)


@pytest.mark.parametrize(
    ("asked", "nearest"), [(0, 1), (-7, 1), (2, 1), (4, 5), (16, 17), (18, 17), (254, 253), (10**400, 253)]
)
def test_the_nearest_number_of_frames_is_named(asked, nearest):
    with pytest.raises(GeometryError, match=rf"the nearest is {nearest} \(1 and any multiple of 4 more\)"):
        latent_shape(WAN, 64, 64, asked)


@pytest.mark.parametrize(("asked", "nearest"), [(1, 5), (8, 5), (10, 13), (17, 21), (999, 37)])
def test_patches_in_time(asked, nearest):
    with pytest.raises(GeometryError, match=rf"the nearest is {nearest} \(5 and any multiple of 8 more\)"):
        latent_shape(PAIRS_IN_TIME, 40, 40, asked)
    assert latent_shape(PAIRS_IN_TIME, 40, 40, nearest)[2] % 2 == 0


geometries = st.builds(
    LatentGeometry,
    channels=st.just(4),
    temporal_scale=st.integers(1, 8),
    spatial_scale=st.integers(1, 32),
    patch=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    max_patches=st.integers(1, 40),
)


@given(latent=geometries, size=st.tuples(st.integers(-9, 9999), st.integers(-9, 9999)), frames=st.integers(-9, 999))
def test_what_is_named_as_nearest_is_possible_and_nothing_is_nearer(latent, size, frames):
    possible_frames = [
        1 + (count * latent.patch[0] - 1) * latent.temporal_scale for count in range(1, latent.max_patches + 1)
    ]
    widths = [count * latent.patch[2] * latent.spatial_scale for count in range(1, latent.max_patches + 1)]
    heights = [count * latent.patch[1] * latent.spatial_scale for count in range(1, latent.max_patches + 1)]
    width, height = widths[-1], heights[-1]
    if frames in possible_frames:
        assert clip_size(latent, latent_shape(latent, width, height, frames)) == (width, height, frames)
    else:
        with pytest.raises(GeometryError) as caught:
            latent_shape(latent, width, height, frames)
        named = int(str(caught.value).split("nearest is ")[1].split()[0])
        assert named in possible_frames
        assert abs(named - frames) == min(abs(possible - frames) for possible in possible_frames)
    if size[0] not in widths or size[1] not in heights:
        with pytest.raises(GeometryError) as caught:
            latent_shape(latent, *size, possible_frames[0])
        named_size = [int(number) for number in str(caught.value).split("nearest is ")[1].split("x")]
        for asked, named, possible in zip(size, named_size, (widths, heights), strict=True):
            assert named in possible
            assert abs(named - asked) == min(abs(length - asked) for length in possible)
