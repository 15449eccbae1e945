"""What `auto` is on the processor: ONNX Runtime, and OpenVINO for decoders where that was measured to be worth it.

A decoder is convolutions, which ONNX Runtime's CPU provider does at half the speed of its products, and which OpenVINO does
faster, above all in bfloat16 on processors that have it. But OpenVINO takes half a second more to be loaded and to compile a
graph. So it decodes where what it saves on a clip is more than that. Both are measured once on each machine, by a small graph
of a decoder's kind, and kept in the cache folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import EdgereelError
from ..core.interrupts import temporary_folder
from ..core.machine import read_machine, usable_cores
from .base import Engine, Tensor
from .cache import store
from .costs.decoder_probe import PROBE_INPUT, probe_flops, probe_graph
from .costs.peaks import fastest_of
from .onnxruntime.cpu import OnnxRuntimeCpu
from .openvino.engine import OpenVino, import_openvino
from .options import Compute, EngineOptions

WORTH_MEASURING = 5e10
"""FLOPs of a clip's decoding below which OpenVINO never makes up for its opening: half a second, at 80 GFLOP/s."""
MARGIN = 1.5
"""How many times OpenVINO's opening a clip's decoding must save: measurements of this length are off by as much."""
_FOLDER = "decoding"
_RUNS = 0.15
"""Seconds that an engine's runs are measured for."""


@dataclass(frozen=True)
class Rates:
    """How fast a decoder runs here. cpu, openvino: FLOPs a second. opening: seconds that OpenVINO takes more to be opened.

    compute: what OpenVINO calculated in: bfloat16 where the processor has it.
    """

    cpu: float
    openvino: float
    opening: float
    compute: Compute

    def saves(self, flops: float) -> float:
        """Return the seconds that OpenVINO takes less for so many FLOPs, its opening included; below 0 where it takes more."""
        return flops / self.cpu - flops / self.openvino - MARGIN * self.opening


class AutoCpu(OnnxRuntimeCpu):
    """ONNX Runtime's CPU provider, which leaves decoders to OpenVINO where that is worth it."""

    def for_decoder(self, flops: float, threads: int | None) -> Engine:
        """See Engine.for_decoder."""
        if flops < WORTH_MEASURING:
            return self
        rates = decoder_rates(threads or usable_cores())
        return _openvino(rates.compute) if rates is not None and rates.saves(flops) > 0 else self


@lru_cache
def _openvino(compute: Compute) -> Engine:
    return OpenVino(compute)


@lru_cache
def decoder_rates(threads: int) -> Rates | None:
    """Return how fast decoders run here with so many threads, measured where the cache does not tell it.

    None where OpenVINO is not installed, or fails.
    """
    if find_spec("openvino") is None or find_spec("onnx") is None:
        return None
    machine = read_machine()
    releases = [_version(name) for name in ("onnxruntime", "openvino")]
    key = store.key_of("decoder rates", 1, machine.processor, list(machine.instruction_sets or ()), threads, releases)
    kept = store.read_entry(_FOLDER, key, lambda facts, body: Rates(**facts["rates"]))
    if kept is not None:
        return kept
    try:
        found = measure_rates(threads)
    except EdgereelError as error:
        store.log.warning("decoders stay with the cpu engine, openvino cannot be measured: %s", error)
        return None
    store.write_entry(_FOLDER, key, {"rates": asdict(found)}, b"")
    return found


def measure_rates(threads: int) -> Rates:
    """Measure both engines on a graph of a decoder's kind. Raises EngineError, MissingExtraError."""
    OnnxRuntimeCpu().unavailable()  # loads it, as it is loaded by the time that a decoder is opened
    started = time.perf_counter()
    compute: Compute = "bfloat16" if processor_has_bfloat16() else "float32"
    loading = time.perf_counter() - started
    with temporary_folder("edgereel-rates-") as folder:
        path = Path(folder) / "decoder.onnx"
        path.write_bytes(probe_graph())
        x = np.random.default_rng(0).standard_normal(PROBE_INPUT, dtype=np.float32)
        cpu = _measured(OnnxRuntimeCpu(), path, x, EngineOptions(threads=threads, keep=False))
        own = EngineOptions(threads=threads, keep=False, compute=compute, shapes=(("x", PROBE_INPUT),))
        openvino = _measured(OpenVino(compute), path, x, own)
    return Rates(cpu[0], openvino[0], max(0.0, loading + openvino[1] - cpu[1]), compute)


def processor_has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 (AVX-512 BF16, AMX, or Arm's), as OpenVINO tells it."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _measured(engine: Engine, path: Path, x: Any, options: EngineOptions) -> tuple[float, float]:
    """Return the FLOPs a second of the probe, and the seconds of opening it."""
    started = time.perf_counter()
    with engine.open(path, options) as session:
        opening = time.perf_counter() - started
        run: Callable[[], object] = lambda: session.run({"x": Tensor.from_numpy(x)})["y"].numpy()  # noqa: E731
        run()
        return probe_flops() / fastest_of(run, _RUNS), opening


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
