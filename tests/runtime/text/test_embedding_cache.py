"""Embeddings in a folder: what comes back is to the bit what went in, or nothing; the folder stays within its limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereel.runtime.text.embedding_cache import CachedEmbedding, EmbeddingCache, embedding_key, entry_size

pytestmark = pytest.mark.lean

KEY, OTHER = embedding_key({"prompt": "a"}), embedding_key({"prompt": "b"})
LENGTH, WIDTH = 5, 3
SIZE = entry_size(LENGTH, WIDTH, 2)


def embedding(seed=0, length=LENGTH, width=WIDTH, rows=2):
    """Return random rows, then padding of 0.0 and -0.0 as a mask leaves it."""
    values = np.random.default_rng(seed).standard_normal((1, length, width)).astype(np.float32)
    values[0, rows:] *= 0
    return CachedEmbedding(values, "CPUExecutionProvider", "float32")


def same(found, expected):
    return found is not None and found.values.tobytes() == expected.values.tobytes() and found[1:] == expected[1:]


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache" / "embeddings")


@pytest.mark.parametrize(("length", "width", "rows"), [(5, 3, 2), (5, 3, 5), (5, 3, 0), (1, 1, 1), (512, 64, 30)])
def test_what_comes_back_is_to_the_bit_what_went_in(cache, length, width, rows):
    given = embedding(1, length, width, rows)
    size = cache.put(KEY, given)
    assert same(cache.get(KEY, length, width), given)
    assert same(cache.get(KEY, length), given)
    assert cache.size_of(KEY, length, width) == size == cache._path(KEY).stat().st_size
    assert size == entry_size(length, width, max(rows, 1))
    assert cache.get(OTHER, length, width) is None
    assert [path.suffix for path in cache.folder.iterdir()] == [".embedding"]


def test_values_far_from_one(cache):
    given = embedding()
    given.values[0, 0] = [np.finfo(np.float32).max, 1e-45, -0.0]
    cache.put(KEY, given)
    assert same(cache.get(KEY, LENGTH, WIDTH), given)


def test_padding_takes_a_bit_a_value():
    assert entry_size(512, 4096, 30) < 0.75e6 < 8e6 < entry_size(512, 4096, 512)


@pytest.mark.parametrize(
    ("length", "width"), [(LENGTH + 1, WIDTH), (LENGTH, WIDTH + 1), (WIDTH, LENGTH), (LENGTH - 1, None), (1, WIDTH)]
)
def test_another_shape_is_missing(cache, length, width):
    cache.put(KEY, embedding())
    assert cache.get(KEY, length, width) is None
    assert cache.size_of(KEY, length, width) is None


def damaged(cache, content):
    """Put content in an entry's place; it must count as missing, without an error, and be replaced by the next put."""
    cache._path(KEY).write_bytes(content)
    assert cache.get(KEY, LENGTH, WIDTH) is None
    assert cache.get(KEY, LENGTH) is None
    cache.size_of(KEY, LENGTH, WIDTH)
    cache.put(KEY, embedding())
    assert same(cache.get(KEY, LENGTH, WIDTH), embedding())


def test_any_flipped_byte_and_any_truncation(cache):
    cache.put(KEY, embedding())
    content = cache._path(KEY).read_bytes()
    assert len(content) == SIZE
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 + position % 255
        damaged(cache, bytes(flipped))
        damaged(cache, content[:position])
    damaged(cache, content + b"\0")


@given(st.binary(max_size=700), st.booleans())
def test_a_foreign_file(tmp_path_factory, content, with_magic):
    cache = EmbeddingCache(tmp_path_factory.mktemp("foreign"))
    damaged(cache, (b"edgereel embed 1" if with_magic else b"") + content)


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER},
        {"shape": [LENGTH, 2**40]},
        {"shape": [2**62, WIDTH]},
        {"shape": [LENGTH]},
        {"shape": "53"},
        {"shape": {"5": 1, "3": 2}},
        {"shape": [LENGTH, -WIDTH]},
        {"shape": [LENGTH, float(WIDTH)]},
        {"rows": -1},
        {"rows": True},
        {"rows": 10**30},
        {"ran": ["cpu"]},
        {"ran": ["cpu", 32]},
        {"ran": None},
        {"values": np.float32("nan")},
        {"values": np.float32("inf")},
        {"text": b"[" * 464},
        {"text": b"[]" + b" " * 462},
        {"text": b"9" * 464},
    ],
    ids=lambda change: str(change)[:40],
)
def test_an_entry_with_a_right_checksum_and_something_wrong_in_it(cache, change):
    import hashlib
    import json

    cache.put(KEY, embedding())
    content = cache._path(KEY).read_bytes()
    header, values = content[48:512], content[512:]
    data = json.loads(header)
    if "values" in change:
        values = np.array(change["values"]).tobytes() + values[4:]
    elif "text" not in change:
        assert set(change) <= set(data)
        data.update(change)
    header = change.get("text") or json.dumps(data).encode().ljust(464)
    damaged(cache, content[:16] + hashlib.sha256(header + values).digest() + header + values)


def test_no_memory_is_taken_for_an_entry_larger_than_the_limit(cache):
    cache.put(KEY, embedding())
    with cache._path(KEY).open("r+b") as file:
        file.truncate(2**40)  # takes no room on the disk
    assert cache.get(KEY, LENGTH, WIDTH) is None


def test_no_memory_is_taken_for_a_shape_that_the_file_does_not_hold(cache):
    cache.put(KEY, embedding())
    path = cache._path(KEY)
    path.write_bytes(path.read_bytes().replace(b"[5, 3]", b"[5, 9999999]").replace(b" " * 6, b"", 1))
    tracemalloc.start()
    try:
        assert cache.get(KEY, LENGTH) is None
        assert tracemalloc.get_traced_memory()[1] < 1e6 < 9_999_999 * LENGTH * 4 < cache.limit
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_what_is_no_regular_file_is_missing(cache, tmp_path):
    cache.put(OTHER, embedding())
    for make in (
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(cache._path(OTHER)),
    ):
        make(cache._path(KEY))
        assert cache.get(KEY, LENGTH, WIDTH) is None
        if cache._path(KEY).is_dir():
            cache._path(KEY).rmdir()
        cache.put(KEY, embedding())
        assert same(cache.get(KEY, LENGTH, WIDTH), embedding())
        cache._path(KEY).unlink()


@pytest.mark.parametrize(
    "values",
    [
        np.full((1, LENGTH, WIDTH), np.nan, np.float32),
        np.full((1, LENGTH, WIDTH), np.inf, np.float32),
        np.zeros((1, LENGTH, WIDTH)),
        np.zeros((2, LENGTH, WIDTH), np.float32),
        np.zeros((1, WIDTH), np.float32),
        np.zeros((1, LENGTH, 0), np.float32),
    ],
    ids=["nan", "inf", "float64", "two", "flat", "empty"],
)
def test_what_is_no_embedding_is_not_kept(cache, values):
    with pytest.raises(ValueError, match="an embedding must be"):
        cache.put(KEY, CachedEmbedding(values, "cpu", "float32"))
    assert not cache.folder.exists()


def test_a_description_that_does_not_fit(cache):
    with pytest.raises(ValueError, match="too long to be kept"):
        cache.put(KEY, embedding()._replace(provider="x" * 464))


def names(cache):
    return {path.name[:1] for path in cache.folder.glob("*.embedding")}


def keys(count):
    return [f"{number:x}" * 64 for number in range(count)]


def test_those_not_used_for_longest_go_first(cache):
    cache.limit = 4 * SIZE
    for key in keys(4):
        cache.put(key, embedding())
    assert cache.get("0" * 64, LENGTH, WIDTH)
    cache.size_of("1" * 64, LENGTH, WIDTH)  # looking is no use
    cache.put("4" * 64, embedding())
    assert names(cache) == set("0234")
    cache.put("2" * 64, embedding(1))
    cache.put("5" * 64, embedding())
    assert names(cache) == set("0245")


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5), st.booleans()), max_size=25), st.integers(600, 3000))
def test_the_limit_holds_whatever_is_done(tmp_path_factory, steps, limit):
    cache = EmbeddingCache(tmp_path_factory.mktemp("bounded"), limit)
    kept = {}
    for number, rows, put in steps:
        key = f"{number}" * 64
        if put:
            kept[key] = embedding(number, rows=rows)
            cache.put(key, kept[key])
            assert same(cache.get(key, LENGTH, WIDTH), kept[key])
        elif found := cache.get(key, LENGTH, WIDTH):
            assert same(found, kept[key])
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= limit


def test_an_embedding_larger_than_the_limit(cache):
    cache.put(KEY, embedding())
    cache.limit = SIZE
    with pytest.raises(ValueError, match="larger than the cache"):
        cache.put(OTHER, embedding(length=500))
    assert same(cache.get(KEY, LENGTH, WIDTH), embedding())


def test_entries_from_the_future_go_first(cache):
    """As after a clock was set back."""
    cache.limit = 2 * SIZE
    cache.put("0" * 64, embedding())
    os.utime(cache._path("0" * 64), (time.time() + 9e5,) * 2)
    cache.put("1" * 64, embedding())
    cache.put("2" * 64, embedding())
    assert names(cache) == set("12")


def test_what_a_killed_process_left_is_removed_and_other_files_are_not(cache):
    cache.put("0" * 64, embedding())
    for name, age in (("old.part", 7200), ("new.part", 60), ("notes.txt", 7200)):
        (cache.folder / name).write_bytes(b"x" * 9999)
        os.utime(cache.folder / name, (time.time() - age,) * 2)
    cache.limit = 2 * SIZE
    cache.put("1" * 64, embedding())
    cache.put("2" * 64, embedding())
    assert names(cache) == set("12")
    assert {path.name for path in cache.folder.glob("*.*") if path.suffix != ".embedding"} == {"new.part", "notes.txt"}


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        cache = EmbeddingCache(folder)
        assert cache.get(KEY, LENGTH) is None
        assert cache.size_of(KEY, LENGTH) is None
        for use in (cache.check_writable, lambda cache=cache: cache.put(KEY, embedding())):
            with pytest.raises(OSError, match="file"):
                use()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_nothing_behind(cache, monkeypatch):
    cache.put(KEY, embedding())

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.put(OTHER, embedding())
    assert [path.name for path in cache.folder.iterdir()] == [f"{KEY}.embedding"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_others_cannot_look_into_the_folder(cache):
    cache.put(KEY, embedding())
    assert cache.folder.stat().st_mode & 0o777 == 0o700


WRITER = """
import sys
from pathlib import Path
import numpy as np
from edgereel.runtime.text.embedding_cache import CachedEmbedding, EmbeddingCache
cache = EmbeddingCache(Path(sys.argv[1]), int(sys.argv[2]))
for turn in range(150):
    number = turn % 6
    values = np.full((1, 5, 3), number + 1, np.float32)
    cache.put(f"{number}" * 64, CachedEmbedding(values, "cpu", "float32"))
    found = cache.get(f"{(number + 3) % 6}" * 64, 5, 3)
    assert found is None or (found.values == (number + 3) % 6 + 1).all()
"""


def test_several_processes_at_once(tmp_path):
    limit = 4 * entry_size(5, 3, 5)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(limit)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")
    left = list((tmp_path / "cache").iterdir())
    assert {path.suffix for path in left} == {".embedding"}
    assert 0 < sum(path.stat().st_size for path in left) <= limit


PARTS = {"prompt": "a red ball", "rules": {"max_tokens": 24}, "files": ["a", "b"], "numerics": {"engine": "cpu"}}
TEXT = st.text(st.characters(codec=None), max_size=6)


@given(TEXT, TEXT)
def test_keys_of_different_prompts_differ(one, other):
    assert (embedding_key({"prompt": one}) == embedding_key({"prompt": other})) == (one == other)


def test_a_pair_of_surrogates_is_not_the_character_it_stands_for():
    assert embedding_key({"prompt": "\ud83d\ude00"}) != embedding_key({"prompt": "\U0001f600"})


def test_keys_do_not_depend_on_order():
    assert embedding_key(PARTS) == embedding_key(dict(reversed(PARTS.items())))
