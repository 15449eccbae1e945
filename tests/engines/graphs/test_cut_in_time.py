"""A decoder of whole clips cut in time: the rear makes of a window what it makes of all, and how far it sees is told right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from edgereel.core.errors import EngineError  # noqa: E402
from edgereel.engines import EngineOptions, Tensor, Window, get_engine  # noqa: E402
from edgereel.engines.graphs.cut import cut_part  # noqa: E402
from edgereel.engines.graphs.extents import parse_extent  # noqa: E402
from edgereel.engines.graphs.parts import part_inputs, rear_window  # noqa: E402
from edgereel.engines.graphs.reach import window_of  # noqa: E402
from edgereel.engines.graphs.segments import interface_of  # noqa: E402
from edgereel.engines.lowering.lower import lower_for_target  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402
from edgereel.runtime.decoding.windows import window_sizes  # noqa: E402

FLOAT = onnx.TensorProto.FLOAT
make_node = onnx.helper.make_node


def run(path, part, inputs):
    with get_engine("cpu").open(path, EngineOptions(threads=1, part=part)) as session:
        outputs = session.run({name: Tensor.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def test_front_and_rear_give_the_bits_of_the_whole(ltx_reel: Path) -> None:
    path = ltx_reel / "decoder.onnx"
    random = np.random.default_rng()
    inputs = {name: random.standard_normal((1, 8, 6, 2, 3)).astype(np.float32) for name in ("latents", "noise")}
    whole = run(path, None, inputs)["frames"]
    hidden = run(path, "front", inputs)
    assert list(hidden) == ["hidden_00"]
    assert hidden["hidden_00"].shape == (1, 8, 21, 8, 12)
    np.testing.assert_array_equal(run(path, "rear", hidden)["frames"], whole)


def test_the_reach_is_the_least_that_is_enough(ltx_reel: Path) -> None:
    """One convolution among few frames and three among twice as many: 1 + 3 / 2, rounded up."""
    path = ltx_reel / "decoder.onnx"
    assert rear_window(path) == Window(reach=3, growth=4, pictures=2)
    hidden = np.random.default_rng().standard_normal((1, 8, 21, 4, 4)).astype(np.float32)
    whole = run(path, "rear", {"hidden_00": hidden})["frames"]
    start, end = 4, 17
    window = run(path, "rear", {"hidden_00": np.ascontiguousarray(hidden[:, :, start:end])})["frames"]

    def same(reach: int) -> bool:
        first, last = 2 * (start + reach) - 1, 2 * (end - reach) - 1
        return np.array_equal(window[:, :, first - 2 * start : last - 2 * start], whole[:, :, first:last])

    assert [same(reach) for reach in (1, 2, 3, 4)] == [False, False, True, True]


@pytest.mark.parametrize("target", ["tensorrt-10.3", "cuda"])
def test_parts_are_lowered_for_every_target(ltx_reel: Path, target: str) -> None:
    path = ltx_reel / "decoder.onnx"
    for part in ("front", "rear"):
        model = lower_for_target(path, parse_target(target), "float16", part=part).model
        expected = interface_of(cut_part(path.read_bytes(), part, "decoder"))
        assert interface_of(model) == expected
    assert part_inputs(path, "rear") == {"hidden_00": ("batch", 8, "frames*4-3", "height*4", "width*4")}


@pytest.mark.parametrize(("frames", "sizes"), [(1, []), (3, []), (7, [5, 4, 3]), (12, [8, 6, 5, 4, 3])])
def test_windows_are_ever_smaller_and_show_something(frames: int, sizes: list[int]) -> None:
    assert window_sizes(frames, Window(3, 4, 2)) == sizes


def test_extents() -> None:
    for text, of_five in (("frames", 5), ("height*4", 20), ("frames*8-7", 33)):
        extent = parse_extent(text)
        assert extent is not None
        assert (str(extent), extent.of(5)) == (text, of_five)
    for text in ("frames-7", "4*frames", "frames*8+1", "", "frames *8"):
        assert parse_extent(text) is None


def model_of(*nodes):
    shape = ["batch", 4, "frames", "height", "width"]
    grown = ["batch", 4, "frames*2-1", "height", "width"]
    values = [
        onnx.helper.make_tensor_value_info(*each) for each in (("latents", FLOAT, shape), ("frames", FLOAT, grown))
    ]
    constants = {"two": [2], "one": [1], "end": [2**62]}
    tensors = [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(list(nodes), "main", values[:1], values[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString()


def doubling(name, output):
    """Nodes that put all frames but the first behind a value's own: 2 F - 1 of them."""
    later = make_node("Slice", [name, "one", "end", "two"], [f"{name}_later"])
    return later, make_node("Concat", [name, f"{name}_later"], [output], axis=2)


def test_what_cannot_be_decoded_in_windows_says_so() -> None:
    at_once = model_of(*doubling("latents", "grown"), make_node("Tanh", ["grown"], ["frames"]))
    with pytest.raises(EngineError, match="odd has no level with fewer frames that it could be cut behind"):
        cut_part(at_once, "rear", "odd")
    summing = model_of(
        make_node("Sin", ["latents"], ["seen"]),
        *doubling("seen", "grown"),
        make_node("CumSum", ["grown", "two_alone"], ["frames"]),
        make_node("Squeeze", ["two"], ["two_alone"]),
    )
    model = onnx.ModelProto.FromString(summing)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[-1], *nodes[:-1]])
    rear = cut_part(model.SerializeToString(), "rear", "odd")
    with pytest.raises(EngineError, match="odd has CumSum, which may see all frames at once"):
        window_of(rear, "odd")
