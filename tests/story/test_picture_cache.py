"""Decoded pictures that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from edgereel.core.errors import EngineError
from edgereel.story.film.picture_cache import PictureCache, picture_key

PICTURES = [np.random.default_rng(number).integers(0, 256, (18, 22, 3), np.uint8) for number in range(5)]
KEY = picture_key("a", None, 1)


def test_they_come_back_without_loss(tmp_path):
    cache = PictureCache(tmp_path)
    assert cache.read(KEY, 5) is None
    pictures = cache.keeping(KEY, iter(PICTURES), 5)
    for _ in range(5):
        next(pictures)
    back = cache.read(KEY, 5)
    assert back is not None
    assert np.array_equal(np.stack(list(back)), np.stack(PICTURES))
    rest = cache.read(KEY, 5, 3)
    assert rest is not None
    assert np.array_equal(np.stack(list(rest)), np.stack(PICTURES[3:]))
    assert cache.read(KEY, 4) is None
    assert cache.read(picture_key("a", None, 2), 5) is None


def test_a_scene_that_stops_is_not_kept(tmp_path):
    cache = PictureCache(tmp_path)
    pictures = cache.keeping(KEY, iter(PICTURES), 5)
    next(pictures)
    pictures.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_damaged_is_removed(tmp_path):
    cache = PictureCache(tmp_path)
    list(cache.keeping(KEY, iter(PICTURES), 5))
    path = tmp_path / f"{KEY}.mkv"
    path.write_bytes(path.read_bytes()[:-1500])
    back = cache.read(KEY, 5)
    if back is not None:
        with pytest.raises(EngineError, match="damaged"):
            list(back)
        assert not path.exists()
    path.write_bytes(b"nothing")
    assert cache.read(KEY, 5) is None


def test_pictures_of_another_scene_in_its_place_are_not_shown(tmp_path):
    cache = PictureCache(tmp_path)
    list(cache.keeping(KEY, iter(PICTURES), 5))
    other = picture_key("other", None, 1)
    (tmp_path / f"{KEY}.mkv").rename(tmp_path / f"{other}.mkv")
    assert cache.read(other, 5) is None


def test_the_folder_keeps_to_its_limit(tmp_path):
    cache = PictureCache(tmp_path, limit=4000)
    for name in "abc":
        list(cache.keeping(picture_key(name, None, 1), iter(PICTURES), 5))
    assert [path.name for path in tmp_path.iterdir()] == [f"{picture_key('c', None, 1)}.mkv"]


def test_where_nothing_can_be_kept_they_pass(tmp_path):
    (tmp_path / "file").write_text("")
    cache = PictureCache(tmp_path / "file")
    assert len(list(cache.keeping(KEY, iter(PICTURES), 5))) == 5
