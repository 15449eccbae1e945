"""Work counted for a clip, and the machine's peaks: the graphs that find them compute what they should."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import DEMO_REEL

from edgereel.bench.records.record import MachineLimits
from edgereel.bench.resources.limits import against_limits, measure_limits, stage_resources
from edgereel.bundle.manifest import Quantization
from edgereel.bundle.reader import open_bundle
from edgereel.engines import EngineOptions, Tensor, get_engine
from edgereel.engines.costs import graph_costs, peaks
from edgereel.runtime.memory.work import Work, count_work, precision_of
from edgereel.runtime.request import OpenRequest

LIMITS = MachineLimits(flops_per_second={"float32": 1e9}, bytes_per_second=1e8, threads=1, method="by hand")


def work_of(folder, **settings):
    bundle = open_bundle(folder)
    return count_work(bundle, OpenRequest("a red ball", **settings).complete(bundle.manifest))


def test_work_is_that_of_every_run_of_every_graph():
    """17 frames are 5 latent frames: one run of the first decoder, four of the next."""
    work = work_of(DEMO_REEL, steps=4)
    tokens = open_bundle(DEMO_REEL).manifest.text.max_tokens
    text = graph_costs(DEMO_REEL / "text_encoder.onnx", {"input_ids": (1, tokens), "attention_mask": (1, tokens)})
    assert work["text"] == Work(text.flops, text.bytes_moved, "float32")
    one = work_of(DEMO_REEL, steps=1)
    assert work["denoise"] == Work(4 * one["denoise"].flops, 4 * one["denoise"].bytes, "float32")
    assert work["decode"] == one["decode"]
    lengths = [work_of(DEMO_REEL, steps=1, frames=frames)["decode"].flops for frames in (1, 5, 9, 17)]
    assert lengths[1] > lengths[0] > 0
    assert lengths[2] - lengths[1] == lengths[1] - lengths[0] == (lengths[3] - lengths[2]) // 2


def test_guidance_doubles_text_and_denoiser(guided_copy):
    guided, plain = work_of(guided_copy, steps=8), work_of(DEMO_REEL, steps=8)
    assert guided["denoise"].flops == 2 * plain["denoise"].flops
    assert guided["text"].flops == 2 * plain["text"].flops
    assert guided["decode"] == plain["decode"]


@pytest.mark.parametrize(
    ("linears", "activations", "expected"),
    [
        ({"int8": 9, "float32": 2}, "dynamic", "int8"),
        ({"int4": 5}, "float", "float32"),
        ({"float8e4m3fn": 1}, "static", "float8e4m3fn"),
    ],
)
def test_the_peak_is_that_of_what_products_calculate_in(linears, activations, expected):
    assert precision_of(Quantization(linears=linears, activations=activations)) == expected
    assert precision_of(None) == "float32"


def test_fractions_are_of_the_nearer_limit():
    compute = against_limits(Work(500_000_000, 10_000_000, "float32"), 1.0, LIMITS)
    assert (compute.fraction_of_compute, compute.fraction_of_memory) == (pytest.approx(0.5), pytest.approx(0.1))
    assert compute.bound == "compute"
    memory = against_limits(Work(500_000_000, 160_000_000, "float32"), 2.0, LIMITS)
    assert (memory.fraction_of_compute, memory.fraction_of_memory) == (pytest.approx(0.25), pytest.approx(0.8))
    assert memory.bound == "memory"


def test_what_was_not_measured_is_unknown():
    other = against_limits(Work(5, 5, "int8"), 1.0, LIMITS)
    assert (other.flops, other.fraction_of_compute, other.bound) == (5, None, None)
    device = against_limits(Work(5, 5, "float32"), 1.0, LIMITS.model_copy(update={"bytes_per_second": None}))
    assert (device.fraction_of_memory, device.bound) == (None, None)
    work = {"text": Work(5, 5, "float32"), "decode": Work(6, 6, "float32")}
    found = stage_resources(work, {"text": 0.5}, LIMITS)
    assert found["text"].fraction_of_compute == pytest.approx(1e-8)
    assert (found["decode"].flops, found["decode"].fraction_of_compute) == (6, None)
    assert stage_resources(work, {"text": 0.5}, None)["text"].fraction_of_compute is None


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-5), ("int8", 0.05)])
def test_the_product_that_is_timed_is_the_one_that_is_counted(kind, tolerance, tmp_path):
    """Against float64: relative error of the whole matrix; int8 quantizes activations before each of the products."""
    side = 64
    path = tmp_path / "product.onnx"
    path.write_bytes(peaks.product_graph(side, kind))
    options = EngineOptions(threads=1, activations="dynamic" if kind == "int8" else "float", keep=False)
    x = np.random.default_rng(5).standard_normal((side, side), dtype=np.float32)
    with get_engine("cpu").open(path, options) as session:
        y = session.run({"x": Tensor.from_numpy(x)})["y"].numpy()
        assert session.report.precision == ("int8 (dynamic)" if kind == "int8" else "float32")
    generator = np.random.default_rng(1)
    if kind == "int8":
        weight = generator.integers(-127, 128, (side, side), dtype=np.int8) / (73 * np.sqrt(side))
    else:
        weight = generator.standard_normal((side, side), dtype=np.float32) / np.sqrt(side)
    expected = x.astype(np.float64) @ np.linalg.matrix_power(weight.astype(np.float64), peaks.CHAIN)
    assert np.linalg.norm(y - expected) / np.linalg.norm(expected) < tolerance
    costs = graph_costs(path.read_bytes(), {"x": (side, side)}, keep=False)
    assert costs.flops == 2 * peaks.CHAIN * side**3


def test_peaks_are_measured(monkeypatch):
    monkeypatch.setattr(peaks, "_ENOUGH", 0.005)
    found = measure_limits(get_engine("cpu"), threads=1, int8=True, seconds=0.3)
    assert set(found.flops_per_second) == {"float32", "int8"}
    assert found.threads == 1
    # Any processor of this century: 0.1 GFLOPS to 100 TFLOPS, 0.1 GB/s to 10 TB/s.
    assert all(1e8 < peak < 1e14 for peak in found.flops_per_second.values())
    assert 1e8 < found.bytes_per_second < 1e13


def test_without_onnx_numpy_stands_in(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    found = measure_limits(get_engine("cpu"), threads=1, int8=True, seconds=0.1)
    assert set(found.flops_per_second) == {"float32"}
    assert "numpy" in found.method
    assert "int8: not measured" in found.method
