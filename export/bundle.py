"""The whole export: checkpoint in, proved bundle out, in a folder that appears only when it is complete."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from ..bundle.manifest import Manifest, Parity, Precision, Recipe, Roles
from ..bundle.roles import FULL
from ..bundle.writer import file_records, new_bundle_folder, write_manifest
from ..core.errors import CheckpointError, ParityError, UsageError, brief
from ..core.progress import Progress, report_progress
from .catalogue import family_of, open_family, published_recipes, put_first
from .checkpoint import OVERRIDES_NAME, Checkpoint, open_checkpoint
from .families.base import Adapter, Array, Facts, GraphSource, ModelPart, Trial
from .graphs import DataFile, save_graph
from .hub import origin_of
from .layout import INDEX_NAME, pipeline_of, read_json
from .liveness import check_alive, check_trials, overflow
from .model_card import model_card
from .parity import LIMITS, Run, graph_differences, judge, opened, stream_differences, traced_module
from .request import Compute, ExportRequest
from .windows import prove_windows

Note = Callable[[str], None]
"""Takes one line that people should know."""
LABELS = {
    key: TypeAdapter(Manifest.model_fields[key].rebuild_annotation())
    for key in ("name", "license", "origin", "vocabulary", "examples")
}
"""What a checkpoint says that only people need."""
COMPUTE = {"fp32": torch.float32, "fp16": torch.float16}
WRITERS = ("edgereel", "torch", "diffusers", "transformers", "onnx")
WEIGHT_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
NOT_STATED = "not stated"
CARD_NAME = "MODEL_CARD.md"
STAGES = 3
"""Of a part: loaded, exported, proved."""


@dataclass
class ProvedGraphs:
    """What exporting the parts left: the manifest's entries of graphs and their proofs, by name; bytes of weights by type."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    parity: dict[str, Parity] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)


def export_request(request: ExportRequest, on_progress: Progress | None, on_note: Note | None = None) -> Manifest:
    """Do what edgereel.export.run_export says, once the request is checked.

    Whatever can be told from files is, before the first graph is traced: configurations, shapes, LoRAs, the manifest's own
    rules, and at last, since it reads everything once, whether the weights are alive.
    """
    checkpoint = open_checkpoint(
        request.checkpoint, request.replaced, recipe=_recipe_name(request), shift=request.shift, encoder=request.encoder
    )
    if request.stream is not None:
        checkpoint.overrides["stream"] = request.stream
    adapter = open_family(checkpoint)
    adapter.add_loras(request.loras, request.fused_as)
    if request.tiny_decoder is not None:
        adapter.add_tiny_decoder(request.tiny_decoder)
    facts = _chosen_facts(adapter.facts, checkpoint, request)
    labels = _labels(checkpoint, request)
    _check_facts(facts, labels)
    checkpoint.check_alive()
    _tell(on_note, checkpoint, facts)
    with new_bundle_folder(request.output) as folder:
        proved = _export_parts(adapter, folder, request.precision, on_progress)
        shutil.copyfile(facts.tokenizer, folder / facts.text.tokenizer)
        return _write_manifest(folder, facts, proved, labels, request.precision)


def _recipe_name(request: ExportRequest) -> str | None:
    """Return the published recipe to be the default: the one asked for, or that of the checkpoint's kind of pipeline."""
    if request.recipe is not None:
        return request.recipe
    pipeline = pipeline_of(read_json(request.checkpoint / INDEX_NAME))
    return family_of(pipeline, request.checkpoint).recipe


def _chosen_facts(facts: Facts, checkpoint: Checkpoint, request: ExportRequest) -> Facts:
    """Return a checkpoint's facts with what the request says instead."""
    if request.max_tokens is not None:
        facts = replace(facts, text=facts.text.model_copy(update={"max_tokens": request.max_tokens}))
    if checkpoint.recipe is not None and (request.recipe is not None or "recipes" not in checkpoint.overrides):
        published = published_recipes(family_of(checkpoint.family, checkpoint.folder))
        facts = replace(facts, recipes=put_first(checkpoint.recipe, published, facts.recipes, facts.denoisers))
    if request.shift is not None:
        first, *others = facts.recipes
        if checkpoint.recipe is None:  # all are the checkpoint's own
            others = [other if other.shift is None else _shifted(other, request.shift) for other in others]
        facts = replace(facts, recipes=[_shifted(first, request.shift), *others])
    return facts


def _shifted(recipe: Recipe, shift: float) -> Recipe:
    """Return a recipe with another shift; raise UsageError where it has none."""
    if recipe.shift is None:
        raise UsageError(
            f"--shift {shift:g}: the recipe {recipe.name} lists its noise levels as they are and has no shift; leave it out"
        )
    return recipe.model_copy(update={"shift": shift})


def _check_facts(facts: Facts, labels: dict[str, Any]) -> None:
    """Raise CheckpointError, before any work, for what the manifest would refuse after it."""
    try:
        for key, value in labels.items():
            LABELS[key].validate_python(value, strict=True)
        for recipe in facts.recipes:
            if recipe.expert_guidance is not None and len(recipe.expert_guidance) != facts.denoisers:
                raise ValueError(
                    f"recipe {recipe.name} has guidance for {len(recipe.expert_guidance)} of {facts.denoisers} denoisers"
                )
            if recipe.boundary is not None and facts.denoisers != 2:
                raise ValueError(
                    f"recipe {recipe.name} has a boundary between two denoisers, but there are {facts.denoisers}"
                )
    except (ValidationError, ValueError) as error:
        raise CheckpointError(f"{OVERRIDES_NAME}: cannot go into the manifest: {brief(error)}") from error


def _tell(on_note: Note | None, checkpoint: Checkpoint, facts: Facts) -> None:
    """Hand on what people should know of how checkpoint and LoRAs were read."""
    if on_note is None:
        return
    for note in (*checkpoint.notes, *(note for lora in facts.loras for note in lora.notes())):
        on_note(note)


def _labels(checkpoint: Checkpoint, request: ExportRequest) -> dict[str, Any]:
    """Return name, licence and origin: as asked for, the checkpoint's own or, without, what stands for none.

    And the words for prompts, where the checkpoint says some.
    """
    labels: dict[str, Any] = {"name": request.output.stem, "license": NOT_STATED, "origin": NOT_STATED}
    if (found := origin_of(checkpoint.folder)) is not None:
        labels["origin"] = found
    own = {key: value for key, value in checkpoint.overrides.items() if key in LABELS}
    return labels | own | request.labels


def _export_parts(adapter: Adapter, folder: Path, precision: Compute, on_progress: Progress | None) -> ProvedGraphs:
    """Export and prove one part after another, so that only one is in memory."""
    proved = ProvedGraphs()
    for part in adapter.parts:
        _export_part(part, folder, precision, on_progress, proved)
        gc.collect()
    return proved


def _export_part(
    part: ModelPart, folder: Path, precision: Compute, on_progress: Progress | None, proved: ProvedGraphs
) -> None:
    report_progress(on_progress, part.name, 0, STAGES)
    module = part.load()
    trials = part.trials(module)
    check_trials(part.name, trials)
    report_progress(on_progress, part.name, 1, STAGES)
    with DataFile(folder / f"{part.name}.data") as data:
        sources = part.graphs(module, COMPUTE[precision])
        for source in sources:
            check_alive(part.name, source, [] if part.streams else trials, precision)
            save_graph(source, folder, data)
            proved.entries[source.name] = _entry(source, data.path.name)
    for kind, count in data.stored_bytes.items():
        proved.stored[kind] = proved.stored.get(kind, 0) + count
    names = [source.name for source in sources]
    limit = LIMITS[precision]
    in_torch: dict[str, Parity] = {}
    if precision != "fp32":
        in_torch = _prove_halved(part, sources, trials, limit)
    del module, sources, source  # the engine is about to need the memory
    gc.collect()
    report_progress(on_progress, part.name, 2, STAGES)
    with ExitStack() as stack:
        runs = [stack.enter_context(opened(folder / f"{name}.onnx", data.path)) for name in names]
        proofs = _prove(part, names, runs, trials, limit)
    for name in names:
        if {"latents", "frames"} <= {*proved.entries[name]["inputs"], *proved.entries[name]["outputs"]}:
            in_windows = prove_windows(folder / f"{name}.onnx", trials, limit)
            proofs[name] = max(proofs[name], in_windows or proofs[name], key=lambda either: either.relative)
    for name, proof in proofs.items():
        proved.parity[name] = max(proof, in_torch.get(name, proof), key=lambda either: either.relative)
    report_progress(on_progress, part.name, STAGES, STAGES)


def _prove_halved(part: ModelPart, sources: list[GraphSource], trials: list[Trial], limit: float) -> dict[str, Parity]:
    """Return the parity of the modules themselves in half precision; raise ParityError, overflow called by its name."""
    overflowed: list[str] = []

    def watched(source: GraphSource) -> Run:
        run = traced_module(source)

        def watch(inputs: Mapping[str, Array]) -> dict[str, Array]:
            made = run(inputs)
            if not all(bool(np.isfinite(values).all()) for values in made.values()):
                overflowed.append(overflow(part.name, source.module))
            return made

        return watch

    try:
        return _prove(part, [source.name for source in sources], [watched(source) for source in sources], trials, limit)
    except ParityError as error:
        raise ParityError(overflowed[0] if overflowed else str(error)) from error


def _prove(part: ModelPart, names: list[str], runs: list[Run], trials: list[Trial], limit: float) -> dict[str, Parity]:
    """Return the parity of each of a part's graphs; raise ParityError where one is over the limit."""
    if part.streams is not None:
        differences = list(stream_differences(runs[0], runs[1], trials, part.streams))
    else:
        differences = [graph_differences(run, trials) for run in runs]
    return {name: judge(name, found, trials, limit) for name, found in zip(names, differences, strict=True)}


def _entry(source: GraphSource, data: str) -> dict[str, Any]:
    """Return what the manifest says about a graph."""
    interface = {"inputs": source.inputs, "outputs": source.outputs}
    return {"file": f"{source.name}.onnx", "data": data, **interface, **source.facts}


def _write_manifest(
    folder: Path, facts: Facts, proved: ProvedGraphs, labels: dict[str, Any], precision: Compute
) -> Manifest:
    """Write the model card, then reel.json, which lists every other file and its hash."""
    main = max(sorted(proved.stored), key=lambda kind: proved.stored[kind])
    try:
        card = model_card(labels, facts, proved.parity, precision)
        (folder / CARD_NAME).write_text(card, encoding="utf-8", newline="\n")
        roles = Roles.of(proved.entries)
        manifest = Manifest(
            **labels,
            roles=roles,
            text=facts.text,
            latent=facts.latent,
            recipes=facts.recipes,
            precision=Precision(compute=precision, weights=WEIGHT_NAMES[main]),
            defaults=facts.defaults,
            files=file_records(folder),
            written_by={package: _version(package) for package in WRITERS},
            parity=proved.parity,
            quality=facts.quality,
            loras=facts.loras,
            held=facts.held,
            condition=facts.condition,
            stream=facts.stream,
            default_decoder=FULL if len(roles.decoders_by_name) > 1 else None,
        )
    except (ValidationError, TypeError) as error:
        raise CheckpointError(f"{OVERRIDES_NAME}: cannot go into the manifest: {brief(error)}") from error
    write_manifest(folder, manifest)
    return manifest


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
