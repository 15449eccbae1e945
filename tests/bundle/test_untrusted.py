"""Files of a bundle are plain files, read without waiting, and a file that changes while it is used is an error."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import helpers_environment
from helpers.small_bundle import write_small_bundle

from edgereel.bundle.external_data import external_data_of
from edgereel.bundle.reader import hash_file, hashes_path, open_bundle, verify_bundle
from edgereel.bundle.untrusted import open_plain, parse_json, read_plain
from edgereel.core.errors import BundleError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no such files on Windows")


def bind(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


OTHERS = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: Path(path).mkdir(),
    "a link to a device": lambda path: Path(path).symlink_to("/dev/zero"),
    "a link to nothing": lambda path: Path(path).symlink_to("nothing"),
    "a socket": lambda path: bind(path),
}
FILES = ["reel.json", "tokenizer.json", "denoiser.onnx", "denoiser.data", "MODEL_CARD.md"]


@pytest.fixture
def reel(tmp_path, monkeypatch):
    """A bundle under a short relative name, since a socket's name may have 107 bytes."""
    monkeypatch.chdir(tmp_path)
    return write_small_bundle(Path("small.reel"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", OTHERS)
def test_anything_but_a_plain_file_is_refused_without_waiting(reel, kind, name):
    (reel / name).unlink()
    OTHERS[kind](reel / name)
    for opening in (open_bundle, verify_bundle):
        with pytest.raises(BundleError, match=f"{name}: must be a regular file, not a link or folder"):
            opening(reel)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs the right to make devices")
def test_a_device_is_refused(reel):
    (reel / "denoiser.data").unlink()
    try:
        os.mknod(reel / "denoiser.data", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except OSError as error:
        pytest.skip(f"no devices here: {error}")
    with pytest.raises(BundleError, match="must be a regular file"):
        open_bundle(reel)


@pytest.mark.parametrize("reading", [external_data_of, hash_file, lambda path: read_plain(path, 100)])
def test_a_file_that_was_exchanged_after_it_was_checked(tmp_path, monkeypatch, reading):
    """What is opened is asked, not only the name: here the name still says that a plain file is there."""
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    before = plain.lstat()
    monkeypatch.setattr(Path, "lstat", lambda self: before)
    monkeypatch.setattr(Path, "stat", lambda self: before)
    with pytest.raises(BundleError, match="must be a regular file"):
        reading(tmp_path / "pipe")


def test_links_are_followed_where_that_is_asked_for(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_plain(tmp_path / "link", follow=True) as file:
        assert file.read() == b"content"
    with pytest.raises(BundleError), open_plain(tmp_path / "link"):
        pass


@pytest.mark.parametrize("kind", OTHERS)
def test_the_memory_of_hashes_is_a_plain_file_or_none(reel, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path))
    monkeypatch.setattr("edgereel.bundle.reader._SETTLED", -1)
    OTHERS[kind](os.path.relpath(hashes_path()))
    assert open_bundle(reel).manifest.name == "small"


def test_a_memory_of_hashes_as_large_as_a_disk(reel, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path))
    with hashes_path().open("wb") as file:
        file.truncate(2**40)
    assert open_bundle(reel).manifest.name == "small"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_bundle_in_a_folder_whose_name_is_not_utf8(tmp_path, monkeypatch):
    monkeypatch.setattr("edgereel.bundle.reader._SETTLED", -1)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_small_bundle(tmp_path / "plain" / "small.reel").parent.rename(folder)
    reel = folder / "small.reel"
    for _ in range(2):  # the second time out of the memory of hashes
        assert open_bundle(reel).manifest.name == "small"
    assert [name for name in json.loads(hashes_path().read_text()) if "caf\udce9" in name]
    (reel / "denoiser.data").write_bytes(b"")
    with pytest.raises(BundleError, match=r"denoiser\.data: is 0 bytes"):
        open_bundle(reel)


@pytest.mark.parametrize("name", ["denoiser.onnx", "denoiser.data"])
def test_a_graph_whose_files_have_shrunk_since(reel, name):
    opened = open_bundle(reel)
    opened.check_graph("denoiser")
    os.truncate(reel / name, 3)
    opened.check_graph("decoder_first")
    with pytest.raises(BundleError, match=rf"{name}: is 3 bytes, reel\.json declares \d+: copy the bundle again"):
        opened.check_graph("denoiser")


def test_a_graph_that_shrinks_while_it_is_walked(tmp_path):
    """In a process of its own, which the system would end with SIGBUS if the file were mapped into memory."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from edgereel.bundle import external_data\n"
        "path = Path('large.onnx')\n"
        "path.write_bytes(b'\\x3a\\xfe\\xff\\x3f' + bytes(2**20 - 2))\n"
        "walk = external_data._Walk.references\n"
        "def cut_first(self, *message):\n"
        "    os.truncate(path, 1)\n"
        "    yield from walk(self, *message)\n"
        "external_data._Walk.references = cut_first\n"
        "try: external_data.external_data_of(path)\n"
        "except external_data.BundleError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=helpers_environment()
    )
    assert done.returncode == 0, done.stderr
    assert "is not a readable ONNX graph" in done.stdout


def test_a_graph_of_more_fields_than_any_of_ours(tmp_path):
    """16 MB of empty nodes, each to be looked at."""
    path = tmp_path / "many.onnx"
    node = b"\x0a\x00"
    nodes = node * 2**22
    size = len(nodes)
    head = b"\x3a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    path.write_bytes(head + nodes)
    with pytest.raises(BundleError, match="more than 1048576 fields"):
        external_data_of(path)


def test_json_is_counted_before_it_is_read():
    assert parse_json('{"a": [1, 2]}', 4) == {"a": [1, 2]}
    for text in ('{"a": [1, 2, 3, 4]}', "[" * 10**6, '{"a":{"a":{"a":{"a":{}}}}}'):
        with pytest.raises(ValueError, match="more than 4 values"):
            parse_json(text, 4)
    with pytest.raises(ValueError, match="stands twice"):
        parse_json('{"a": {"b": 1, "b": 2}}', 100, once=True)
    for text in ("NaN", "[-Infinity]", "{", "9" * 5000, "[" * 10**6):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text, 10**7)
