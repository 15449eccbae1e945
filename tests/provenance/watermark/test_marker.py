"""Somebody else's watermark: graphs that a file names, in and out of frames, and what is refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from helpers.marked_clips import pictures, write_clip

from edgereel.core.errors import EngineError, UsageError
from edgereel.provenance.marks import Marks
from edgereel.provenance.verify.report import examine
from edgereel.provenance.watermark.marker import Marker
from edgereel.provenance.watermark.payload import Payload, from_bits, to_bits

onnx = pytest.importorskip("onnx")

SIDE, BITS, AMOUNT = 64, 100, 0.02


def write_graphs(folder, bits=BITS, amount=AMOUNT):
    """Write an encoder that adds a pattern for each bit and a decoder that correlates, and the file that names them."""
    helper, tensor = onnx.helper, onnx.TensorProto
    random = np.random.default_rng(1)
    # In brightness alone, since encoders halve the size of colours; of none of the waves that smooth pictures are made of.
    places = np.arange(16)
    waves = np.cos(np.pi * np.outer(places, places + 0.5) / 16)
    low = [np.outer(waves[down], waves[across]).ravel() for down in range(6) for across in range(6 - down)]
    basis = np.linalg.qr(np.column_stack([*low, random.standard_normal((256, bits))]))[0][:, len(low) :]
    coarse = basis.T.reshape(bits, 1, 16, 16)
    patterns = coarse.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1).reshape(bits, -1).astype(np.float32)
    patterns *= np.sqrt(patterns.shape[1]) / np.linalg.norm(patterns, axis=1, keepdims=True)
    picture = helper.make_tensor_value_info("image", tensor.FLOAT, [1, 3, SIDE, SIDE])

    def constant(name, values):
        values = np.asarray(values)
        kind = tensor.INT64 if values.dtype == np.int64 else tensor.FLOAT
        return helper.make_tensor(name, kind, values.shape, values.ravel())

    def save(name, nodes, inputs, output, constants):
        graph = helper.make_graph(nodes, name, inputs, [output], [constant(*each) for each in constants.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        return hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()

    node = helper.make_node
    encoder = save(
        "encoder",
        [
            node("Mul", ["bits", "two"], ["doubled"]),
            node("Sub", ["doubled", "one"], ["signs"]),
            node("MatMul", ["signs", "patterns"], ["flat"]),
            node("Reshape", ["flat", "shape"], ["change"]),
            node("Add", ["image", "change"], ["marked"]),
        ],
        [picture, helper.make_tensor_value_info("bits", tensor.FLOAT, [1, bits])],
        helper.make_tensor_value_info("marked", tensor.FLOAT, [1, 3, SIDE, SIDE]),
        {
            "two": np.float32([2]),
            "one": np.float32([1]),
            "patterns": patterns * amount / np.sqrt(bits) * 4,
            "shape": np.array([1, 3, SIDE, SIDE]),
        },
    )
    decoder = save(
        "decoder",
        [
            node("Reshape", ["image", "shape"], ["flat"]),
            node("MatMul", ["flat", "back"], ["values"]),
        ],
        [picture],
        helper.make_tensor_value_info("values", tensor.FLOAT, [1, bits]),
        {"shape": np.array([1, 3 * SIDE * SIDE]), "back": patterns.T / patterns.shape[1]},
    )
    path = folder / "marker.toml"
    path.write_text(
        f'encoder = "encoder.onnx"\nencoder_sha256 = "{encoder}"\ndecoder = "decoder.onnx"\ndecoder_sha256 = "{decoder}"\n'
    )
    return path


@pytest.fixture(scope="module")
def marker_file(tmp_path_factory):
    return write_graphs(tmp_path_factory.mktemp("marker"))


def test_a_payload_and_its_check_are_88_bits():
    payload = Payload(0x0A1B2C, 0x123456789A)
    bits = to_bits(payload)
    assert len(bits) == 88
    assert from_bits([*bits, 0, 1, 0]) == payload
    for index in range(88):
        assert from_bits([*bits[:index], 1 - bits[index], *bits[index + 1 :]]) is None
    assert from_bits([0] * 88) is None
    assert from_bits([1] * 88) is None


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_its_mark_goes_through_a_file(name, marker_file, tmp_path):
    marker = Marker.read(marker_file)
    path = tmp_path / name
    record = write_clip(path, Marks(True, None, maker=0xABC, marker=marker))
    assert examine(path).watermark.payload is None, "our own detector sees nothing"
    assert str(examine(path, marker=marker).watermark.payload) == record["watermark"]
    plain = tmp_path / f"plain-{name}"
    write_clip(plain)
    assert examine(plain, marker=marker).watermark.payload is None


def test_what_it_changes_is_of_the_frames_size_and_as_strong_as_was_asked(marker_file):
    marker = Marker.read(marker_file)
    frames = pictures(300, 200, 2)
    marked = list(marker.over(frames, Payload(1, 2)))
    change = np.stack(marked).astype(float) - np.stack(frames)
    assert change.shape == (2, 200, 300, 3)
    assert np.std(change) == pytest.approx(4 * AMOUNT * 127.5, rel=0.15)
    marker.strength = 2.0
    twice = np.stack(list(marker.over(frames, Payload(1, 2)))).astype(float) - np.stack(frames)
    assert np.std(twice) == pytest.approx(2 * np.std(change), rel=0.1)


def test_it_is_chosen_by_its_file_and_bears_small_pictures(marker_file, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEREEL_HOME", str(tmp_path))
    marks = Marks.choose("watermark", marker=marker_file)
    marks.check("mp4", 64, 64)
    record = write_clip(tmp_path / "clip.mp4", marks, pictures(64, 64))
    found = Marker.read(marker_file).find(marks.marker.over(pictures(64, 64), Payload(1, 2)))
    assert found.payload == Payload(1, 2)
    assert record["watermark"]


def test_the_manifest_names_another_algorithm(marker_file, tmp_path):
    c2pa = pytest.importorskip("c2pa")
    from edgereel.provenance import keys

    identity = keys.load(keys.create("Booth", tmp_path / "keys"))
    path = tmp_path / "clip.mp4"
    record = write_clip(path, Marks(True, identity, maker=identity.maker, marker=Marker.read(marker_file)))
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        report = json.loads(reader.json())
    assertions = report["manifests"][report["active_manifest"]]["assertions"]
    (binding,) = (each["data"] for each in assertions if each["label"] == "c2pa.soft-binding")
    assert binding["alg"] == "org.edgereel.marker.1"
    assert binding["blocks"][0]["value"] == record["watermark"]


def test_what_cannot_be_a_marker_is_refused(tmp_path):
    path = write_graphs(tmp_path)
    text = path.read_text()
    for change, said in (
        (text + "often = 1\n", "unknown key 'often'"),
        (text + "strength = 9\n", "strength is a number from 0 to 4"),
        (text.replace("decoder.onnx", "encoder.onnx"), "is another file than the one that is named"),
        (text.replace('encoder = "encoder.onnx"', "encoder = 3"), "encoder is the path"),
        ("strength", "is not TOML"),
    ):
        path.write_text(change)
        with pytest.raises(UsageError, match=said):
            Marker.read(path)
    with pytest.raises(UsageError, match=r"nowhere.toml: cannot be read"):
        Marker.read(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError, match="takes 40 bits, and a payload with its check has 88"):
        Marker.read(write_graphs(tmp_path, bits=40))


def test_a_marker_that_gives_no_numbers_writes_nothing(tmp_path):
    marker = Marker.read(write_graphs(tmp_path, amount=np.nan))
    with pytest.raises(EngineError, match="not finite numbers"):
        write_clip(tmp_path / "clip.mp4", Marks(True, None, marker=marker))
    assert not (tmp_path / "clip.mp4").exists()
