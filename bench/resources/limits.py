"""How near a clip's stages come to what the machine can do: arithmetic and traffic counted, the machine's peaks measured.

Samuel Williams et al., Roofline, 2009. FLOPs are those of matrix products, convolutions and attention; bytes are what each node
reads and writes, so that a model whose values stay in the processor's caches can pass the limit of memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from ...bundle.geometry import latent_shape, token_count
from ...bundle.manifest import Quantization
from ...bundle.reader import Bundle
from ...core.errors import EngineError, MissingExtraError
from ...core.interrupts import interrupts_wait, temporary_folder
from ...core.machine import free_host_memory, usable_cores
from ...core.units import format_bytes
from ...engines import Engine, EngineOptions, Session, Tensor
from ...engines.costs import GraphCosts, graph_costs
from ...runtime.denoise import pick_expert
from ...runtime.memory.shapes import input_shapes
from ...runtime.memory.sizes import Uses, decoder_graphs
from ...runtime.request import Request
from ...runtime.sampling.recipes import schedule_of
from ..records.record import MachineLimits, StageResources

SECONDS = 4.0
"""How long finding all peaks may take, about."""
_LEAST, _LARGEST = 512, 8192
_ENOUGH = 0.05  # seconds that a product should take, so that starting it does not count
_COPY = 2**28  # bytes that no processor's cache holds
_COPY_SHARE = 8  # of the free memory, two such blocks take two parts of so many at most
_CHAIN = 4  # products in a row, so that carrying the first input to a device and the last output back counts little


@dataclass(frozen=True)
class Work:
    """What one clip's stage is: FLOPs, bytes that nodes read and write, the precision of its products as a key of limits."""

    flops: int
    bytes: int
    precision: str


def count_work(bundle: Bundle, request: Request) -> dict[str, Work]:
    """Return the work of a clip's stages `text`, `denoise` and `decode`, counted from the graphs at the clip's shapes.

    Raises EngineError where a graph cannot be told about, MissingExtraError where onnx is needed and not installed.
    """
    manifest = bundle.manifest
    latents = latent_shape(manifest.latent, request.width, request.height, request.frames)
    roles, graphs = manifest.roles, manifest.roles.graphs()

    def costs(name: str) -> GraphCosts:
        return graph_costs(bundle.path(graphs[name].file), input_shapes(manifest, name, latents))

    runs = dict.fromkeys(graphs, 0)
    runs["text_encoder"] = 1 + (max(request.guidances) > 1)
    decoder = decoder_graphs(manifest, Uses(request.decoder))
    runs.update(zip(decoder, (1, latents[2] - 1), strict=False))
    recipe = manifest.recipe(request.recipe)
    assert recipe is not None
    chunks = 1
    if manifest.stream is not None:
        chunks += max(0, -(-(latents[2] - manifest.stream.first) // manifest.stream.chunk))
        both = manifest.stream.negative_context == "own" and max(request.guidances) > 1
        runs["denoiser"] += (chunks - 1) * (1 + both) * (manifest.stream.window > 0)  # each but the last is remembered
    tokens = token_count(manifest.latent, latents)
    for timestep in schedule_of(recipe, request.sampler, request.steps, tokens).timesteps:
        expert = pick_expert(roles.denoiser, float(timestep), recipe.train_timesteps, recipe.boundary)
        runs[roles.denoiser_names()[expert]] += chunks * (1 + (request.guidances[expert] > 1))
    stages = {"text": ["text_encoder"], "denoise": roles.denoiser_names(), "decode": decoder}
    work = {}
    for stage, names in stages.items():
        each = [(runs[name], costs(name)) for name in names if runs[name]]
        work[stage] = Work(
            sum(count * cost.flops for count, cost in each),
            sum(count * cost.bytes_moved for count, cost in each),
            precision_of(graphs[names[0]].quantization),
        )
    return work


def precision_of(quantization: Quantization | None) -> str:
    """Return the type that most of a graph's linears calculate in, as a key of limits."""
    if quantization is None or quantization.activations == "float" or not quantization.linears:
        return "float32"
    return max(quantization.linears, key=lambda kind: quantization.linears[kind])


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
            peaks[kind] = _product_peak(engine, threads, kind, budget)
            methods.append(f"{kind}: matrix products by the {engine.name} engine")
        except (MissingExtraError, EngineError) as error:
            if kind == "float32":
                peaks[kind] = _numpy_peak(budget)
                methods.append("float32: matrix products by numpy, with all its threads")
            else:
                methods.append(f"{kind}: not measured ({error})")
    copied = None
    if engine.device == "cpu":
        size = min(_COPY, (free_host_memory() or _COPY * _COPY_SHARE) // _COPY_SHARE)
        copied = _copy_peak(count, size, budget)
        methods.append(f"memory: numpy copies of {format_bytes(size)} in {count} threads")
    return MachineLimits(flops_per_second=peaks, bytes_per_second=copied, threads=count, method="; ".join(methods))


def _product_peak(engine: Engine, threads: int | None, kind: str, budget: float) -> float:
    """Return FLOPs a second of products large enough, the fastest of those that the time allows."""
    started, side = time.perf_counter(), _LEAST
    options = EngineOptions(threads=threads, activations="dynamic" if kind == "int8" else "float", keep=False)
    while True:
        x = Tensor.from_numpy(np.random.default_rng(0).standard_normal((side, side), dtype=np.float32))
        with temporary_folder("edgereel-bench-") as folder:
            path = folder / "product.onnx"
            path.write_bytes(_product_graph(side, kind))
            with engine.open(path, options) as session:
                run = partial(_run_product, session, x)
                run()
                fastest = _fastest(run, 0.0)
                if fastest >= _ENOUGH or side >= _LARGEST:
                    left = budget - (time.perf_counter() - started)
                    return 2 * _CHAIN * side**3 / min(fastest, _fastest(run, left))
        side *= 2


def _run_product(session: Session, x: Tensor) -> object:
    return session.run({"x": x})["y"].numpy()


def _fastest(run: Callable[[], object], budget: float) -> float:
    """Return the seconds of the fastest of the runs that so many seconds allow, at least of one."""
    started, fastest = time.perf_counter(), math.inf
    while True:
        begun = time.perf_counter()
        run()
        ended = time.perf_counter()
        fastest = min(fastest, ended - begun)
        if ended - started >= budget:
            return fastest


def _product_graph(side: int, kind: str) -> bytes:
    """Return a graph `y = x W W …` in float32, or with W as int8 with a scale for each column; raise MissingExtraError."""
    try:
        with interrupts_wait():
            from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "cpu", "measuring the machine's limits") from error
    generator = np.random.default_rng(1)
    names = ["x", *(f"x{index}" for index in range(1, _CHAIN)), "y"]
    weights, nodes = [], []
    if kind == "int8":
        values = generator.integers(-127, 128, (side, side), dtype=np.int8)
        scale = np.full(side, 1 / (73 * math.sqrt(side)), np.float32)  # 73: the spread of the values
        weights.append(numpy_helper.from_array(scale, "scale"))
        for made in names[1:]:  # weights of their own: ONNX Runtime may rewrite those of each product by their name
            weights.append(numpy_helper.from_array(values, f"quantized.{made}"))
            given = [f"quantized.{made}", "scale"]
            nodes.append(helper.make_node("DequantizeLinear", given, [f"weight.{made}"], axis=1))
    else:
        spread = generator.standard_normal((side, side), dtype=np.float32) * np.float32(1 / math.sqrt(side))
        weights += [numpy_helper.from_array(spread, f"weight.{made}") for made in names[1:]]
    nodes += [
        helper.make_node("MatMul", [given, f"weight.{made}"], [made], name=f"product.{made}")
        for given, made in pairwise(names)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in ("x", "y"))
    model = helper.make_model(
        helper.make_graph(nodes, "product", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    content: bytes = model.SerializeToString()
    return content


def _numpy_peak(budget: float) -> float:
    side = 1024
    x = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    return 2 * side**3 / _fastest(lambda: x @ x, budget)


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
        return 2 * size / _fastest(copy, budget)
