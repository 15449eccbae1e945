"""From statistics to how activations are quantized: ranges for static scales, and factors that take outliers off them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engines.lowering.target.half_rules import stays_float32
from ..engines.options import Compute
from .forms import LARGEST, Floats, WeightKind, dynamic_scales, quantize_weight, round_activations
from .graph_file import GraphFile
from .recording import readers_by_tensor
from .rewriting import GraphPlan
from .statistics import Slot, TensorStatistics, bin_magnitudes

ActivationMode = Literal["float", "dynamic", "static"]

SHRINKS = tuple(np.linspace(1.0, 0.2, 33))
"""Fractions of the largest magnitude that are tried as a static range."""
MIGRATIONS = (0.35, 0.5, 0.65, 0.8)
"""How much of an outlier goes from activations into weights: SmoothQuant's alpha."""
WORTH_IT = 0.5
"""Balancing costs a multiplication at run time; its squared error must be at most this fraction of that without."""
HOPELESS = 0.05
"""Squared error, relative to a token's output, above which one static scale does not serve a tensor: its readers are kept."""
DELICATE_IN: Compute = "bfloat16"
"""What a linear must not suffer to be quantized with a static scale: no more than it would in this type."""
_LARGEST_FACTOR = 1e4


def plan_graph(
    graph: GraphFile,
    weights: Mapping[str, WeightKind],
    activations: ActivationMode,
    seen: Mapping[str, Mapping[Slot, TensorStatistics]] | None,
) -> GraphPlan:
    """Return the plan of a graph whose linears get these kinds of weight, but for those that static scales do not suit.

    A timestep's embedding is one of them: it has one token, all layers depend on it, and engines keep it in float32.

    seen: what was recorded of it, by tensor and slot; static ranges need it, and without it nothing is balanced.
    """
    ranges: dict[str, float] = {}
    factors: dict[str, Floats] = {}
    if seen is None or activations == "float":
        return GraphPlan(dict(weights))
    possible = dict(weights)
    if activations == "static":
        possible = {name: kind for name, kind in weights.items() if not stays_float32(name, DELICATE_IN)}
    for tensor, readers in readers_by_tensor(graph).items():
        quantized = [name for name in readers if name in possible]
        if not quantized:
            continue
        kind = weights[quantized[0]]
        merged = merge(seen[tensor].values())
        matrices = [graph.weight(graph.linears[name]) for name in quantized]
        chosen = balance(merged, matrices, kind, activations) if kind == "int8" else None
        if activations == "static":
            if output_error(merged, matrices, kind, activations, chosen) > HOPELESS:
                for name in quantized:
                    del possible[name]
                continue
            ranges[tensor] = static_range(merged, kind, chosen)
        if chosen is not None:
            factors[tensor] = chosen
    return GraphPlan(possible, ranges, factors)


def merge(parts: Iterable[TensorStatistics]) -> TensorStatistics:
    """Return the statistics of one tensor over several slots."""
    several = list(parts)
    return TensorStatistics(
        np.min([part.minimum for part in several], axis=0),
        np.max([part.maximum for part in several], axis=0),
        np.sum([part.squares for part in several], axis=0),
        sum(part.tokens for part in several),
        np.sum([part.histogram for part in several], axis=0),
        np.concatenate([part.rows for part in several]),
        sum(part.offered for part in several),
    )


def channel_magnitudes(seen: TensorStatistics) -> Floats:
    """Return the largest magnitude of each channel, float32 [K]."""
    magnitudes: Floats = np.maximum(np.abs(seen.minimum), np.abs(seen.maximum))
    return magnitudes


def static_range(seen: TensorStatistics, kind: WeightKind, factors: Floats | None = None) -> float:
    """Return the largest magnitude that a static scale should cover, after division by the factors.

    For int8 the one with the smallest mean squared error: a few values are clipped where that resolves all others better.
    float8 resolves small values as well as large ones, and balancing has brought all channels to one magnitude: clipping
    gains nothing there.
    """
    divided = channel_magnitudes(seen) if factors is None else channel_magnitudes(seen) / factors
    largest = float(divided.max()) or 1.0
    if kind == "fp8" or factors is not None:
        return largest
    return _least_error(bin_magnitudes(), seen.histogram.astype(np.float64), largest)


def _least_error(magnitudes: NDArray[np.float64], counts: NDArray[np.float64], largest: float) -> float:
    """Return the range whose rounding, (step)^2 / 12, and clipping errors are together the smallest."""

    def error(limit: float) -> float:
        rounding = (limit / LARGEST["int8"]) ** 2 / 12 * counts.sum()
        clipping = (counts * np.square(np.maximum(magnitudes - limit, 0))).sum()
        return float(rounding + clipping)

    return min((largest * float(shrink) for shrink in SHRINKS), key=error)


def balance(
    seen: TensorStatistics, weights: Sequence[Floats], kind: WeightKind, activations: ActivationMode
) -> Floats | None:
    """Return the factors, float32 [K], that a tensor is best divided by and its weights multiplied; None for none.

    SmoothQuant, Xiao et al. 2022 (arXiv 2211.10438, equation 4): max|x|^alpha / max|w|^(1 - alpha) by channel. Tried on
    the tokens that were kept: what counts is the error of the linears' outputs, and it must pay. weights: float32 [K, N]
    of each linear that reads the tensor.
    """
    if len(seen.rows) == 0:
        return None
    reads = channel_magnitudes(seen)
    writes = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    best, least = None, WORTH_IT * output_error(seen, weights, kind, activations, None)
    for alpha in MIGRATIONS:
        factors = _factors(reads, writes, alpha)
        error = output_error(seen, weights, kind, activations, factors)
        if error < least:
            best, least = factors, error
    return best


def _factors(reads: Floats, writes: Floats, alpha: float) -> Floats:
    usable = (reads > 0) & (writes > 0)
    logs = np.zeros(len(reads))
    logs[usable] = alpha * np.log(reads[usable]) - (1 - alpha) * np.log(writes[usable])
    if usable.any():
        logs[usable] -= logs[usable].mean()
    factors: Floats = np.exp(np.clip(logs, -np.log(_LARGEST_FACTOR), np.log(_LARGEST_FACTOR))).astype(np.float32)
    return factors


def output_error(
    seen: TensorStatistics,
    weights: Sequence[Floats],
    kind: WeightKind,
    activations: ActivationMode,
    factors: Floats | None,
) -> float:
    """Return the squared error of linears on the tokens that were kept, relative to each token's output, the mean of all.

    Relative to each token, since models see small tokens too: the padding of a prompt, say, which attention does not mask.
    """
    rows = seen.rows if factors is None else seen.rows / factors
    if activations == "static":
        scale = np.float32(static_range(seen, kind, factors) / LARGEST[kind])
        rounded = round_activations(rows, scale, kind)
    else:
        rounded = round_activations(rows, dynamic_scales(rows), kind)
    errors = []
    for weight in weights:
        expected = seen.rows @ weight
        scaled = weight if factors is None else weight * factors[:, None]
        lost = np.square(rounded @ quantize_weight(scaled, kind).dequantized() - expected).sum(axis=1)
        errors.append(lost / np.maximum(np.square(expected).sum(axis=1), np.float32(1e-30)))
    return float(np.mean(errors))
