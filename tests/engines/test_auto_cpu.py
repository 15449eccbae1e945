"""Which engine decodes on the processor where `auto` was asked for: what was measured on this machine says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from hypothesis import given
from hypothesis import strategies as st

import edgereel
from edgereel.core.errors import EngineError
from edgereel.engines import EngineOptions, auto_cpu, choose, get_engine
from edgereel.engines.auto_cpu import MARGIN, WORTH_MEASURING, AutoCpu, Rates, decoder_rates
from edgereel.engines.wrapped import ObservedEngine
from edgereel.runtime.memory.sizes import DECODER

pytestmark = pytest.mark.lean

TWICE = Rates(1e11, 2e11, 0.5, "float32")
BALL = "a red ball bounces over the ocean"


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    decoder_rates.cache_clear()
    yield
    decoder_rates.cache_clear()


def plant(monkeypatch: pytest.MonkeyPatch, rates: Rates | None) -> None:
    monkeypatch.setattr(auto_cpu, "decoder_rates", lambda threads: rates)


def test_small_clips_are_decoded_without_measuring_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_cpu, "decoder_rates", lambda threads: pytest.fail("measured"))
    engine = AutoCpu()
    assert engine.for_decoder(WORTH_MEASURING * 0.99, 1) is engine


@given(st.floats(WORTH_MEASURING, 1e16), st.floats(1e9, 1e13), st.floats(1e9, 1e13), st.floats(0, 10))
def test_openvino_decodes_where_it_saves_more_than_its_opening_takes(
    flops: float, cpu: float, openvino: float, opening: float
) -> None:
    saved = flops / cpu - flops / openvino
    assert (Rates(cpu, openvino, opening, "float32").saves(flops) > 0) == (saved > MARGIN * opening)


@pytest.mark.parametrize(
    ("rates", "flops", "name"),
    [
        (TWICE, 1e12, "openvino"),
        (TWICE, 1.6e11, "openvino"),  # 0.8 s for an opening of 0.5 s, counted one and a half times
        (TWICE, 1.4e11, "cpu"),
        (replace(TWICE, openvino=1e11), 1e15, "cpu"),
        (None, 1e15, "cpu"),
    ],
)
def test_what_was_measured_decides(
    monkeypatch: pytest.MonkeyPatch, rates: Rates | None, flops: float, name: str
) -> None:
    plant(monkeypatch, rates)
    engine = AutoCpu()
    chosen = engine.for_decoder(flops, 2)
    assert (chosen.name, chosen is engine) == (name, name == "cpu")
    assert engine.for_decoder(flops, 2) is chosen


def test_an_engine_that_was_asked_for_by_name_decodes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, TWICE)
    engine = get_engine("cpu")
    assert engine.for_decoder(1e15, 1) is engine
    if choose().name == "cpu":
        assert get_engine("auto").for_decoder(1e15, 1).name == "openvino"


def test_an_observed_engine_observes_the_other_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, TWICE)
    seen: list[str] = []
    observed = ObservedEngine(AutoCpu(), lambda name, inputs, outputs: seen.append(name))
    assert observed.for_decoder(1.0, 1) is observed
    other = observed.for_decoder(1e15, 1)
    assert isinstance(other, ObservedEngine)
    assert (other.name, other.inner.name, other.fixed_shapes, observed.name) == ("openvino", "openvino", True, "cpu")


def test_rates_are_kept_and_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_cpu, "find_spec", lambda name: object())
    measured: list[int] = []

    def measure(threads: int) -> Rates:
        measured.append(threads)
        return TWICE

    monkeypatch.setattr(auto_cpu, "measure_rates", measure)
    assert decoder_rates(2) == TWICE
    decoder_rates.cache_clear()  # as a new process would begin
    assert decoder_rates(2) == TWICE
    assert decoder_rates(1) == TWICE
    assert measured == [2, 1]


def test_an_openvino_that_fails_is_told_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auto_cpu, "find_spec", lambda name: object())

    def fail(threads: int) -> Rates:
        raise EngineError("openvino is installed but cannot be loaded")

    monkeypatch.setattr(auto_cpu, "measure_rates", fail)
    assert decoder_rates(1) is None
    assert "decoders stay with the cpu engine" in caplog.text
    monkeypatch.setattr(auto_cpu, "find_spec", lambda name: None if name == "openvino" else object())
    decoder_rates.cache_clear()
    assert decoder_rates(1) is None


@pytest.mark.extras
def test_the_probe_is_the_same_in_both_engines_and_measured(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    rates = auto_cpu.measure_rates(1)
    assert rates.cpu > 1e8
    assert rates.openvino > 1e8
    assert rates.opening < 60
    assert rates.compute == ("bfloat16" if auto_cpu.processor_has_bfloat16() else "float32")


@pytest.mark.extras
def test_a_clip_is_decoded_by_openvino_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    compute = "bfloat16" if auto_cpu.processor_has_bfloat16() else "float32"
    plant(monkeypatch, Rates(1e9, 1e15, 0, compute))
    monkeypatch.setattr(auto_cpu, "WORTH_MEASURING", 0)
    size = {"steps": 1, "frames": 5, "size": (32, 32)}
    options = EngineOptions(threads=1)
    with edgereel.load(DEMO_REEL, "cpu", threads=1) as reel:
        plain = np.stack(list(reel.generate(BALL, **size))).astype(float)
    bundle = edgereel.load(DEMO_REEL, "cpu", threads=1).bundle
    with edgereel.Reel(bundle, AutoCpu(), options) as reel:
        video = reel.generate(BALL, **size)
        made = np.stack(list(video)).astype(float)
        engines = {name: report.engine for name, report in reel.report().items()}
        told = video.settings()["ran"]
        # Where memory is short, what was planned for decodes.
        reel.graphs.plan = replace(reel.plan(32, 32, 5), budget=replace(reel.plan(32, 32, 5).budget, bytes=1))
        assert reel.graphs._engine_of("decoder_next").name == "cpu"
    assert {name: engine for name, engine in engines.items() if DECODER in name} == {
        "decoder_first": "openvino", "decoder_next": "openvino"
    }  # fmt: skip
    assert engines["denoiser"] == "cpu"
    assert compute in told["precision"]
    assert 10 * math.log10(255**2 / max(np.square(made - plain).mean(), 1e-9)) > 45
