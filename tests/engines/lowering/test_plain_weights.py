"""Weights are written as plain constants for a parser that takes nothing else: the same numbers, or one line of error."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from conftest import DEMO_REEL

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from edgereel.core.errors import EngineError  # noqa: E402
from edgereel.engines.lowering.lower import lower_for_target, with_plain_weights  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402

FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
make_node = onnx.helper.make_node


def save(path, nodes, tensors, outputs, size_threshold=0):
    values = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])
    graph = onnx.helper.make_graph(nodes, "main", [ids], values, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=size_threshold)
    return path


def stored_in_bfloat16(name, bits):
    return onnx.helper.make_tensor(name, BFLOAT16, bits.shape, bits.tobytes(), raw=True)


def run(model, folder, ids):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in opened.get_outputs()], opened.run(None, {"ids": ids}), strict=True))


def widened(bits):
    """What bfloat16 means: the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("size_threshold", [0, 2**30], ids=["in a file", "in the graph"])
def test_every_bfloat16_becomes_the_same_number(tmp_path, size_threshold):
    """All 65,536 of them, read by a Cast to either type and by a Gather; infinities, subnormals and no numbers included."""
    bits = np.arange(2**16, dtype=np.uint16).reshape(2**12, 16)
    np.random.default_rng().shuffle(bits)
    nodes = [
        make_node("Cast", ["w"], ["wide"], to=FLOAT),
        make_node("Cast", ["w"], ["half"], to=FLOAT16),
        make_node("Gather", ["w", "ids"], ["rows"], axis=0),
        make_node("Cast", ["rows"], ["rows_wide"], to=FLOAT),
        make_node("Gather", ["wide", "ids"], ["a"], axis=0),
        make_node("Gather", ["half", "ids"], ["b"], axis=0),
        make_node("Add", ["rows_wide", "other"], ["c"]),
    ]
    other = np.random.default_rng().standard_normal(16).astype(np.float32)
    tensors = [stored_in_bfloat16("w", bits), onnx.numpy_helper.from_array(other, "other")]
    path = save(tmp_path / "a.onnx", nodes, tensors, {"a": FLOAT, "b": FLOAT16, "c": FLOAT}, size_threshold)
    folder = tmp_path / "written"
    folder.mkdir()
    model, beside = with_plain_weights(path.read_bytes(), path, folder)
    assert beside.parent == folder
    assert len(model) < 2000
    parsed = onnx.load_from_string(model)
    kinds = {tensor.name: tensor.data_type for tensor in parsed.graph.initializer}
    assert kinds == {"w": FLOAT, "wide": FLOAT, "half": FLOAT16, "other": FLOAT}
    assert [node.op_type for node in parsed.graph.node] == ["Gather", "Cast", "Gather", "Gather", "Add"]
    ids = np.random.default_rng().permutation(2**12)
    found, wanted = run(model, folder, ids), widened(bits)[ids]
    np.testing.assert_array_equal(found["a"].view(np.uint32), wanted.view(np.uint32))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(found["c"], wanted + other)
        np.testing.assert_array_equal(found["b"], wanted.astype(np.float16))
    assert np.isinf(found["b"]).sum() > np.isinf(wanted).sum()
    assert np.isnan(wanted).any()


def test_a_weight_that_is_only_converted_is_stored_once(tmp_path):
    """In float16 no float32 copy is written: the file is as large as the weights were."""
    path = DEMO_REEL / "denoiser.onnx"
    model = lower_for_target(path, parse_target("tensorrt-8.6"), "float16", keep=False).model
    with_plain_weights(model, path, tmp_path)
    stored, written = (DEMO_REEL / "denoiser.data").stat().st_size, (tmp_path / "weights").stat().st_size
    assert stored * 0.9 < written < stored * 1.25  # what stays in float32 takes twice as much


def test_weights_that_have_several_hard_links_are_read(tmp_path):
    """As uv installs packages; onnx's own reader takes them for an attack."""
    for name in ("text_encoder.onnx", "text_encoder.data"):
        shutil.copy(DEMO_REEL / name, tmp_path / name)
    linked, written = tmp_path / "linked", tmp_path / "written"
    linked.mkdir()
    written.mkdir()
    for name in ("text_encoder.onnx", "text_encoder.data"):
        os.link(tmp_path / name, linked / name)
    path = linked / "text_encoder.onnx"
    model = lower_for_target(path, parse_target("tensorrt-8.6"), "float16", keep=False).model
    with_plain_weights(model, path, written)
    assert (written / "weights").stat().st_size > 0.9 * path.with_suffix(".data").stat().st_size


def test_weights_that_end_early_are_told_of(tmp_path):
    for name in ("text_encoder.onnx", "text_encoder.data"):
        shutil.copy(DEMO_REEL / name, tmp_path / name)
    path = tmp_path / "text_encoder.onnx"
    model = lower_for_target(path, parse_target("tensorrt-8.6"), "float16", keep=False).model
    with path.with_suffix(".data").open("r+b") as file:
        file.truncate(1000)
    (tmp_path / "written").mkdir()
    with pytest.raises(EngineError, match="ends before the data of"):
        with_plain_weights(model, path, tmp_path / "written")


def test_what_is_made_of_constants_alone_is_stored(tmp_path):
    """A chain of them too, by tensor and by channel, in the type of its end; what they are made of is not."""
    random = np.random.default_rng()
    bytes_, zero = random.integers(-128, 128, (40, 16), np.int8), random.integers(-9, 9, 16, np.int8)
    scale = random.uniform(0.01, 0.1, 16).astype(np.float32)
    bias = random.standard_normal((40, 16)).astype(np.float32)
    nodes = [
        make_node("DequantizeLinear", ["w", "scale", "zero"], ["by_channel"], axis=1),
        make_node("Cast", ["by_channel"], ["half"], to=FLOAT16),
        make_node("DequantizeLinear", ["w", "one_scale"], ["whole"]),
        make_node("Cast", ["bias"], ["half_bias"], to=FLOAT16),
        make_node("Add", ["half", "half_bias"], ["sum"]),
        make_node("Gather", ["sum", "ids"], ["a"], axis=0),
        make_node("Gather", ["whole", "ids"], ["b"], axis=0),
    ]
    constants = {"w": bytes_, "scale": scale, "zero": zero, "one_scale": scale[3], "bias": bias}
    tensors = [onnx.numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    path = save(tmp_path / "a.onnx", nodes, tensors, {"a": FLOAT16, "b": FLOAT})
    folder = tmp_path / "written"
    folder.mkdir()
    model, _ = with_plain_weights(path.read_bytes(), path, folder)
    parsed = onnx.load_from_string(model)
    assert {tensor.name for tensor in parsed.graph.initializer} == {"half", "half_bias", "whole"}
    assert [node.op_type for node in parsed.graph.node] == ["Add", "Gather", "Gather"]
    ids = random.permutation(40)
    found = run(model, folder, ids)
    # In float32 before float16, as DequantizeLinear has it: int32 by float32 is float64 in numpy, which rounds some otherwise.
    by_channel = ((bytes_.astype(np.int32) - zero).astype(np.float32) * scale).astype(np.float16)
    np.testing.assert_array_equal(found["a"], (by_channel + bias.astype(np.float16))[ids])
    np.testing.assert_array_equal(found["b"], (bytes_ * scale[3])[ids])


def test_a_large_weight_that_is_plain_already_is_copied(tmp_path):
    weight = np.random.default_rng().standard_normal((64, 64)).astype(np.float16)
    tensors = [onnx.numpy_helper.from_array(weight, "w")]
    path = save(tmp_path / "a.onnx", [make_node("Gather", ["w", "ids"], ["y"])], tensors, {"y": FLOAT16})
    folder = tmp_path / "written"
    folder.mkdir()
    model, _ = with_plain_weights(path.read_bytes(), path, folder)
    np.testing.assert_array_equal(run(model, folder, np.arange(64))["y"], weight)
    assert (folder / "weights").stat().st_size == weight.nbytes


@pytest.mark.parametrize("damage", ["missing", "cut off", "outside"])
def test_weights_that_cannot_be_read(tmp_path, damage):
    weight = stored_in_bfloat16("w", np.ones((64, 64), np.uint16))
    path = save(tmp_path / "a.onnx", [make_node("Gather", ["w", "ids"], ["y"])], [weight], {"y": BFLOAT16})
    data, content = tmp_path / "w.data", path.read_bytes()
    if damage == "missing":
        data.unlink()
    elif damage == "cut off":
        data.write_bytes(data.read_bytes()[:100])
    else:
        (tmp_path / "inner").mkdir()
        shutil.move(path, tmp_path / "inner")
        path = tmp_path / "inner" / "a.onnx"
        content = content.replace(b"w.data", b"../w.d")
        data.rename(tmp_path / "w.d")
    folder = tmp_path / "written"
    folder.mkdir()
    with pytest.raises(EngineError, match=r"^cannot write the weights of a\.onnx: [^\n]+$"):
        with_plain_weights(content, path, folder)


@pytest.mark.parametrize("how", ["Cast", "input"])
def test_what_is_calculated_in_bfloat16_is_refused(tmp_path, how):
    graph_input = onnx.helper.make_tensor_value_info("x", BFLOAT16 if how == "input" else FLOAT, ["n"])
    output = onnx.helper.make_tensor_value_info("y", FLOAT, ["n"])
    nodes = [make_node("Cast", ["x"], ["narrow"], name="narrow", to=BFLOAT16 if how == "Cast" else FLOAT)]
    nodes.append(make_node("Cast", ["narrow"], ["y"], to=FLOAT))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "main", [graph_input], [output]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    words = {
        "Cast": r"a\.onnx: tensorrt-8\.6 cannot have Cast \(narrow\): it has no bfloat16",
        "input": r"a\.onnx: tensorrt-8\.6 has no bfloat16, which x is given in",
    }
    with pytest.raises(EngineError, match=words[how]):
        lower_for_target(path, parse_target("tensorrt-8.6"), "float32", keep=False)
