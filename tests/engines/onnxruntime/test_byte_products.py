from __future__ import annotations

import numpy as np
import pytest

from edgereel.engines.onnxruntime import byte_products

pytestmark = pytest.mark.lean

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def make_probe():
    types = onnx.TensorProto
    inputs = [("a", types.UINT8, [1, 32]), ("b", types.INT8, [32, 16])]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "probe",
        [onnx.helper.make_tensor_value_info(*each) for each in inputs],
        [onnx.helper.make_tensor_value_info("c", types.INT32, [1, 16])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def test_the_probe_is_what_onnx_makes():
    assert onnx.ModelProto.FromString(byte_products.PROBE) == make_probe()


@pytest.mark.parametrize(("found", "exact"), [(32 * 255 * 127, True), (16 * 32767, False)])
def test_the_probe_tells_saturated_sums(monkeypatch, found, exact):
    class Session:
        def __init__(self, *_, **__):
            pass

        def run(self, *_):
            return [np.full((1, 16), found, np.int32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert byte_products.byte_products_are_exact(onnxruntime, None) is exact


def test_the_probe_runs():
    assert byte_products.byte_products_are_exact(onnxruntime, onnxruntime.SessionOptions()) in (True, False)
