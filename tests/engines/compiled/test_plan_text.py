"""What a plan of TensorRT-RTX tells of itself, read off plans that its real compiler makes of small graphs; no GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.rtx_builder import rtx  # skips where it is not installed

from edgereel.core.errors import EngineError
from edgereel.engines.compiled.facts import CompiledGraph, describe_compiled
from edgereel.engines.compiled.plan_text import read_plan
from edgereel.engines.compiled.rtx_compiler import explain_for_card
from edgereel.engines.lowering.lower import lower_for_target
from edgereel.engines.lowering.target.rewrite import rewrite_for_target
from edgereel.engines.lowering.targets import parse_target
from edgereel.engines.onnxruntime.rtx import OnnxRuntimeRtx
from edgereel.engines.options import Compute, EngineOptions
from edgereel.engines.tensorrt.building import BuildSettings
from edgereel.engines.tensorrt.profiles import RANGES
from edgereel.tools.gpu_checks import graphs
from edgereel.tools.gpu_checks.graphs import BlockSize, Quantized

SMALL = BlockSize(heads=4, head=64, hidden=1024)
HEADS, SIZE = SMALL.heads, SMALL.width
TOKENS = 1024
SHAPES = (("x", (1, TOKENS, SIZE)),)


def write_block(folder: Path, quantized: Quantized = "") -> Path:
    return graphs.write_block(folder, SMALL, quantized)


def compiled(path: Path, target: str = "tensorrt-rtx", compute: Compute = "float16", card=(8, 9)) -> CompiledGraph:
    model = lower_for_target(path, parse_target(target), compute, keep=False).model
    assert model is not None
    return explain_for_card(model, path, BuildSettings(compute, SHAPES, RANGES, False, None, card=card))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> CompiledGraph:
    return compiled(write_block(tmp_path_factory.mktemp("plain")))


def test_attention_tells_its_kernel_and_what_it_sums_in(plain: CompiledGraph) -> None:
    (attention,) = plain.attention
    assert (attention.kernel, attention.count) == ("gemm_mha_v2", 1)
    assert (attention.operands, attention.scores, attention.output) == ("bfloat16", "float32", "float32")


def test_float16_attention_is_told_from_bfloat16(tmp_path: Path) -> None:
    # Written for onnxruntime's kernels, which sum in float32; NVIDIA's compiler has others for the same graph.
    path = write_block(tmp_path)
    narrow = replace(parse_target("tensorrt-10.3"), bfloat16_attention=False)
    model, _ = rewrite_for_target(path.read_bytes(), narrow, "float16", "block")
    told = explain_for_card(model, path, BuildSettings("float16", SHAPES, RANGES, False, None, card=(8, 9)))
    (attention,) = told.attention
    assert (attention.operands, attention.scores, attention.output) == ("float16", "float32", "float16")


def test_attention_with_its_softmax_in_half_precision_is_fused_too(tmp_path: Path) -> None:
    """What is built where TensorRT 10.3 does not fuse it otherwise, see TensorRt._holds_scores."""
    path = write_block(tmp_path)
    model, _ = rewrite_for_target(
        path.read_bytes(), replace(parse_target("tensorrt-10.3"), half_softmax=True), "float16", "block"
    )
    told = explain_for_card(model, path, BuildSettings("float16", SHAPES, RANGES, False, None, card=(8, 6)))
    assert [(each.operands, each.output, each.count) for each in told.attention] == [("bfloat16", "float32", 1)]


def test_products_tell_the_types_of_both_factors(plain: CompiledGraph) -> None:
    # Query, key and value are one product.
    assert plain.product_operands == {("float16", "float16"): 4}


def test_fusions_and_values_between_kernels_are_told(plain: CompiledGraph) -> None:
    assert plain.card == "sm89"
    assert plain.plan_bytes > 2**20
    assert sum(kernel.nodes for kernel in plain.kernels) > 2 * sum(kernel.count for kernel in plain.kernels)
    assert any("Tanh" in kernel.name or kernel.name == "gemm" for kernel in plain.kernels)
    # What comes out of the wide linear is in memory once, and no scores are.
    wide = [value for value in plain.held if value.shape == (1, TOKENS, 4 * SIZE)]
    assert [(value.type, value.count, value.bytes) for value in wide] == [("float16", 1, 2 * TOKENS * 4 * SIZE)]
    assert max(value.bytes or 0 for value in plain.held) < 2 * HEADS * TOKENS * TOKENS
    assert plain.held_bytes is not None
    assert plain.held_bytes >= wide[0].bytes  # type: ignore[operator]
    assert sum(kernel.bytes or 0 for kernel in plain.kernels) > plain.held_bytes


@pytest.mark.parametrize(
    ("quantized", "operands"),
    [
        ("static int8", ("int8", "int8")),
        ("static float8", ("float8", "float8")),
        ("weights int8", ("float16", "float16")),  # written out before the product: nothing is gained but memory
    ],
)
def test_quantized_products_are_what_the_plan_says(
    tmp_path: Path, quantized: Quantized, operands: tuple[str, str]
) -> None:
    assert set(compiled(write_block(tmp_path, quantized)).product_operands) == {operands}


def test_float32_is_told(tmp_path: Path) -> None:
    assert set(compiled(write_block(tmp_path), compute="float32").product_operands) == {("float32", "float32")}


def test_facts_are_json_and_words(plain: CompiledGraph) -> None:
    facts = json.loads(json.dumps(plain.to_json()))
    assert facts["attention"][0]["output"] == "float32"
    lines = describe_compiled("block", plain)
    assert "gemm_mha_v2: bfloat16, scores summed in float32, output in float32" in lines[1]
    assert any("4 x gemm float16 x float16 -> float16" in line for line in lines)


def test_the_rtx_engine_explains_without_a_card(tmp_path: Path) -> None:
    path, options = write_block(tmp_path), EngineOptions(shapes=SHAPES, keep=False)
    assert OnnxRuntimeRtx().explain(path, options, (12, 0)).card == "sm120"
    with pytest.raises(EngineError, match=r"8\.6, 8\.9, 12\.0 and newer, not 9\.0"):
        OnnxRuntimeRtx().explain(path, options, (9, 0))
    with pytest.raises(EngineError, match=r"does not know compute capability 15\.0: choose from .*8\.9.*12\.0"):
        OnnxRuntimeRtx().explain(path, options, (15, 0))


def test_plans_for_later_weights_need_a_card(tmp_path: Path) -> None:
    """Why `--explain` compiles with weights, and why stripped plans are not tried on the real compiler: see docs/hardware.md."""
    path = write_block(tmp_path)
    model = lower_for_target(path, parse_target("tensorrt-rtx"), "float16", keep=False).model
    settings = BuildSettings("float16", SHAPES, RANGES, False, None, strip=True, card=(8, 9))
    with pytest.raises(EngineError, match="CUDA_SUCCESS"):
        explain_for_card(model, path, settings)
    assert {"STRIP_PLAN", "REFIT_IDENTICAL"} <= set(rtx.BuilderFlag.__members__)


@pytest.mark.parametrize("plan", [b"", b"ftrt", b"\ndescriptors {\n", b"\ndescriptors {\n}\nmain {\n", b"\xff" * 100])
def test_what_is_no_plan_is_refused(plan: bytes) -> None:
    with pytest.raises(EngineError, match="no schedule that this release can read"):
        read_plan(plan, "TensorRT-RTX")


def test_lines_that_are_not_known_are_passed_over() -> None:
    tensors = b'  tensor={ name="a" type=half dims={ 2 "n" } }\n  odd\n'
    plan = b"\ndescriptors {\n" + tensors + b"}\nmain {\n  fully_connected={ name=f }\n??\n}\n"
    told = read_plan(plan, "TensorRT-RTX")
    assert told.products == ()
    assert told.card == "unknown"


def narrow_product(kind: str) -> bytes:
    """A product of two factors in Blackwell's block formats, as TensorRT's parser has them: its domain is `trt`."""
    import onnx

    make, types = onnx.helper.make_node, onnx.TensorProto
    inputs, outputs, block = 256, 512, 32 if kind == "mxfp8" else 16

    def stored(name: str, element: int, shape: tuple[int, ...], size: int) -> Any:
        return types(name=name, data_type=element, dims=shape, raw_data=bytes([52]) * size)

    if kind == "mxfp8":
        given = {"domain": "trt", "block_size": block, "output_dtype": types.FLOAT16}
        tensors = [
            stored("w", types.FLOAT8E4M3FN, (inputs, outputs), inputs * outputs),
            stored("ws", types.UINT8, (inputs // block, outputs), inputs // block * outputs),
        ]
        nodes = [
            make(
                "TRT_MXFP8DynamicQuantize", ["x"], ["q", "s"], axis=-1, **{**given, "output_dtype": types.FLOAT8E4M3FN}
            ),
            make("TRT_MXFP8DequantizeLinear", ["q", "s"], ["xd"], axis=-1, **given),
            make("TRT_MXFP8DequantizeLinear", ["w", "ws"], ["wd"], axis=0, **given),
        ]
    else:
        tensors = [
            stored("w", types.FLOAT4E2M1, (inputs, outputs), inputs * outputs // 2),
            stored("ws", types.FLOAT8E4M3FN, (inputs // block, outputs), inputs // block * outputs),
            *(
                onnx.numpy_helper.from_array(np.array(value, np.float16), name)
                for name, value in (("g", 0.001), ("a", 0.01))
            ),
        ]
        nodes = [
            make(
                "TRT_FP4DynamicQuantize", ["x", "a"], ["q", "s"],
                domain="trt", axis=-1, block_size=block, scale_type=types.FLOAT8E4M3FN,
            ),
            make("DequantizeLinear", ["s", "a"], ["sd"]),
            make("DequantizeLinear", ["q", "sd"], ["xd"], axis=-1, block_size=block),
            make("DequantizeLinear", ["ws", "g"], ["wsd"]),
            make("DequantizeLinear", ["w", "wsd"], ["wd"], axis=0, block_size=block),
        ]  # fmt: skip
    nodes.append(make("MatMul", ["xd", "wd"], ["y"], name="product"))
    ends = [
        onnx.helper.make_tensor_value_info(name, types.FLOAT16, [TOKENS, n])
        for name, n in (("x", inputs), ("y", outputs))
    ]
    graph = onnx.helper.make_graph(nodes, "narrow", ends[:1], ends[1:], tensors)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("trt", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()


@pytest.mark.parametrize(("kind", "operands"), [("mxfp8", "float16"), ("nvfp4", "float4")])
def test_which_of_blackwells_dynamic_forms_are_multiplied(tmp_path: Path, kind: str, operands: str) -> None:
    """Why bundles have no MXFP8: docs/quantization.md. Where this fails for mxfp8, the compiler has learnt it."""
    settings = BuildSettings("float16", (("x", (TOKENS, 256)),), RANGES, False, None, card=(12, 0))
    told = explain_for_card(narrow_product(kind), tmp_path / "narrow.onnx", settings)
    assert told.product_operands == {(operands, operands): 1}
