"""`mixed`: every linear tried alone, then the fewest bytes kept that meet a budget on the finished frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..bundle.reader import Bundle
from ..core.errors import OutputError, brief
from ..core.interrupts import temporary_folder
from ..core.progress import Progress, report_progress
from ..engines.options import Activations
from .clips import ClipSettings
from .forms import BLOCK
from .graph_file import GraphFile, Linear
from .mixed import Effect, KeptLayers, Layer, choose_kept, sensitive_layers
from .rewriting import GraphPlan
from .trials import SquaredErrors, Trials, mean_decibels

Plans = Mapping[str, tuple[GraphFile, GraphPlan]]
_TEXT = "text_encoder"


@dataclass(frozen=True)
class Search:
    """What to search: plans of the denoisers with everything quantized, that of the text encoder, and how to measure.

    folder: where temporary files go. prompts: None for some held-out captions of the demo.
    """

    bundle: Bundle
    folder: Path
    plans: Plans
    text: tuple[GraphFile, GraphPlan] | None
    budget_db: float
    prompts: tuple[str, ...] | None
    seeds: Sequence[int]
    settings: ClipSettings
    activations: Activations
    threads: int | None


def search_kept(search: Search, on_progress: Progress | None) -> KeptLayers:
    """Return which linears to keep as they are. Raises QualityError where nothing smaller than fp16 meets the budget."""
    texts = {} if search.text is None else {_TEXT: search.text}
    graphs = [graph for graph, _ in (texts | dict(search.plans)).values()]
    try:
        with (
            temporary_folder(".edgereel-trials-", search.folder) as folder,
            Trials(
                search.bundle,
                graphs,
                folder,
                search.prompts,
                search.seeds,
                activations=search.activations,
                settings=search.settings,
                threads=search.threads,
            ) as trials,
        ):
            everything_quantized = mean_decibels(trials.errors({**texts, **search.plans}))
            if everything_quantized >= search.budget_db:
                return KeptLayers(frozenset(), everything_quantized, 1)
            effects = _effects(search, trials, on_progress)
            others = trials.errors(texts) if texts else (0.0,) * trials.clips
            start = [layer for name, (graph, _) in search.plans.items() for layer in _sensitive(name, graph)]

            def measure(kept: frozenset[Layer]) -> SquaredErrors:
                return trials.errors({**texts, **without(search.plans, kept)})

            return choose_kept(effects, others, start, search.budget_db, measure, _bytes_below_fp16(search, effects))
    except OSError as error:
        raise OutputError(f"{search.folder}: cannot be written: {brief(error)}") from error


def without(plans: Plans, kept: frozenset[Layer]) -> dict[str, tuple[GraphFile, GraphPlan]]:
    """Return the plans with the kept linears left as they are; graphs with nothing left to quantize are not among them."""
    remaining = {}
    for name, (graph, plan) in plans.items():
        weights = {layer: kind for layer, kind in plan.weights.items() if (name, layer) not in kept}
        if weights:
            remaining[name] = (graph, replace(plan, weights=weights))
    return remaining


def quantized_bytes(linear: Linear, kind: str) -> int:
    """Return the bytes that a linear's weight and scales take when quantized."""
    if kind == "int4":
        return linear.inputs * linear.outputs // 2 + 4 * -(-linear.inputs // BLOCK) * linear.outputs
    return linear.inputs * linear.outputs + 4 * linear.outputs


def _effects(search: Search, trials: Trials, on_progress: Progress | None) -> dict[Layer, Effect]:
    layers = [(name, layer) for name, (_, plan) in search.plans.items() for layer in plan.weights]
    effects: dict[Layer, Effect] = {}
    for done, (name, layer) in enumerate(layers):
        report_progress(on_progress, "measure", done, len(layers))
        graph, plan = search.plans[name]
        alone = replace(plan, weights={layer: plan.weights[layer]})
        linear = graph.linears[layer]
        saved = linear.stored_bytes - quantized_bytes(linear, plan.weights[layer])
        effects[name, layer] = Effect(trials.errors({name: (graph, alone)}), saved)
    report_progress(on_progress, "measure", len(layers), len(layers))
    return effects


def _sensitive(name: str, graph: GraphFile) -> list[Layer]:
    return [(name, layer) for layer in sorted(sensitive_layers(graph.linears))]


def _bytes_below_fp16(search: Search, effects: Mapping[Layer, Effect]) -> int:
    """Return what kept linears may cost at most for the result to be smaller than the same graphs in fp16."""
    quantized = dict(search.plans) | ({} if search.text is None else {_TEXT: search.text})
    spare = 0
    for graph, plan in quantized.values():
        linears = {linear.weight: name for name, linear in graph.linears.items()}
        for name, tensor in graph.initializers.items():
            values = int(np.prod(tensor.dims, dtype=np.int64))
            kind = plan.weights.get(linears.get(name, ""))
            stored = _stored_bytes(graph, name) if kind is None else quantized_bytes(graph.linears[linears[name]], kind)
            spare += 2 * values - stored
    return spare - 1


def _stored_bytes(graph: GraphFile, name: str) -> int:
    return int(graph.place(name).get("length", 0)) or graph.initializers[name].ByteSize()
