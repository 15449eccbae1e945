"""Opening a bundle: what is missing, damaged, unsafe or too new is refused with one line that names it."""

from __future__ import annotations

import json
import os
import random
import sys

import onnx
import pytest
from conftest import DEMO_REEL
from helpers.small_bundle import GRAPHS, external_tensor, graph, replace_file, sign, write_small_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper

from edgereel.bundle import reader as bundle_module
from edgereel.bundle.external_data import ExternalData, external_data_of
from edgereel.bundle.reader import open_bundle, verify_bundle
from edgereel.core.errors import BundleError, Cancelled
from edgereel.runtime.describe import describe

pytestmark = pytest.mark.lean

DENOISER = GRAPHS["denoiser"]


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


def edit(reel, change):
    data = json.loads((reel / "reel.json").read_text(encoding="utf-8"))
    change(data)
    sign(reel, data)


def refused(reel):
    """Return the one line with which both ways of opening refuse a bundle."""
    with pytest.raises(BundleError) as opening:
        open_bundle(reel)
    with pytest.raises(BundleError) as verifying:
        verify_bundle(reel)
    assert str(opening.value) == str(verifying.value)
    assert "\n" not in str(opening.value)
    return str(opening.value)


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
    assert "no such bundle folder" in refused(tmp_path / "file.reel")
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


def test_a_newer_schema_is_named_as_such(reel):
    edit(reel, lambda data: data.update(schema=2, read_by="0.9.0", roles="another shape"))
    message = refused(reel)
    assert "schema 2 is newer" in message
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


@pytest.mark.parametrize(
    "location",
    [
        "../outside.data",
        "/etc/passwd",
        "decoder.data",
        "sub/../denoiser.data",
        "./denoiser.data",
        "denoiser.data ",
        "reel.json",
        "",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_external_data_elsewhere(reel, location):
    replace_file(reel, "denoiser.onnx", graph(location, *DENOISER[1:]).SerializeToString())
    assert f"refers to data in {location!r}" in refused(reel)


@pytest.mark.parametrize(("offset", "length"), [(512, 1), (0, 513), (500, 64), (2**62, 2**62), (2**63, 0)])
def test_external_data_beyond_the_file(reel, offset, length):
    replace_file(reel, "denoiser.onnx", graph(*DENOISER, offset, length).SerializeToString())
    assert "denoiser.data, which has 512" in refused(reel)


@pytest.mark.parametrize("number", ["-1", "+1", " 1", "1_0", "١", "0x10", "1e3", "", "9" * 5000])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_external_data_with_numbers_read_differently_elsewhere(reel, number, key):
    model = graph(*DENOISER)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == key).value = number
    replace_file(reel, "denoiser.onnx", model.SerializeToString())
    assert "is not an offset or length" in refused(reel)


def test_external_data_of_unsaid_length(reel):
    replace_file(reel, "denoiser.onnx", graph(*DENOISER, length=None).SerializeToString())
    assert "is not an offset or length" in refused(reel)


def test_external_data_given_twice(reel):
    model = graph(*DENOISER)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    replace_file(reel, "denoiser.onnx", model.SerializeToString())
    assert "gives its location twice" in refused(reel)


def evil(kind):
    """Return a model that hides a reference to /etc/passwd in a place of this kind."""
    tensor = external_tensor("/etc/passwd")
    constant = helper.make_node("Constant", [], ["x"], value=tensor)
    body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    model = graph(*DENOISER)
    if kind == "attribute":
        model.graph.node.append(constant)
    elif kind == "attribute of several tensors":
        attribute = model.graph.node[0].attribute.add(name="values", type=onnx.AttributeProto.TENSORS)
        attribute.tensors.append(tensor)
    elif kind == "branch of an If in a branch of an If":
        inner = helper.make_node("If", ["c"], ["x"], then_branch=body, else_branch=body)
        outer = helper.make_graph([inner], "outer", [], body.output)
        model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=outer, else_branch=outer))
    elif kind == "initializer of a subgraph":
        body.ClearField("node")
        body.initializer.append(tensor)
        model.graph.node.append(helper.make_node("Loop", ["n", "c"], ["x"], body=body))
    elif kind == "function":
        opset = [helper.make_opsetid("", 23)]
        model.functions.append(helper.make_function("own", "F", [], ["x"], [constant], opset))
    elif kind == "default attribute of a function":
        function = helper.make_function("own", "F", [], ["x"], [], [helper.make_opsetid("", 23)])
        function.attribute_proto.append(helper.make_attribute("value", tensor))
        model.functions.append(function)
    elif kind == "sparse initializer":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif kind == "indices of a sparse attribute":
        attribute = model.graph.node[0].attribute.add(name="sparse", type=onnx.AttributeProto.SPARSE_TENSOR)
        attribute.sparse_tensor.indices.CopyFrom(tensor)
    elif kind == "training graph":
        model.training_info.add().algorithm.CopyFrom(body)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "kind",
    [
        "attribute",
        "attribute of several tensors",
        "branch of an If in a branch of an If",
        "initializer of a subgraph",
        "function",
        "default attribute of a function",
        "sparse initializer",
        "indices of a sparse attribute",
        "training graph",
    ],
)
def test_external_data_hidden_anywhere(reel, kind):
    replace_file(reel, "denoiser.onnx", evil(kind))
    assert "refers to data in '/etc/passwd'" in refused(reel)


def field(number, content, key_size=1):
    """Return the bytes of a protobuf field; key_size: how many bytes its key takes, with bits above 32 set if 5."""
    key = number << 3 | 2
    head = bytes([key | 0x80, 0x80, 0x80, 0x80, 0x10]) if key_size == 5 else varint(key)
    return head + varint(len(content)) + content


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def test_external_data_in_a_field_whose_number_others_cut_to_32_bits(reel):
    """Some parsers drop the bits of a field's key above 32, and would find an initializer where others see nothing."""
    hidden = field(7, field(5, external_tensor("/etc/passwd").SerializeToString(), key_size=5))
    replace_file(reel, "denoiser.onnx", graph(*DENOISER).SerializeToString() + hidden)
    assert "field number is out of range" in refused(reel)


def test_a_message_written_in_two_parts_is_checked_in_both(reel):
    """Protobuf merges a field that stands there twice: here a second graph adds an initializer to the first."""
    hidden = field(7, field(5, external_tensor("/etc/passwd").SerializeToString()))
    content = graph(*DENOISER).SerializeToString() + hidden
    assert len(onnx.ModelProto.FromString(content).graph.initializer) == 2
    replace_file(reel, "denoiser.onnx", content)
    assert "refers to data in '/etc/passwd'" in refused(reel)


def nested(depth):
    body = b""
    for _ in range(depth):
        body = field(1, field(5, field(6, body)))
    return field(7, body)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\xff" * 40,
        b"not protobuf at all",
        nested(100),
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x0b\x0c",
        b"\x02\x00",
    ],
    ids=["empty", "zero", "ones", "text", "deep", "too long", "groups", "field 0"],
)
def test_garbage_in_the_place_of_a_graph(reel, content):
    replace_file(reel, "denoiser.onnx", content)
    assert "denoiser.onnx" in refused(reel)


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


def test_what_a_bundle_says_of_itself_cannot_steer_a_terminal(reel):
    edit(reel, lambda data: data.update(origin="\x1b[2J\nlicence      MIT"))
    text = describe(open_bundle(reel))
    assert "\x1b" not in text
    assert text.count("\nlicence") == 1


@settings(max_examples=300)
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes_give_references_or_a_bundle_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(content)
    assert all(isinstance(reference, ExternalData) for reference in references_or_none(path))


@settings(max_examples=300)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_graphs_give_references_or_a_bundle_error(tmp_path_factory, place, byte, cut):
    content = bytearray(EVIL)
    place %= len(content)
    content[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content[: place + 1] if cut else content)
    assert all(isinstance(reference, ExternalData) for reference in references_or_none(path))


def references_or_none(path):
    """Return the references; where the file is refused, none. Any other error goes through and fails the test."""
    try:
        return external_data_of(path)
    except BundleError:
        return []


EVIL = evil("branch of an If in a branch of an If")

tensors = st.builds(
    external_tensor,
    location=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    offset=st.none() | st.integers(0, 2**40),
    length=st.integers(0, 2**40),
) | st.builds(
    lambda values: helper.make_tensor("inside", TensorProto.FLOAT, [len(values)], values), st.lists(st.just(1))
)


def body_of(initializers, constants, branches):
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor) for tensor in constants]
    nodes += [helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch) for branch in branches]
    return helper.make_graph(nodes, "graph", [], [], initializers)


few = st.lists(tensors, max_size=3)
graphs = st.recursive(
    st.builds(body_of, few, few, st.just([])),
    lambda inner: st.builds(body_of, few, few, st.lists(inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=100)
@given(body=graphs)
def test_references_are_those_the_onnx_package_sees(tmp_path_factory, body):
    model = helper.make_model(body)
    path = tmp_path_factory.getbasetemp() / "valid.onnx"
    path.write_bytes(model.SerializeToString())
    expected = [
        (info.location, info.offset or 0, info.length)
        for tensor in external_data_helper._get_all_tensors(model)
        if external_data_helper.uses_external_data(tensor)
        for info in [external_data_helper.ExternalDataInfo(tensor)]
    ]
    found = [(reference.location, reference.offset, reference.length) for reference in external_data_of(path)]
    assert sorted(found) == sorted((location, offset, length or 0) for location, offset, length in expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory figures of Linux")
def test_declared_sizes_are_checked_before_anything_is_read(reel):
    """A file as large as a disk is refused by its size: it is never hashed, and no memory is taken for it."""
    with (reel / "decoder.data").open("r+b") as file:
        file.truncate(2**40)
    assert "declares 512" in refused(reel)
