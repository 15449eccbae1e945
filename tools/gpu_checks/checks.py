"""The checks, each a function from what is tried to what was found; `wrong` and `slow` say what a reader should look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import EdgereelError, brief
from edgereel.core.machine import gpu_memory_of_process
from edgereel.core.paths import demo_bundle_path
from edgereel.engines import ENGINES, Compute, Engine, EngineOptions, Session, Tensor
from edgereel.engines.costs import graph_costs
from edgereel.quality.metrics import psnr
from edgereel.runtime.memory.sizes import GPU_ACTIVATION_MARGIN
from edgereel.runtime.reel import Reel, load

from .graphs import WAN, Quantized, write_block, write_convolutions

PROMPT = "a red ball bounces over the ocean"
TOKENS_480P, TOKENS_SMALL = 32_760, 1_170
_BOTH: tuple[Compute, ...] = ("float32", "float16")
_NEAR: Mapping[Compute, float] = {"float32": 50.0, "float16": 30.0, "bfloat16": 22.0}
"""Decibels of the demo's clip to the `cpu` engine's below which the arithmetic is wrong, not rounded."""
_ROUNDED: Mapping[Compute, float] = {"float32": 2e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Relative error of a block below which it is rounding."""


@dataclass
class Found:
    """facts: figures. wrong, slow: in a sentence each, what is not as it should be."""

    facts: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """What checks run on. engine: by name. folder: for graphs. mark: told what comes next. runs: that are timed."""

    engine: str
    folder: Path
    mark: Callable[[str], object]
    runs: int = 3
    tokens: int = TOKENS_480P

    def made(self) -> Engine:
        """Return a new engine."""
        return ENGINES[self.engine]()


def check_demo(bench: Bench, compute: Compute) -> Found:
    """A clip of the built-in model beside the `cpu` engine's, of the same seed: is it right at all."""
    frames = {}
    for name in ("cpu", bench.engine):
        options = EngineOptions(compute=None if name == "cpu" else compute)
        bench.mark(f"demo {compute} on {name}")
        with Reel(open_bundle(demo_bundle_path()), ENGINES[name](), options) as reel:
            frames[name] = np.stack(list(reel.generate(PROMPT, seed=7)))
            reports = {graph: report.precision for graph, report in reel.report().items()}
    decibels = float(psnr(frames["cpu"], frames[bench.engine]))
    found = Found({"psnr_db": round(decibels, 1), "precision": reports})
    if not decibels >= _NEAR[compute]:
        found.wrong.append(
            f"the demo's clip is {decibels:.1f} dB from the cpu engine's, {_NEAR[compute]:g} are expected"
        )
    return found


def check_block(bench: Bench, compute: Compute) -> Found:
    """A block of Wan 1.3B's width, few tokens, beside the `cpu` engine: rounding, and the same bits twice."""
    path = write_block(bench.folder)
    given = {"x": _noise((1, TOKENS_SMALL, WAN.width))}
    expected = _once("cpu", path, given, "float32")
    bench.mark(f"block {compute}")
    with bench.made().open(path, _options(given, compute)) as session:
        first, second = (_run(session, given) for _ in range(2))
        precision = session.report.precision
    error = _relative(first, expected)
    found = Found({"relative_error": error, "repeats": bool((first == second).all()), "precision": precision})
    if not error <= _ROUNDED[compute]:
        found.wrong.append(f"a block in {compute} is {error:.1e} from float32, {_ROUNDED[compute]:g} are rounding")
    if not found.facts["repeats"]:
        found.wrong.append("the same inputs give other bits the second time")
    return found


def check_long_attention(bench: Bench) -> Found:
    """A block at 480p's number of tokens, float16 beside float32 on the same card: what attention loses by its sums."""
    path = write_block(bench.folder)
    given = {"x": _noise((1, bench.tokens, WAN.width))}
    made = {}
    for compute in _BOTH:
        bench.mark(f"long attention {compute}")
        made[compute] = _once(bench.engine, path, given, compute)
    error = _relative(made["float16"], made["float32"])
    found = Found({"tokens": bench.tokens, "relative_error": error})
    if not error <= _ROUNDED["float16"]:
        found.wrong.append(
            f"at {bench.tokens:,} tokens float16 is {error:.1e} from float32: attention sums too coarsely"
        )
    return found


def check_memory(bench: Bench) -> Found:
    """What a block at 480p's number of tokens holds on the card, beside what is planned for it."""
    path = write_block(bench.folder)
    given = {"x": _noise((1, bench.tokens, WAN.width))}
    engine, options = bench.made(), _options(given, "float16")
    shapes = {name: array.shape for name, array in given.items()}
    costs = graph_costs(engine.graph_to_run(path, options), shapes, "float16", keep=False)
    planned = costs.weight_bytes + int(costs.activation_bytes * GPU_ACTIVATION_MARGIN * engine.blocks_lost)
    before = gpu_memory_of_process()
    bench.mark("memory")
    with engine.open(path, options) as session:
        for _ in range(3):
            _run(session, given)
        after = gpu_memory_of_process()
    held = None if before is None or after is None else after - before
    found = Found({"planned": planned, "held": held})
    if held is not None and held > 1.1 * planned:
        found.wrong.append(f"{held:,} bytes are held where {planned:,} are planned: a plan that fits will not")
    return found


def check_speed(bench: Bench, quantized: Quantized = "") -> Found:
    """A block at 480p's number of tokens: milliseconds, and the share of the card's products that is reached."""
    path = write_block(bench.folder, quantized=quantized)
    given = {"x": _noise((1, bench.tokens, WAN.width))}
    bench.mark(f"speed {quantized or 'float16'}")
    engine, options = bench.made(), _options(given, "float16")
    shapes = {name: array.shape for name, array in given.items()}
    flops = graph_costs(engine.graph_to_run(path, options), shapes, "float16", keep=False).flops
    with engine.open(path, options) as session:
        seconds = _times(session, given, bench.runs)
    best = min(seconds[1:])
    found = Found({"ms": _milliseconds(seconds), "tflops": round(flops / best / 1e12, 1)})
    if max(seconds[1:]) > 2 * best:
        found.slow.append(
            f"a run after the first takes {max(seconds[1:]) / best:.1f} times the quickest: is it recorded?"
        )
    return found


def check_convolutions(bench: Bench) -> Found:
    """Convolutions as wide as a decoder's, float16 beside float32: tensor cores make the first several times as fast."""
    path = write_convolutions(bench.folder)
    given = {"x": _noise((1, 192, 4, 120, 208))}
    quickest = {}
    for compute in _BOTH:
        bench.mark(f"convolutions {compute}")
        with bench.made().open(path, _options(given, compute)) as session:
            quickest[compute] = min(_times(session, given, bench.runs)[1:])
    ratio = quickest["float32"] / quickest["float16"]
    found = Found({"ms": {name: round(1e3 * each, 2) for name, each in quickest.items()}, "ratio": round(ratio, 2)})
    if ratio < 2:
        found.slow.append(f"float16 convolutions are {ratio:.1f} times as fast as float32: no tensor cores?")
    return found


def check_clip(bench: Bench) -> Found:
    """A clip of the built-in model, cold and warm, by stage."""
    bench.mark("clip")
    with load(demo_bundle_path(), engine=bench.engine) as reel:
        stages = []
        for seed in range(1 + bench.runs):
            before, started = dict(reel.timings), time.perf_counter()
            list(reel.generate(PROMPT, seed=seed))
            spent = {name: round(1e3 * (each - before.get(name, 0.0)), 1) for name, each in reel.timings.items()}
            stages.append({"clip": round(1e3 * (time.perf_counter() - started), 1), **spent})
    return Found({"cold_ms": stages[0], "warm_ms": stages[-1]})


def tried(check: Callable[[], Found]) -> Found:
    """Return what a check found; an error of ours, or of a library below, is found too."""
    started = time.perf_counter()
    try:
        found = check()
    except EdgereelError as error:
        found = Found({"error": str(error)}, [brief(error)])
    except Exception as error:
        found = Found({"error": f"{type(error).__name__}: {brief(error)}"}, [f"{type(error).__name__}: {brief(error)}"])
    found.facts["seconds"] = round(time.perf_counter() - started, 1)
    return found


def _options(given: Mapping[str, NDArray[Any]], compute: Compute) -> EngineOptions:
    shapes = tuple(sorted((name, tuple(array.shape)) for name, array in given.items()))
    return EngineOptions(compute=compute, shapes=shapes, keep=False)


def _once(engine: str, path: Path, given: Mapping[str, NDArray[Any]], compute: Compute) -> NDArray[Any]:
    with ENGINES[engine]().open(path, _options(given, compute)) as session:
        return _run(session, given)


def _run(session: Session, given: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    made = session.run({name: Tensor.from_numpy(array) for name, array in given.items()})
    return np.array(made["y"].numpy(), np.float64)


def _times(session: Session, given: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
    """Return the seconds of each run, the first one, which is for warming up, included; outputs are waited for."""
    seconds = []
    tensors = {name: Tensor.from_numpy(array) for name, array in given.items()}
    for _ in range(1 + max(runs, 2)):
        started = time.perf_counter()
        session.run(tensors)["y"].numpy()
        seconds.append(time.perf_counter() - started)
    return seconds


def _noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def _relative(made: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the root mean square of the difference over that of what is expected; infinite where a value is no number."""
    if not np.isfinite(made).all():
        return float("inf")
    size = float(np.square(expected).mean())
    return float(f"{np.sqrt(np.square(made - expected).mean() / size):.3g}") if size else float("inf")


def _milliseconds(seconds: list[float]) -> list[float]:
    return [round(1e3 * each, 2) for each in seconds]
