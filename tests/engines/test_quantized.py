"""What each engine makes of quantized linears, in words: tests/engines/compiled/ shows that they are true of compilers."""

from __future__ import annotations

import pytest
from conftest import DEMO_REEL, edit_manifest

from edgereel.core import machine
from edgereel.core.errors import EngineError
from edgereel.doctor import report as doctor
from edgereel.engines import nvidia
from edgereel.engines.fake import FakeEngine
from edgereel.engines.quantized import quantized_fit, refuse_float8

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("engine", "weights", "activations", "card", "narrow", "word"),
    [
        ("cpu", "int8", "dynamic", None, True, "int8"),
        ("cpu", "int4", "float", None, False, "save memory, not time"),
        ("cpu", "fp8", "static", None, False, "save memory, not time"),
        ("cuda", "int8", "static", (8, 9), False, "--precision fp8 --stats FILE"),
        ("cuda", "int8", "dynamic", (8, 6), False, "--activations static is multiplied in int8 by tensorrt and rtx"),
        ("rtx", "int8", "dynamic", (8, 9), False, "no scale for each token"),
        ("tensorrt", "int8", "dynamic", (8, 7), False, "--activations static is multiplied in int8 by tensorrt"),
        ("tensorrt", "int8", "static", (8, 7), True, "int8"),
        ("tensorrt", "int8", "static", (7, 0), False, "neither int8 nor float8"),
        ("rtx", "fp8", "static", (8, 9), True, "float8"),
        ("rtx", "fp8", "static", (8, 6), False, "float8 needs compute capability 8.9, this card has 8.6"),
        ("rtx", "int4", "float", (12, 0), False, "its activations are float"),
        ("openvino", "int8", "static", None, False, "OpenVINO widens"),
    ],
)
def test_what_an_engine_makes_of_quantized_linears(engine, weights, activations, card, narrow, word):
    fit = quantized_fit(engine, weights, activations, card)
    assert fit.narrow is narrow
    assert word in fit.why


def test_float8_is_refused_before_its_compiler_refuses_it():
    refuse_float8("rtx", "denoiser.onnx", True, (8, 9))
    refuse_float8("rtx", "denoiser.onnx", True, None)
    refuse_float8("rtx", "denoiser.onnx", False, (8, 6))
    with pytest.raises(
        EngineError, match=r"denoiser\.onnx is multiplied in float8.*8\.9 and newer.*has 8\.6: quantize"
    ):
        refuse_float8("rtx", "denoiser.onnx", True, (8, 6))


def test_a_reel_tells_what_a_gpu_makes_of_its_quantized_linears(demo_copy, monkeypatch):
    from edgereel.bundle.reader import open_bundle
    from edgereel.runtime.engine_facts import quantized_words

    quantization = {"linears": {"int8": 40, "as exported": 2}, "activations": "dynamic"}
    edit_manifest(
        demo_copy, lambda data: data["roles"]["denoiser"][0].update(quantization=quantization, activations="dynamic")
    )
    monkeypatch.setattr("edgereel.runtime.engine_facts.first_card", lambda: (8, 9))
    cuda, cpu = FakeEngine({}), FakeEngine({})
    cuda.name, cuda.device = "cuda", "gpu"
    manifest = open_bundle(demo_copy).manifest
    assert "widens int8 weights before each product" in quantized_words(manifest, cuda)
    assert quantized_words(manifest, cpu) == ""
    assert quantized_words(open_bundle(DEMO_REEL).manifest, cuda) == ""


def test_doctor_tells_which_quantized_bundles_suit_the_engine():
    card = machine.Gpu("RTX 4090", 24 * 2**30, "8.9", "580.00")
    (finding,) = doctor.check_quantized("rtx", [card])
    assert finding.facts == {"multiplied": ["int8 static", "fp8 static"]}
    (finding,) = doctor.check_quantized("cuda", [card])
    assert finding.detail == "cuda multiplies none as stored, other weights are widened first: they save memory alone"
    (finding,) = doctor.check_quantized("cpu", [])
    assert finding.facts == {"multiplied": ["int8 dynamic", "int8 static"]}
    assert nvidia.capability_of(card) == (8, 9)
