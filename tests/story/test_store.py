"""The store of scenes keeps within its limit, and lets go of nothing that is needed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import DEMO_REEL

from edgereel.runtime.reel import load
from edgereel.story.film.store import Store

KEYS = [letter * 64 for letter in "abcd"]


@pytest.fixture(scope="module")
def clip():
    with load(DEMO_REEL, "cpu", threads=1, cache=False) as reel:
        yield reel, reel.generate("a red ball bounces over the ocean", frames=5)


def place(folder: Path, key: str) -> Path:
    return folder / key[:2] / key


def used(folder: Path, key: str, hours: float) -> None:
    """Say that a clip was used so many hours ago."""
    then = time.time() - hours * 3600
    os.utime(place(folder, key) / "record.json", (then, then))


def test_those_not_used_for_longest_go(clip, tmp_path):
    reel, video = clip
    store = Store(tmp_path)
    for key in KEYS[:3]:
        store.put(key, video, reel, {})
    one = sum(path.stat().st_size for path in place(tmp_path, KEYS[0]).iterdir())
    for key, hours in zip(KEYS, (5, 9, 7), strict=False):
        used(tmp_path, key, hours)
    (tmp_path / "bb" / "mine.txt").write_text("not ours")
    small = Store(tmp_path, limit=round(2.5 * one))
    small.need([KEYS[2]])
    small.put(KEYS[3], video, reel, {})
    # The second was used longest ago, the first after it; the third is needed, the fourth new.
    assert [key in small for key in KEYS] == [False, False, True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bb", "cc", "dd"]
    assert (tmp_path / "bb" / "mine.txt").exists()
    used(tmp_path, KEYS[2], 5)
    assert small.get(KEYS[2], reel) is not None
    assert time.time() - (place(tmp_path, KEYS[2]) / "record.json").stat().st_mtime < 60


def test_what_was_used_in_the_last_hour_stays(clip, tmp_path):
    reel, video = clip
    store = Store(tmp_path, limit=1)
    for key in KEYS:
        store.put(key, video, reel, {})
    assert all(key in store for key in KEYS)
    assert store.clear() > 0
    assert not any(key in store for key in KEYS)
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_and_empties_it(clip, run, tmp_path, monkeypatch):
    reel, video = clip
    monkeypatch.setenv("EDGEREEL_HOME", str(tmp_path / "home"))
    Store().put(KEYS[0], video, reel, {})
    code, out, _ = run("cache", "ls", "--json")
    part = next(each for each in json.loads(out)["parts"] if each["name"] == "stories")
    assert (code, part["files"]) == (0, 2)
    assert run("cache", "rm", "--all")[0] == 0
    assert KEYS[0] in Store()
    code, out, _ = run("cache", "rm", "--part", "stories", "--json")
    assert (code, json.loads(out)["freed"]) == (0, part["bytes"])
    assert KEYS[0] not in Store()


@pytest.mark.parametrize("damage", ["bit", "another", "pipe", "record"])
def test_what_was_not_put_there_is_made_again(clip, tmp_path, damage):
    reel, video = clip
    store = Store(tmp_path)
    store.put(KEYS[0], video, reel, {})
    store.put(KEYS[1], reel.generate("a blue star falls in the snow", frames=5), reel, {})
    here, other = place(tmp_path, KEYS[0]), place(tmp_path, KEYS[1])
    latents = here / "latents.safetensors"
    if damage == "bit":
        content = latents.read_bytes()
        latents.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "another":
        shutil.copytree(other, here, dirs_exist_ok=True)
    elif damage == "pipe":
        latents.unlink()
        os.mkfifo(latents)
    else:
        (here / "record.json").write_text("[" * 100_000)
    assert store.get(KEYS[0], reel) is None
    assert KEYS[0] not in store
    assert store.get(KEYS[1], reel) is not None
