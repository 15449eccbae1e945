"""What `auto` picks, what it says of it, and that an engine asked for by name is never replaced by another."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereel import engines
from edgereel.core.errors import EngineError, UsageError
from edgereel.core.machine import Gpu
from edgereel.engines import ENGINES, get_engine, nvidia
from edgereel.engines.base import Engine
from edgereel.engines.choosing import BEST_FIRST, choose, choose_engine

pytestmark = pytest.mark.lean


class Planted(Engine):
    """An engine with a reason, which notes whether it was asked for it."""

    def __init__(self, name, reason):
        self.name, self.reason, self.asked = name, reason, False

    def unavailable(self):
        self.asked = True
        return self.reason

    def open(self, graph_path, options):
        raise AssertionError("choosing opens nothing")


def planted(**reasons):
    return {name: Planted(name, reason) for name, reason in reasons.items()}


@pytest.fixture
def gpus(monkeypatch):
    """Plant what nvidia-smi finds."""

    def plant(*found, problem=""):
        monkeypatch.setattr(nvidia, "nvidia_gpus", lambda: (found, problem))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return plant


def gpu(capability, name="NVIDIA GeForce"):
    return Gpu(name, 8 * 2**30, capability, "580.1")


def test_the_best_that_can_run():
    assert choose_engine(planted(cpu=None, rtx=None)).name == "rtx"
    choice = choose_engine(planted(rtx="no card", tensorrt="not installed", cuda=None, cpu=None))
    assert choice.name == "cuda"
    assert choice.why == "cuda, since rtx cannot run: no card; tensorrt cannot run: not installed"
    choice = choose_engine(planted(rtx="no GPU", tensorrt="no GPU", cuda="no GPU", cpu=None))
    assert choice.why == "cpu, since rtx and tensorrt and cuda cannot run: no GPU"
    assert choose_engine(planted(rtx=None, cpu=None)).why == "rtx, the best there is"


def test_none_can_run():
    choice = choose_engine(planted(cuda="no GPU", cpu="needs onnxruntime"))
    assert choice.name == "cpu"
    assert choice.why == "none can run: cuda cannot run: no GPU; cpu cannot run: needs onnxruntime"


def test_worse_engines_are_not_asked():
    made = planted(rtx="no", cuda=None, cpu=None)
    choose_engine(made)
    assert [made[name].asked for name in ("rtx", "cuda", "cpu")] == [True, True, False]


@given(st.dictionaries(st.sampled_from(BEST_FIRST), st.none() | st.text(min_size=1), min_size=1))
def test_whatever_is_there(reasons):
    choice = choose(reasons)
    ranked = sorted(reasons, key=BEST_FIRST.index)
    running = [name for name in ranked if reasons[name] is None]
    assert choice.name == (running[0] if running else ranked[-1])
    for name in ranked:
        if not running or BEST_FIRST.index(name) < BEST_FIRST.index(running[0]):
            assert reasons[name] in choice.why


def test_without_a_gpu(gpus):
    gpus()
    choice = engines.choose()
    assert choice.name == "cpu"
    assert "no NVIDIA GPU is found" in choice.why
    assert get_engine().name == "cpu"
    for name in ("cuda", "rtx"):
        with pytest.raises(EngineError, match=f"the {name} engine cannot run here: no NVIDIA GPU .*: nvidia-smi"):
            get_engine(name)


def test_an_unknown_engine():
    with pytest.raises(UsageError, match=r"choose from auto, cpu, cuda, .*rtx"):
        get_engine("quantum")


def test_each_engine_answers_for_its_name(gpus):
    gpus()
    for name, make in ENGINES.items():
        engine = make()
        assert engine.name == name
        reason = engine.unavailable()
        assert name in ("cpu", "openvino") if reason is None else "\n" not in reason


def test_engines_for_gpus_are_not_imported_before_they_are_asked_for():
    program = (
        "import sys, edgereel.engines;"
        "print([m for m in sys.modules if m.endswith(('_cuda', '_rtx', 'nvidia')) or m in ('onnx', 'onnxruntime')])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_no_gpu_will_do(gpus, monkeypatch):
    def fits(capability):
        return capability >= (7, 5)

    gpus(gpu("8.9"))
    assert nvidia.no_fitting_gpu(fits, "7.5") is None
    gpus(gpu("6.1", "NVIDIA GTX 1080"))
    reason = nvidia.no_fitting_gpu(fits, "7.5 and newer")
    assert reason == "it runs on GPUs of compute capability 7.5 and newer, and there is NVIDIA GTX 1080 (6.1)"
    gpus(gpu("6.1"), gpu("8.6"))
    assert nvidia.no_fitting_gpu(fits, "7.5") is None
    gpus(gpu("[N/A]"))
    assert nvidia.no_fitting_gpu(fits, "7.5") is None
    gpus(problem="nvidia-smi did not answer within 5 s: the driver hangs")
    assert "the driver hangs" in nvidia.no_fitting_gpu(fits, "7.5")
    gpus(gpu("8.9"))
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert "unset CUDA_VISIBLE_DEVICES" in nvidia.no_fitting_gpu(fits, "7.5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert nvidia.no_fitting_gpu(fits, "7.5") is None


@pytest.mark.parametrize(
    ("model", "capability"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", (8, 7)),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", (8, 7)),
        ("NVIDIA Jetson AGX Thor Developer Kit", (11, 0)),
        ("Raspberry Pi 5 Model B", None),
        ("", None),
    ],
)
def test_a_jetson_is_known_by_its_model(model, capability):
    found = nvidia.with_jetson((), model)
    assert [nvidia.capability_of(one) for one in found] == ([] if capability is None else [capability])
    silent = Gpu("Orin (nvgpu)", None, "[N/A]", "540.4.0")
    (one,) = nvidia.with_jetson((silent,), model)
    assert nvidia.capability_of(one) == capability
    assert one.driver == "540.4.0"
    (one,) = nvidia.with_jetson((gpu("8.9"),), model)
    assert nvidia.capability_of(one) == (8, 9)


def test_nvidia_smi_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(nvidia, "find_gpus", lambda: asked.append(1) or ([gpu("8.9")], ""))
    nvidia.nvidia_gpus.cache_clear()
    try:
        assert nvidia.nvidia_gpus() == nvidia.nvidia_gpus()
        assert asked == [1]
    finally:
        nvidia.nvidia_gpus.cache_clear()
