"""The whole of `edgereel quantize`: a bundle in, a smaller one out, in a folder that appears only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from ..bundle.manifest import EmbeddingTable, Manifest, Precision, Quantization
from ..bundle.reader import Bundle, open_bundle
from ..bundle.writer import check_new_bundle, file_records, new_bundle_folder, write_manifest
from ..core.errors import QualityError, UsageError
from ..core.paths import demo_bundle_path
from ..core.progress import Progress, report_progress
from ..engines.options import Activations
from ..quality.metrics import PSNR_OF_EQUAL_FRAMES
from ..runtime.batch import read_prompts
from .balancing import ActivationMode, plan_graph
from .clips import ClipSettings, check_count, estimate_in_words
from .collecting import denoiser_graphs
from .compare import BundleComparison, compare_bundles, default_prompts
from .forms import WeightKind
from .graph_file import GraphFile
from .mixed import MOST_CHOICES
from .report import add_to_card
from .rewriting import GraphPlan, WeightFile, write_quantized
from .searching import Plans, Search, search_kept, without
from .statistics import Statistics, load_statistics
from .table import table_of, take_embeddings, take_out

TargetPrecision = Literal["int8", "int4", "fp8", "mixed"]
TextEncoder = Literal["int8", "int4", "keep"]
TEXT = "text_encoder"
MIXED_BUDGET_DB = 38.0
"""What `mixed` aims at where nothing is asked for."""


@dataclass(frozen=True)
class Settings:
    """What was asked for, checked and completed."""

    precision: TargetPrecision
    activations: ActivationMode
    text_encoder: TextEncoder
    table_outside: bool
    keep: tuple[str, ...]
    budget_db: float | None
    prompts: tuple[str, ...] | None
    seeds: Sequence[int]
    clips: ClipSettings
    compare: bool
    threads: int | None

    @property
    def weights(self) -> WeightKind:
        """What the denoisers' linears are stored as."""
        return "int8" if self.precision == "mixed" else self.precision


def complete_settings(
    *,
    precision: TargetPrecision,
    has_stats: bool,
    activations: Literal["dynamic", "static"] | None,
    text_encoder: TextEncoder,
    table_outside: bool,
    budget_db: float | None,
    keep: Sequence[str],
    prompts: Path | None,
    seeds: Sequence[int],
    clips: ClipSettings,
    compare: bool,
    threads: int | None,
) -> Settings:
    """Return the settings with what was left open filled in. Raises UsageError where they contradict one another."""
    for what, value, choices in (
        ("precision", precision, get_args(TargetPrecision)),
        ("activations", activations, (None, "dynamic", "static")),
        ("text encoder", text_encoder, get_args(TextEncoder)),
    ):
        if value not in choices:
            raise UsageError(f"{what} {value!r} is unknown: choose from {', '.join(filter(None, choices))}")
    if budget_db is not None and not 0 < budget_db < PSNR_OF_EQUAL_FRAMES:
        raise UsageError(
            f"a budget of {budget_db:g} dB is not possible: choose from above 0 to below {PSNR_OF_EQUAL_FRAMES:g}"
        )
    if not compare and (option := clips.option()) is not None:
        raise UsageError(f"{option} is for the clips that are compared, and none are: leave it out")
    if not compare and (budget_db is not None or precision == "mixed"):
        raise UsageError("a budget cannot be met unmeasured: leave --no-compare out, or choose int8 without a budget")
    return Settings(
        precision,
        _activation_mode(precision, has_stats, activations),
        text_encoder,
        table_outside,
        tuple(keep),
        MIXED_BUDGET_DB if precision == "mixed" and budget_db is None else budget_db,
        None if prompts is None else tuple(read_prompts(prompts)),
        seeds,
        clips,
        compare,
        threads,
    )


def _activation_mode(
    precision: TargetPrecision, has_stats: bool, asked: Literal["dynamic", "static"] | None
) -> ActivationMode:
    if precision == "int4":
        if asked is not None or has_stats:
            raise UsageError("int4 quantizes weights alone: leave --activations and --stats out")
        return "float"
    if asked == "static" and not has_stats:
        raise UsageError("static activations need --stats FILE, which edgereel calibrate writes")
    if precision == "fp8":
        if asked == "dynamic":
            raise UsageError("fp8 activations are static: give --stats FILE and leave --activations out")
        return "static" if has_stats else "float"
    return asked or "dynamic"


def quantize(
    bundle: Path | None,
    output: Path,
    settings: Settings,
    *,
    stats: Path | None,
    first_timesteps: int | None,
    on_estimate: Callable[[str], object] | None,
    on_progress: Progress | None,
) -> Manifest:
    """Do what edgereel.calibration.quantize says."""
    check_new_bundle(output)
    if first_timesteps is not None and stats is None:
        raise UsageError("there are no first timesteps without statistics: give both or neither")
    opened = open_bundle(bundle or demo_bundle_path(), on_progress=on_progress)
    if settings.compare:  # to refuse now what could not be compared in the end
        prompts = default_prompts(opened.manifest) if settings.prompts is None else settings.prompts
        check_count(prompts, settings.seeds)
        settings.clips.complete(opened)
    denoisers = {graph.name: graph for graph in denoiser_graphs(opened).values()}
    if settings.compare and on_estimate is not None:
        trials = _most_trials(denoisers) if settings.precision == "mixed" else 0
        clips = len(prompts) * len(settings.seeds)
        on_estimate(estimate_in_words([opened, opened], clips, settings.clips, threads=settings.threads, trials=trials))
    statistics = None if stats is None else _statistics(stats, opened, first_timesteps)
    plans = _denoiser_plans(denoisers, statistics, settings, on_progress)
    text = _text_plan(opened, settings)
    if settings.precision == "mixed":
        plans = without(plans, search_kept(_search(opened, output, plans, text, settings), on_progress).kept)
    if text is not None:
        plans = {TEXT: text, **plans}
    with new_bundle_folder(output) as folder:
        return _write(opened, folder, plans, settings, on_progress)


def _most_trials(denoisers: Mapping[str, GraphFile]) -> int:
    """Return how often `mixed` makes all clips at most: as they are, each layer quantized alone, then whole choices."""
    return 3 + sum(len(graph.linears) for graph in denoisers.values()) + MOST_CHOICES


def _statistics(path: Path, bundle: Bundle, first_timesteps: int | None) -> Statistics:
    """Return the statistics where they are complete and of this bundle. Raises UsageError."""
    statistics = load_statistics(path)
    if statistics.plan.bundle != bundle.manifest.digest:
        raise UsageError(f"{path}: these statistics are of another bundle: calibrate {bundle.folder} itself")
    if statistics.clips < statistics.clips_in_all:
        raise UsageError(
            f"{path}: calibration was stopped after {statistics.clips} of {statistics.clips_in_all} clips: "
            "run the same calibrate command again to go on"
        )
    return statistics if first_timesteps is None else statistics.of_first_timesteps(first_timesteps)


def _denoiser_plans(
    denoisers: Mapping[str, GraphFile],
    statistics: Statistics | None,
    settings: Settings,
    on_progress: Progress | None,
) -> dict[str, tuple[GraphFile, GraphPlan]]:
    kept = _kept_layers(denoisers, settings.keep)
    plans = {}
    for index, (name, graph) in enumerate(denoisers.items()):
        report_progress(on_progress, "plan", index, len(denoisers))
        kinds = {layer: settings.weights for layer in graph.linears if layer not in kept[name]}
        seen = None if statistics is None else statistics.seen.get(name)
        if statistics is not None and seen is None:
            raise UsageError(f"the statistics' recipe never runs {name}: calibrate with one that does")
        if kinds:
            plans[name] = (graph, plan_graph(graph, kinds, settings.activations, seen))
    report_progress(on_progress, "plan", len(denoisers), len(denoisers))
    return plans


def _kept_layers(graphs: Mapping[str, GraphFile], patterns: Sequence[str]) -> dict[str, set[str]]:
    """Return by graph the layers that a pattern names. Raises UsageError for a pattern that names none."""
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for graph in graphs.values() for layer in graph.linears):
            some = list(next(iter(graphs.values())).linears)
            raise UsageError(f"--keep {pattern}: no layer has such a name; names are like {some[0]} and {some[-1]}")
    return {
        name: {layer for layer in graph.linears if any(fnmatchcase(layer, pattern) for pattern in patterns)}
        for name, graph in graphs.items()
    }


def _text_plan(bundle: Bundle, settings: Settings) -> tuple[GraphFile, GraphPlan] | None:
    """Weights alone are quantized: encoders of the T5 family have activations that 8 bits cannot hold, and run once."""
    if settings.text_encoder == "keep" and not settings.table_outside:
        return None
    graph = GraphFile(bundle.path(bundle.manifest.roles.text_encoder.file), TEXT)
    if settings.table_outside:
        table_of(graph)  # to refuse now what could not be taken out in the end
    return graph, GraphPlan(
        {} if settings.text_encoder == "keep" else dict.fromkeys(graph.linears, settings.text_encoder)
    )


def _search(
    bundle: Bundle,
    output: Path,
    plans: Plans,
    text: tuple[GraphFile, GraphPlan] | None,
    settings: Settings,
) -> Search:
    return Search(
        bundle,
        output.parent,
        plans,
        text,
        budget_db=settings.budget_db or MIXED_BUDGET_DB,
        prompts=settings.prompts,
        seeds=settings.seeds,
        settings=settings.clips,
        activations=_engine_activations(settings),
        threads=settings.threads,
    )


def _write(
    source: Bundle,
    folder: Path,
    plans: Plans,
    settings: Settings,
    on_progress: Progress | None,
) -> Manifest:
    """Write the graphs, one at a time, then compare, then write what was found."""
    roles = source.manifest.roles
    outside: EmbeddingTable | None = None
    written = {graph.file for name, graph in roles.graphs().items() if name in plans}
    written |= {graph.data for name, graph in roles.graphs().items() if name in plans}
    for index, (name, (graph, plan)) in enumerate(plans.items()):
        report_progress(on_progress, "quantize", index, len(plans))
        table = table_of(graph) if name == TEXT and settings.table_outside else None
        with WeightFile(folder / roles.graphs()[name].data) as data:
            write_quantized(graph, plan, folder / graph.path.name, data, leave_out=() if table is None else (table,))
        if table is not None:
            outside = take_out(graph, table, folder / graph.path.name)
    report_progress(on_progress, "quantize", len(plans), len(plans))
    for name in source.manifest.files:
        if name not in written:
            shutil.copyfile(source.path(name), folder / name)
    manifest = _manifest(source, folder, plans, settings, outside)
    write_manifest(folder, manifest)
    if settings.compare:
        comparison = compare_bundles(
            source.folder,
            folder,
            prompts=settings.prompts,
            seeds=settings.seeds,
            settings=settings.clips,
            threads=settings.threads,
            budget_db=settings.budget_db,
            on_progress=on_progress,
        )
        _check_budget(comparison, settings)
        manifest.quality["to_source"] = _figures(comparison)
    add_to_card(folder, manifest)
    manifest.files = file_records(folder)
    write_manifest(folder, manifest)
    return manifest


def _figures(comparison: BundleComparison) -> dict[str, Any]:
    """Return what the manifest keeps of a comparison: no paths, and no more digits than mean anything."""
    figures: dict[str, Any] = {name: round(value, 4) for name, value in comparison.figures().items()}
    figures |= comparison.made_as
    figures |= {"clips": len(comparison.clips), "drift": [round(value, 4) for value in comparison.drift()]}
    if comparison.first.shown is not None and comparison.second.shown is not None:
        figures |= {"shown_by_source": comparison.first.shown, "shown": comparison.second.shown}
    return figures


def _check_budget(comparison: BundleComparison, settings: Settings) -> None:
    if settings.budget_db is not None and comparison.psnr_db < settings.budget_db:
        mixed = settings.precision == "mixed"
        advice = "ask for a little more, or give --prompts" if mixed else "--precision mixed keeps what that takes"
        raise QualityError(
            f"the quantized bundle's clips are at {comparison.psnr_db:.1f} dB to the source's, {settings.budget_db:g} dB "
            f"were asked for: {advice}; nothing was written"
        )


def _manifest(
    source: Bundle, folder: Path, plans: Plans, settings: Settings, outside: EmbeddingTable | None
) -> Manifest:
    manifest = source.manifest.model_copy(deep=True)
    roles = manifest.roles
    for name, (graph, plan) in plans.items():
        entry = roles.graphs()[name]
        mode: ActivationMode = "float" if name == TEXT else settings.activations
        entry.activations = "dynamic" if mode == "dynamic" else None
        entry.quantization = _quantization(graph, plan, mode)
    if outside is not None:
        manifest.text.embedding_table = outside
        take_embeddings(roles.text_encoder, outside)
    manifest.precision = Precision(compute=manifest.precision.compute, weights=settings.precision)
    manifest.quantized_from = source.manifest.digest
    # Figures of the source are not those of its quantized copy.
    manifest.quality = {"of_source": source.manifest.quality} if source.manifest.quality else {}
    manifest.files = file_records(folder)
    return manifest


def _quantization(graph: GraphFile, plan: GraphPlan, activations: ActivationMode) -> Quantization:
    kept = [name for name in graph.linears if name not in plan.weights]
    counts: dict[str, int] = {}
    for name in graph.linears:
        kind = plan.weights.get(name, "as exported")
        counts[kind] = counts.get(kind, 0) + 1
    balanced = sum(graph.linears[name].activations in plan.factors for name in plan.weights)
    return Quantization(linears=counts, activations=activations, balanced=balanced, kept=kept)


def _engine_activations(settings: Settings) -> Activations:
    return "dynamic" if settings.activations == "dynamic" else "float"
