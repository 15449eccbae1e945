"""Content is hashed when a bundle is first opened; what is remembered of that never hides a change."""

from __future__ import annotations

import os
import random

import pytest
from helpers.small_bundle import refused, write_small_bundle

from edgereel.bundle import reader as bundle_module
from edgereel.bundle.reader import open_bundle, verify_bundle
from edgereel.core.errors import BundleError

pytestmark = pytest.mark.lean


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


@pytest.fixture
def settled(reel, monkeypatch):
    """Let files count as old enough to be remembered, however new they are; what is written later differs in its time."""
    monkeypatch.setattr(bundle_module, "_SETTLED", -1)
    for path in reel.iterdir():
        os.utime(path, (0, 0))


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files hashed so far."""
    names = []
    original = bundle_module.hash_file
    monkeypatch.setattr(bundle_module, "hash_file", lambda path: names.append(path.name) or original(path))
    return names


@pytest.mark.usefixtures("settled")
def test_a_changed_byte_anywhere(reel):
    """Each file is damaged at random places after its good content has been remembered."""
    open_bundle(reel)
    generator = random.Random(7)
    for path in sorted(reel.iterdir()):
        whole = path.read_bytes()
        for _ in range(150 if path.name == "reel.json" else 25):
            place, byte = generator.randrange(len(whole)), generator.randrange(256)
            if whole[place] == byte:
                continue
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            with pytest.raises(BundleError, match=path.name.replace(".", r"\.")):
                open_bundle(reel)
        path.write_bytes(whole)
    open_bundle(reel)


@pytest.mark.usefixtures("settled")
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of change that a program cannot set")
def test_a_byte_changed_behind_the_back_of_the_clock(reel):
    """The time of modification is put back; the time of change tells."""
    open_bundle(reel)
    path = reel / "decoder.data"
    before = path.stat()
    probe = reel.parent / "probe"
    probe.touch()
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:  # file systems keep times in steps
        probe.touch()
    with path.open("r+b") as file:
        file.write(b"\0\1\2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "sha256 differs" in refused(reel)


@pytest.mark.usefixtures("settled")
def test_content_is_hashed_once_and_again_by_verify(reel, hashed):
    open_bundle(reel)
    assert len(hashed) == 9
    open_bundle(reel)
    assert len(hashed) == 9
    verify_bundle(reel)
    assert len(hashed) == 18
    os.utime(reel / "decoder.data")
    open_bundle(reel)
    assert hashed[18:] == ["decoder.data"]


def test_content_that_has_just_changed_is_not_remembered(reel, hashed, monkeypatch):
    """File systems keep times in steps: a file written twice within one would pass for its first content."""
    written = max(path.stat().st_ctime_ns for path in reel.iterdir())
    monkeypatch.setattr(bundle_module.time, "time_ns", lambda: written + 10**9)
    open_bundle(reel)
    open_bundle(reel)
    assert len(hashed) == 18
    monkeypatch.setattr(bundle_module.time, "time_ns", lambda: written + 3 * 10**9)
    open_bundle(reel)
    open_bundle(reel)
    assert len(hashed) == 27


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_memory_is_harmless(reel, tmp_path, monkeypatch, content, hashed):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path))
    (tmp_path / "hashes.json").write_bytes(content)
    open_bundle(reel)
    open_bundle(reel)
    assert len(hashed) == 9
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.usefixtures("settled")
def test_a_cache_folder_that_cannot_be_made_is_harmless(reel, tmp_path, monkeypatch, hashed):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "file" / "cache"))
    open_bundle(reel)
    (tmp_path / "hashes.json").mkdir()
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path))
    open_bundle(reel)
    assert len(hashed) == 18
    assert not list(tmp_path.glob("*.part"))
