"""How near a clip's stages come to what the machine can do: arithmetic and traffic counted, the machine's peaks measured.

Samuel Williams et al., Roofline, 2009. FLOPs are those of matrix products, convolutions and attention; bytes are what each node
reads and writes, so that a model whose values stay in the processor's caches can pass the limit of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from ...core.errors import EngineError, MissingExtraError
from ...core.machine import free_host_memory, usable_cores
from ...core.units import format_bytes
from ...engines import Engine
from ...engines.costs.peaks import fastest_of, numpy_peak, product_peak
from ...runtime.memory.work import Work
from ..records.record import MachineLimits, StageResources

SECONDS = 4.0
"""How long finding all peaks may take, about."""
_COPY = 2**28  # bytes that no processor's cache holds
_COPY_SHARE = 8  # of the free memory, two such blocks take two parts of so many at most


def stage_resources(
    work: Mapping[str, Work], medians: Mapping[str, float], limits: MachineLimits | None
) -> dict[str, StageResources]:
    """Return each stage's work beside what the machine can do, where its median seconds are known."""
    return {stage: against_limits(part, medians.get(stage, 0.0), limits) for stage, part in work.items()}


def against_limits(work: Work, seconds: float, limits: MachineLimits | None) -> StageResources:
    """Return a stage's work, which took so many seconds (0: not known), beside what the machine can do."""
    found = StageResources(flops=work.flops, bytes=work.bytes)
    if limits is None or seconds <= 0:
        return found
    if peak := limits.flops_per_second.get(work.precision):
        found.fraction_of_compute = work.flops / seconds / peak
    if copied := limits.bytes_per_second:
        found.fraction_of_memory = work.bytes / seconds / copied
    if found.fraction_of_compute is not None and found.fraction_of_memory is not None:
        found.bound = "compute" if found.fraction_of_compute >= found.fraction_of_memory else "memory"
    return found


def measure_limits(
    engine: Engine, threads: int | None = None, int8: bool = False, seconds: float = SECONDS
) -> MachineLimits:
    """Return what the machine does at most with so many threads (None: all cores).

    Products of square float32 matrices and, with int8, of such whose weights are int8 and whose activations are quantized as
    they come, run by the engine as it would run a bundle's; the copy is of host memory, a part to each thread. seconds: how
    long it may take in all, about. Where onnx is not installed, numpy's product stands for float32.
    """
    kinds = ["float32", *(["int8"] if int8 else [])]
    budget = seconds / (len(kinds) + 1)
    count = threads or usable_cores()
    peaks, methods = {}, []
    for kind in kinds:
        try:
            peaks[kind] = product_peak(engine, threads, kind, budget)
            methods.append(f"{kind}: matrix products by the {engine.name} engine")
        except (MissingExtraError, EngineError) as error:
            if kind == "float32":
                peaks[kind] = numpy_peak(budget)
                methods.append("float32: matrix products by numpy, with all its threads")
            else:
                methods.append(f"{kind}: not measured ({error})")
    copied = None
    if engine.device == "cpu":
        size = min(_COPY, (free_host_memory() or _COPY * _COPY_SHARE) // _COPY_SHARE)
        copied = _copy_peak(count, size, budget)
        methods.append(f"memory: numpy copies of {format_bytes(size)} in {count} threads")
    return MachineLimits(flops_per_second=peaks, bytes_per_second=copied, threads=count, method="; ".join(methods))


def _copy_peak(threads: int, size: int, budget: float) -> float:
    """Return bytes a second, read and written ones both counted, of copying memory that no cache holds."""
    source = np.ones(size, np.uint8)
    target = np.zeros_like(source)
    edges = [size * index // threads for index in range(threads + 1)]
    parts = [slice(low, high) for low, high in pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

        copy()  # gives the target its memory, which takes longer than copying
        return 2 * size / fastest_of(copy, budget)
