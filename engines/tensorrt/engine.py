"""NVIDIA's TensorRT: an engine built for this card, out of a graph lowered for this TensorRT, kept for the next time.

Written from documentation and from the names in NVIDIA's own bindings. The tests run it against a stand-in that computes
on the CPU (tests/helpers/fake_tensorrt.py); it has not run on hardware.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core import machine
from ...core.errors import EngineError, UsageError, brief
from ..base import Engine, EngineReport, Session
from ..cache import store
from ..cache.engines import CachedEngine, EngineCache, EngineKey
from ..compiled.facts import CompiledGraph
from ..costs import graph_costs
from ..graphs.read import read_graph
from ..lowering.lower import LoweredGraph, lower_for_target, not_lowered, open_lowered, with_plain_weights
from ..lowering.targets import FLOAT8_WEIGHTS, Target, parse_target
from ..nvidia import capability_of
from ..options import Compute, EngineOptions
from ..quantized import refuse_float8
from .building import (
    BuildSettings,
    RefitError,
    check_built,
    explain,
    make_log,
    make_plan,
    open_engine,
    precision_of,
    refit_engine,
)
from .device_memory import BufferPool, CudaDevice, import_cudart
from .inspecting import compiled_of
from .installed import find_card, import_tensorrt, require_card, why_unavailable
from .profiles import RANGES, Range
from .session import TensorRtSession
from .versions import NEWEST_KNOWN, Features, Version, features_of, parse_version

_DEFAULT_COMPUTE: Compute = "float16"
_WHOLE_ATTENTION: Version = (10, 14)
"""The first version that is given attention whole; for those before it is written out as products around a softmax."""
_UNFUSED, _LEAST_UNFUSED = 3, 2**28
"""Of what is counted for activations, and in bytes: an engine that takes more holds all scores of attention."""
_SAMPLES = 64
_SAMPLE_SIZE = 2**16


@dataclass(frozen=True)
class _Installation:
    """The TensorRT and the card that are used."""

    trt: Any
    version: str
    features: Features
    card: machine.Gpu

    @property
    def numbers(self) -> Version:
        """Major and minor, of the newest version known where this one is newer."""
        return min(parse_version(self.version), NEWEST_KNOWN)


class TensorRt(Engine):
    """Opens graphs with TensorRT 8.6, 10 or 11. All sessions of one such object share their device memory."""

    name = "tensorrt"
    device = "gpu"
    compute = _DEFAULT_COMPUTE
    fixed_shapes = True
    streams_from_host = True

    def __init__(self, ranges: Mapping[str, Range] = RANGES, workspace: int | None = None) -> None:
        """ranges: of the dimensions that vary, where the caller gives no shapes. workspace: see BuildSettings."""
        self._ranges = ranges
        self._workspace = workspace
        self._pool: BufferPool | None = None
        self._cache: EngineCache | None = None
        self._refits = True

    def unavailable(self) -> str | None:
        """See Engine.unavailable. tensorrt is imported for that, which touches no device."""
        return why_unavailable()

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        """Return the graph as ONNX Runtime would run it on CUDA: TensorRT fuses attention too, out of what it is given."""
        if not options.lower:
            not_lowered(graph_path, options.part)
            return graph_path
        target = parse_target("cuda")
        model = lower_for_target(
            graph_path, target, _compute(options), keep=options.keep, part=options.part, pictures=options.pictures
        ).model
        return graph_path if model is None else model

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Return what decides about the numbers; which kernels are built for given shapes does, too. See Engine.numerics."""
        installed = _installation()
        return {
            "engine": self.name,
            "version": installed.version,
            "card": installed.card.name,
            "driver": installed.card.driver,
            "compute": _compute(options),
            "lower": str(options.lower),
            "shapes": repr(options.shapes or sorted(self._ranges.items())),
            "streamed": str(options.weight_budget is not None),
        }

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph, which takes minutes the first time; see Engine.open."""
        installed = _installation()
        settings = self._settings(installed, options)
        return open_lowered(
            graph_path,
            lambda anew: _lower(graph_path, installed, settings.compute, options, anew),
            lambda lowered: self._open(graph_path, options, installed, settings, lowered),
        )

    def explain(self, graph_path: Path, options: EngineOptions, card: tuple[int, int] | None) -> CompiledGraph:
        """Return what the inspector tells of a built engine; see Engine.explain."""
        if card is not None:
            raise EngineError("TensorRT builds for the card that is there alone: leave the compute capability out")
        installed = _installation()
        settings = self._settings(installed, options)
        lowered = _lower(graph_path, installed, settings.compute, options, False)
        engine, _ = self._built(graph_path, options, installed, settings, lowered, make_log(installed.trt))
        information = engine.create_engine_inspector().get_engine_information(installed.trt.LayerInformationFormat.JSON)
        source = f"TensorRT {installed.version}"
        try:
            return compiled_of(information, source, f"sm{installed.card.compute_capability.replace('.', '')}")
        except ValueError as error:
            raise EngineError(f"{source} tells nothing of the engine of {graph_path.name}: {error}") from error

    def _open(
        self,
        graph_path: Path,
        options: EngineOptions,
        installed: _Installation,
        settings: BuildSettings,
        lowered: LoweredGraph,
    ) -> Session:
        pool = self._device_pool()
        log = make_log(installed.trt)
        engine, cached = self._built(graph_path, options, installed, settings, lowered, log)
        if self._holds_scores(engine, graph_path, options, installed, settings.compute):
            store.log.warning(
                "%s is built again, with softmax in half precision: attention was not fused", graph_path.name
            )
            engine = None
            lowered = _lower(graph_path, installed, settings.compute, options, False, half_softmax=True)
            engine, cached = self._built(graph_path, options, installed, settings, lowered, log)
        streamed = _limit_weights(engine, log, options.weight_budget, graph_path.name)
        known = parse_version(installed.version) <= NEWEST_KNOWN
        report = EngineReport(
            engine=self.name,
            provider=f"TensorrtEngine {'.'.join(map(str, parse_version(installed.version)))}",
            precision=precision_of(installed.trt, engine),
            version=f"tensorrt {installed.version}{'' if known else ' (newer than any this was written for)'}",
            threads=1,
            nodes={"TensorrtEngine": engine.num_layers},
            lowered=lowered.source,
            rewrites=lowered.rewrites,
            streamed=streamed,
            build=cached.source,
            build_seconds=cached.build_seconds,
        )
        # Streamed weights are copied by the host between kernels, which a CUDA graph would not repeat.
        capture = options.shapes is not None and streamed == 1
        shared = installed.features.shared_memory
        return TensorRtSession(installed.trt, log, engine, pool, graph_path.name, report, capture, shared)

    def _holds_scores(
        self, engine: Any, graph_path: Path, options: EngineOptions, installed: _Installation, compute: Compute
    ) -> bool:
        """Return whether an engine takes so much memory that attention, written out for it, cannot be fused in it."""
        if options.shapes is None or not options.lower or compute == "float32" or installed.numbers >= _WHOLE_ATTENTION:
            return False
        size = engine.device_memory_size_v2 if installed.features.shared_memory else engine.device_memory_size
        counted = graph_costs(self.graph_to_run(graph_path, options), dict(options.shapes), compute, keep=options.keep)
        return int(size) > max(_UNFUSED * counted.activation_bytes, _LEAST_UNFUSED)

    def _built(
        self,
        graph_path: Path,
        options: EngineOptions,
        installed: _Installation,
        settings: BuildSettings,
        lowered: LoweredGraph,
        log: Any,
    ) -> tuple[Any, CachedEngine]:
        """Return the opened engine of a graph, built if need be, and where it came from.

        Where TensorRT can, plans are kept without the weights: megabytes for each size of clips, filled from the bundle.
        """
        model = lowered.model if lowered.model is not None else read_graph(graph_path)
        float8 = bool(lowered.rewrites.get(FLOAT8_WEIGHTS))
        refuse_float8(self.name, graph_path.name, float8, capability_of(installed.card))
        # Streamed weights stay in the plan, which is mapped into memory.
        strips = installed.features.stripped_plans and not settings.stream_weights
        if strips and self._refits and not self._engine_cache().has(_key(graph_path, model, installed, settings)):
            try:
                stripped = replace(settings, strip=True)
                return self._built_as(graph_path, options, installed, stripped, model, log)
            except RefitError as error:
                self._refits = False
                store.log.warning("engines are kept with their weights, which this TensorRT cannot put in: %s", error)
        return self._built_as(graph_path, options, installed, settings, model, log)

    def _built_as(
        self,
        graph_path: Path,
        options: EngineOptions,
        installed: _Installation,
        settings: BuildSettings,
        model: bytes,
        log: Any,
    ) -> tuple[Any, CachedEngine]:
        """Return the engine that these settings say. Raises RefitError where it is one without weights that takes none."""
        key = _key(graph_path, model, installed, settings)
        timings = store.timings_key({"tensorrt": installed.version, "card": key.card, "driver": key.driver})
        plan: Any = None
        wanted: Counter[str] | None = None

        def use(found: CachedEngine) -> Any:
            engine = open_engine(installed.trt, log, found.data, graph_path.name)
            if settings.strip:
                refit_engine(installed.trt, log, engine, model, graph_path)
            if wanted is not None:
                check_built(installed.trt, engine, wanted, settings)
            return engine

        def build(path: Path) -> None:
            nonlocal plan, wanted
            if plan is None:  # asked for again where the first disk was full
                readable, beside = model, graph_path
                if _target(installed).plain_weights:
                    readable, beside = with_plain_weights(model, graph_path, path.parent)
                plan, measured, wanted = make_plan(
                    installed.trt, log, installed.features, readable, beside, settings, store.read_timings(timings)
                )
                if options.keep:
                    store.write_timings(timings, measured)
            # The bindings' object has the bytes and is no copy of them: plans are as large as the weights.
            with path.open("wb") as file:
                file.write(memoryview(plan))

        cached, engine = self._engine_cache().get_or_build_usable(key, build, use, store.log.warning)
        return engine, cached

    def _settings(self, installed: _Installation, options: EngineOptions) -> BuildSettings:
        compute = _compute(options)
        if compute not in installed.features.build_flags:
            raise EngineError(
                f"TensorRT {installed.version} cannot calculate in {compute}: choose from "
                f"{', '.join(installed.features.build_flags)}"
            )
        if options.weight_budget is not None and not installed.features.weight_streaming:
            raise EngineError(
                f"TensorRT {installed.version} cannot leave weights in host memory, 10.1 and newer can: "
                "run without a budget for weights"
            )
        return BuildSettings(compute, options.shapes, self._ranges, options.weight_budget is not None, self._workspace)

    def _engine_cache(self) -> EngineCache:
        if self._cache is None:
            self._cache = EngineCache(keep_used=True)
        return self._cache

    def _device_pool(self) -> BufferPool:
        if self._pool is None:
            self._pool = BufferPool(CudaDevice(import_cudart()))
        return self._pool


def _installation() -> _Installation:
    trt = import_tensorrt()
    features = features_of(parse_version(trt.__version__))
    card = find_card()
    require_card(features, card, trt.__version__)
    return _Installation(trt, trt.__version__, features, card)


def _compute(options: EngineOptions) -> Compute:
    """Return what products calculate in; the canonical graph of a bundle is in float32, and types are not changed in it."""
    if not options.lower:
        if options.compute not in (None, "float32"):
            raise EngineError(f"the canonical graph calculates in float32, {options.compute} needs a lowered one")
        return "float32"
    return options.compute or _DEFAULT_COMPUTE


def _target(installed: _Installation) -> Target:
    """Return what graphs are lowered for: cards before compute capability 8.0 have no bfloat16."""
    target = parse_target("tensorrt-{}.{}".format(*installed.numbers))
    capability = capability_of(installed.card)
    return replace(
        target, bfloat16_attention=target.bfloat16_attention and capability is not None and capability >= (8, 0)
    )


def _lower(
    graph_path: Path,
    installed: _Installation,
    compute: Compute,
    options: EngineOptions,
    anew: bool,
    half_softmax: bool = False,
) -> LoweredGraph:
    if not options.lower:
        return not_lowered(graph_path, options.part)
    try:
        target = replace(_target(installed), half_softmax=half_softmax)
    except UsageError as error:
        raise EngineError(f"TensorRT {installed.version}: {error}") from error
    return lower_for_target(
        graph_path, target, compute, keep=options.keep, part=options.part, pictures=options.pictures, anew=anew
    )


def _key(graph_path: Path, model: bytes, installed: _Installation, settings: BuildSettings) -> EngineKey:
    return EngineKey(
        graph_sha256=hashlib.sha256(model).hexdigest(),
        data_sha256=data_identity(graph_path, model),
        backend="tensorrt",
        backend_version=installed.version,
        driver=installed.card.driver,
        card=installed.card.name,
        compute_capability=installed.card.compute_capability,
        precision=settings.compute,
        shapes=settings.shapes or (),
        options={
            "ranges": "" if settings.shapes else repr(sorted(settings.ranges.items())),
            "stream_weights": str(settings.stream_weights),
            "workspace": str(settings.workspace),
            "stripped": str(settings.strip),
            # Which of several cards CUDA takes for the first, where nvidia-smi may have another.
            "visible": " ".join(os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")),
        },
    )


def data_identity(graph_path: Path, model: bytes) -> str:
    """Return a sha256 that another weight file would not have: of names, sizes, times and samples of those the model names.

    Hashing all of it would take longer at each start than running a step. Files are changed under a new time, and the
    samples tell files apart that were packed or copied with their times. Raises EngineError where one cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(graph_path.resolve().parent.iterdir()):
            if path.suffix != ".onnx" and path.name.encode() in model and path.is_file():
                digest.update(f"{path.name}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\0".encode())
                digest.update(_samples(path))
    except OSError as error:
        raise EngineError(f"cannot read the weights of {graph_path.name}: {brief(error)}") from error
    return digest.hexdigest()


def _samples(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE_SIZE:
            return file.read()
        parts = []
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_SIZE) * sample // (_SAMPLES - 1))
            parts.append(file.read(_SAMPLE_SIZE))
        return b"".join(parts)


def _limit_weights(engine: Any, log: Any, budget: int | None, graph_name: str) -> int:
    """Hold no more than `budget` bytes of weights on the device; return how many times that all of them are, 1 for held.

    This must come before the first context. Raises EngineError where TensorRT takes no such budget.
    """
    if budget is None:
        return 1
    total = int(engine.streamable_weights_size)
    held = min(budget, total)
    engine.weight_streaming_budget_v2 = held
    if int(engine.weight_streaming_budget_v2) != held:
        raise explain(log, f"TensorRT refuses to hold {held:,} of {total:,} bytes of weights of {graph_name}")
    return max(1, -(-total // max(1, held)))
