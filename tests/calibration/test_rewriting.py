"""Quantized graphs: valid ONNX, standard operators, and equal to float64 arithmetic written anew."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers.linear_graph import write_linear_graph
from onnx.reference import ReferenceEvaluator

from edgereel.bundle.external_data import external_data_of
from edgereel.calibration.forms import BLOCK, quantize_weight
from edgereel.calibration.graph_file import GraphFile
from edgereel.calibration.rewriting import ALIGNMENT, INLINE_BYTES, GraphPlan, WeightFile, write_quantized
from edgereel.core.errors import BundleError, UsageError

pytestmark = pytest.mark.lean

NAMES = ("blocks.0.first", "blocks.0.second")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return write_linear_graph(folder)


def quantized(source, folder: Path, plan: GraphPlan) -> Path:
    folder.mkdir()
    with WeightFile(folder / "graph.data") as data:
        write_quantized(GraphFile(source["path"], "denoiser"), plan, folder / "graph.onnx", data)
    return folder / "graph.onnx"


def evaluate(path: Path, rows: np.ndarray) -> np.ndarray:
    return ReferenceEvaluator(onnx.load(path)).run(None, {"x": rows})[0]


def dequantized64(weight: np.ndarray, kind: str) -> np.ndarray:
    """What a stored weight stands for, in float64."""
    stored = quantize_weight(weight, kind)
    scales = stored.scales.astype(np.float64)
    if kind == "int4":
        scales = np.repeat(scales, BLOCK, axis=0)[: len(weight)]
    return stored.values.astype(np.float64) * scales


def rounded64(rows: np.ndarray, largest: float, kind: str) -> np.ndarray:
    if kind == "fp8":
        scale = float(np.float32(largest / 448))
        scaled = np.clip(rows.astype(np.float32) / np.float32(scale), -448, 448)
        return scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale
    scale = float(np.float32(largest / 127))
    return np.clip(np.rint(rows.astype(np.float32) / np.float32(scale)), -128, 127).astype(np.float64) * scale


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_every_form_computes_what_it_says(source, tmp_path, kind, static, balanced):
    """Tolerance: float32 sums of 48 products against float64 ones."""
    if kind == "int4" and static:
        pytest.skip("int4 is of weights alone")
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((7, 48)).astype(np.float32)
    factors = np.exp(generator.standard_normal(48)).astype(np.float32) if balanced else None
    plan = GraphPlan(
        dict.fromkeys(NAMES, kind),
        {"x": 2.5} if static else {},
        {} if factors is None else {"x": factors},
    )
    path = quantized(source, tmp_path / "small", plan)
    onnx.checker.check_model(str(path), full_check=True)
    divided = rows if factors is None else rows * (1 / factors)
    read = rounded64(divided, 2.5, kind) if static else divided.astype(np.float64)
    expected = source["bias"].astype(np.float64)
    for weight in (source["first"], source["second"]):
        scaled = weight if factors is None else weight * factors[:, None]
        expected = expected + read @ dequantized64(scaled, kind)
    assert np.allclose(evaluate(path, rows), expected, rtol=1e-5, atol=2e-4)


def test_the_quantized_graph_is_in_canonical_form(source, tmp_path):
    path = quantized(source, tmp_path / "small", GraphPlan(dict.fromkeys(NAMES, "int8"), {"x": 3.0}))
    model = onnx.load(path, load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("QuantizeLinear") == 1, "both linears read one quantized tensor"
    assert operators.count("DequantizeLinear") == 3
    assert "Gemm" not in operators
    assert "Cast" not in operators, "weights stored as bfloat16 are not widened any more"
    assert {node.name for node in model.graph.node if node.op_type == "MatMul"} == set(NAMES)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert "w1" not in stored
    assert [tuple(stored[f"{name}.weight_int8"].dims) for name in NAMES] == [(48, 40)] * 2
    for reference in external_data_of(path):
        assert reference.location == "graph.data"
        assert reference.length > INLINE_BYTES
        assert reference.offset % (ALIGNMENT if reference.length >= ALIGNMENT else 64) == 0


def test_linears_that_are_not_named_stay_as_they_are(source, tmp_path):
    path = quantized(source, tmp_path / "small", GraphPlan({NAMES[0]: "int8"}))
    rows = np.random.default_rng(6).standard_normal((3, 48)).astype(np.float32)
    second = rows.astype(np.float64) @ source["second"] + source["bias"]
    assert np.allclose(evaluate(path, rows) - second, rows @ dequantized64(source["first"], "int8"), atol=2e-4)
    assert "Gemm" in [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def test_nothing_named_is_the_same_graph(source, tmp_path):
    rows = np.random.default_rng(7).standard_normal((3, 48)).astype(np.float32)
    path = quantized(source, tmp_path / "small", GraphPlan({}))
    assert np.array_equal(evaluate(path, rows), evaluate(source["path"], rows))


def test_a_quantized_graph_is_not_quantized_again(source, tmp_path):
    path = quantized(source, tmp_path / "small", GraphPlan({NAMES[0]: "int8"}))
    with pytest.raises(UsageError, match="quantized already"):
        GraphFile(path, "denoiser")


def test_a_weight_that_is_not_finite_is_refused_by_name(source, tmp_path):
    data = bytearray((source["path"].parent / "graph.data").read_bytes())
    data[:2] = b"\xc0\x7f"  # NaN as bfloat16
    (source["path"].parent / "graph.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"weight of blocks\.0\.first has values that are not finite"):
        quantized(source, tmp_path / "small", GraphPlan({NAMES[0]: "int8"}))


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "graph.onnx").write_bytes(b"\xff\xff\xff no graph")
    with pytest.raises(BundleError, match="cannot be read"):
        GraphFile(tmp_path / "graph.onnx", "denoiser")
