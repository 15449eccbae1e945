"""Opening a bundle: what is missing, damaged, unsafe or too new is refused with one line that names it."""

from __future__ import annotations

import json
import os
import sys

import pytest
from conftest import DEMO_REEL
from helpers.small_bundle import edit, refused, sign, write_small_bundle

from edgereel.bundle.reader import open_bundle, verify_bundle
from edgereel.core.errors import BundleError, Cancelled
from edgereel.runtime.describe import describe

pytestmark = pytest.mark.lean


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


def test_a_good_bundle_opens(reel):
    opened = open_bundle(reel)
    assert opened.manifest.name == "small"
    assert opened.path("denoiser.onnx") == reel / "denoiser.onnx"
    assert verify_bundle(str(reel)).manifest == opened.manifest
    assert "up to 6 tokens" in describe(opened)


def test_the_shipped_demo_opens_and_holds_no_surprise():
    opened = verify_bundle(DEMO_REEL)
    assert {path.name for path in DEMO_REEL.iterdir()} == {*opened.manifest.files, "reel.json"}
    assert opened.manifest.to_json() == json.loads((DEMO_REEL / "reel.json").read_text(encoding="utf-8"))


def test_progress_is_told_and_can_cancel(reel):
    calls = []
    open_bundle(reel, on_progress=lambda *call: calls.append(call))
    assert calls == [("check", done, 9) for done in range(10)]
    for at in range(10):
        with pytest.raises(Cancelled):
            verify_bundle(reel, on_progress=lambda stage, done, total, at=at: done < at)


def test_a_missing_folder(tmp_path):
    assert "no such bundle folder" in refused(tmp_path / "nothing.reel")
    (tmp_path / "file.reel").write_text("not a folder")
    assert "is a file, not a bundle" in refused(tmp_path / "file.reel")
    assert "File name too long" in refused(tmp_path / ("a" * 300)) or os.name == "nt"


def test_a_folder_without_manifest(reel):
    (reel / "reel.json").unlink()
    assert "has no reel.json" in refused(reel)


@pytest.mark.parametrize("name", ["denoiser.onnx", "decoder.data", "tokenizer.json", "MODEL_CARD.md"])
def test_a_missing_file(reel, name):
    (reel / name).unlink()
    assert f"{name}: is missing" in refused(reel)


def test_a_truncated_file(reel):
    for path in sorted(reel.iterdir()):
        whole = path.read_bytes()
        for size in (0, len(whole) // 2, len(whole) - 1):
            if whole[size:] == b"\n" and path.name == "reel.json":
                continue  # the line end after the last brace says nothing
            path.write_bytes(whole[:size])
            assert path.name in refused(reel)
        path.write_bytes(whole)
    open_bundle(reel)


def test_a_changed_byte_that_leaves_the_data_equal(reel):
    """Other spaces, and another letter in the exponent of a number: JSON that says the same is still not the same file."""
    path = reel / "reel.json"
    whole = path.read_bytes()
    places = [place for place, byte in enumerate(whole[:-1]) if byte in b" \n"]
    changed = [(place, byte) for place in places[:: len(places) // 60] for byte in b" \n\t\r" if byte != whole[place]]
    changed.append((whole.index(b"e-06"), ord("E")))
    for place, byte in changed:
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        with pytest.raises(BundleError):
            open_bundle(reel)


def test_a_doubled_key(reel):
    path = reel / "reel.json"
    path.write_text(path.read_text().replace('"name": "small"', '"name": "evil",\n  "name": "small"'))
    assert "was changed" in refused(reel)


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"indent": 4}, {"separators": (",", ":")}])
@pytest.mark.parametrize("escaped", [True, False])
def test_the_usual_layouts_of_json_are_read(reel, layout, escaped):
    edit(reel, lambda data: data.update(origin="été"))
    data = json.loads((reel / "reel.json").read_text(encoding="utf-8"))
    (reel / "reel.json").write_text(json.dumps(data, ensure_ascii=escaped, **layout), encoding="utf-8")
    assert open_bundle(reel).manifest.origin == "été"


def test_a_newer_schema_is_named_as_such(reel):
    edit(reel, lambda data: data.update(schema=3, read_by="0.9.0", roles="another shape"))
    message = refused(reel)
    assert "schema 3 is newer" in message
    assert "edgereel 0.9.0" in message
    edit(reel, lambda data: [data.pop("read_by"), data.pop("digest")])
    assert "pip install -U edgereel" in refused(reel)


@pytest.mark.parametrize("version", [None, "1", 1.0, True, 0, -1, [1]])
def test_a_schema_that_is_no_version(reel, version):
    edit(reel, lambda data: data.update(schema=version))
    assert "positive whole number" in refused(reel)


def at(data, *path):
    for key in path[:-1]:
        data = data[key]
    return data, path[-1]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), 5),
        (("name",), ""),
        (("roles",), []),
        (("roles", "denoiser"), []),
        (("roles", "denoiser", 0, "prediction"), "epsilon"),
        (("roles", "decoder_first", "outputs", "frames", "dtype"), "float64"),
        (("text", "max_tokens"), "24"),
        (("text", "max_tokens"), 24.0),
        (("text", "max_tokens"), True),
        (("text", "max_tokens"), 0),
        (("text", "cleaning"), ["run_code"]),
        (("latent", "patch"), [1, 2]),
        (("latent", "channels"), -4),
        (("latent", "channels"), 10**30),
        (("recipes",), []),
        (("recipes", 0, "sampler"), "magic"),
        (("recipes", 0, "steps"), 10**9),
        (("recipes", 0, "train_timesteps"), 10**12),
        (("recipes", 0, "shift"), 0),
        (("recipes", 0, "guidance"), None),
        (("recipes", 1, "name"), "best"),
        (("defaults", "fps"), 10**4),
        (("defaults", "width"), "64"),
        (("files",), {}),
        (("files", "decoder.data", "size"), -1),
        (("files", "decoder.data", "size"), "512"),
        (("files", "decoder.data", "sha256"), "0" * 63),
        (("files", "decoder.data"), None),
    ],
)
def test_wrong_types_and_values(reel, path, value):
    def change(data):
        inside, key = at(data, *path)
        inside[key] = value

    edit(reel, change)
    message = refused(reel)
    assert message.startswith("reel.json: ")
    assert str(path[0]) in message or "files" in message


@pytest.mark.parametrize("key", ["name", "roles", "text", "latent", "recipes", "defaults", "files", "digest"])
def test_a_missing_key(reel, key):
    data = json.loads((reel / "reel.json").read_text())
    del data[key]
    if key != "digest":
        sign(reel, data)
    else:
        (reel / "reel.json").write_text(json.dumps(data))
    assert "reel.json" in refused(reel)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"schema": NaN}',
        '{"schema": 1, "quality": {"a": Infinity}}',
        '{"schema": 1, "quality": {"a": 1e999}}',
        '{"schema": 1, "name": "\\ud800"}',
        '{"schema": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"schema": 1, "a": ' + "[" * 900 + "]" * 900 + "}",
        '{"schema": 1, "a": ' + "9" * 5000 + "}",
        "\ufeff{}",
    ],
)
def test_json_that_is_none_or_a_trap(reel, text):
    (reel / "reel.json").write_text(text, encoding="utf-8")
    assert "reel.json" in refused(reel)


def test_bytes_that_are_not_text(reel):
    (reel / "reel.json").write_bytes(b"\xff\xfe{}")
    assert "not UTF-8" in refused(reel)


def test_a_manifest_too_large_to_read(reel):
    with (reel / "reel.json").open("r+b") as file:
        file.truncate(2**40)
    assert "too large" in refused(reel)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside.data", "..", ".", "sub/decoder.data", "..\\x", "C:x", "a\n", "", ".hidden", "\0"],
)
@pytest.mark.parametrize("place", ["files", "graph", "data", "tokenizer"])
def test_names_that_lead_elsewhere(reel, name, place):
    (reel.parent / "outside.data").write_bytes(b"secret")

    def change(data):
        record = data["files"]["decoder.data"]
        if place == "files":
            data["files"][name] = record
        elif place == "tokenizer":
            data["text"]["tokenizer"] = name
        else:
            data["roles"]["decoder_first"]["file" if place == "graph" else "data"] = name

    edit(reel, change)
    assert "reel.json" in refused(reel)


def test_the_manifest_cannot_declare_itself(reel):
    edit(reel, lambda data: data["files"].update({"reel.json": {"size": 1, "sha256": "0" * 64}}))
    assert "not a plain file name" in refused(reel)


def test_a_graph_that_is_used_but_not_listed(reel):
    edit(reel, lambda data: data["files"].pop("denoiser.data"))
    assert "used but not listed under files: denoiser.data" in refused(reel)


def test_an_unlisted_file_is_left_alone(reel):
    (reel / ".DS_Store").write_bytes(b"\0")
    open_bundle(reel)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("name", ["reel.json", "decoder.data", "denoiser.onnx", "tokenizer.json"])
def test_links_are_refused(reel, name):
    elsewhere = reel.parent / name
    (reel / name).rename(elsewhere)
    (reel / name).symlink_to(elsewhere)
    assert f"{name}: must be a regular file" in refused(reel)


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_pipes_and_folders_are_refused(reel):
    (reel / "decoder.data").unlink()
    os.mkfifo(reel / "decoder.data")
    assert "must be a regular file" in refused(reel)
    (reel / "decoder.data").unlink()
    (reel / "decoder.data").mkdir()
    assert "must be a regular file" in refused(reel)


@pytest.mark.parametrize("size", [0, 511, 513, 2**40])
def test_sizes_that_lie(reel, size):
    edit(reel, lambda data: data["files"]["decoder.data"].update(size=size))
    assert f"is 512 bytes, reel.json declares {size}" in refused(reel)


def test_unknown_keys_are_kept_and_ignored(reel):
    def change(data):
        data["future"] = {"a": [1, None, "été"]}
        data["latent"]["curvature"] = 3
        data["files"]["decoder.data"]["mirror"] = "https://example.org"
        data["to_json"] = data["recipe"] = "names of methods"

    edit(reel, change)
    opened = open_bundle(reel)
    assert opened.manifest.recipe("quick").steps == 2
    expected = json.loads((reel / "reel.json").read_text(encoding="utf-8"))
    kept = opened.manifest.to_json()
    assert {key: kept[key] for key in ("future", "files", "to_json", "recipe")} == {
        key: expected[key] for key in ("future", "files", "to_json", "recipe")
    }
    assert kept["latent"]["curvature"] == 3


def test_what_a_bundle_says_of_itself_cannot_steer_a_terminal(reel):
    edit(reel, lambda data: data.update(origin="\x1b[2J\nlicence      MIT"))
    text = describe(open_bundle(reel))
    assert "\x1b" not in text
    assert text.count("\nlicence") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory figures of Linux")
def test_declared_sizes_are_checked_before_anything_is_read(reel):
    """A file as large as a disk is refused by its size: it is never hashed, and no memory is taken for it."""
    with (reel / "decoder.data").open("r+b") as file:
        file.truncate(2**40)
    assert "declares 512" in refused(reel)
