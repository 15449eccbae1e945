"""The whole export: checkpoint in, proved bundle out, in a folder that appears only when it is complete."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from ..bundle.manifest import Denoiser, Graph, Manifest, Parity, Precision, Roles
from ..bundle.writer import file_records, new_bundle_folder, write_manifest
from ..core.errors import CheckpointError, brief
from .checkpoint import OVERRIDES_NAME, Checkpoint, open_checkpoint
from .families.base import Adapter, Facts, GraphSource, Part, Trial
from .families.wan.adapter import WanAdapter
from .families.wan.recipes import put_first
from .graphs import DataFile, save_graph
from .lora.request import Lora
from .model_card import model_card
from .parity import LIMITS, Run, decoder_differences, graph_differences, judge, opened, traced_module
from .request import INDEX_NAME

FAMILIES: dict[str, Callable[[Checkpoint], Adapter]] = {"WanPipeline": WanAdapter}
COMPUTE = {"fp32": torch.float32, "fp16": torch.float16}
WRITERS = ("edgereel", "torch", "diffusers", "transformers", "onnx")
WEIGHT_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
NOT_STATED = "not stated"

Progress = Callable[[str, int, int], None]


@dataclass
class Exported:
    """What exporting the parts left: graphs by name, their proofs, and bytes of weights by type."""

    graphs: dict[str, Graph]
    parity: dict[str, Parity]
    stored: dict[str, int]


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    max_tokens: int | None,
    recipe: str | None = None,
    precision: Literal["fp32", "fp16"],
    loras: Sequence[Lora],
    replaced: Mapping[str, Path],
    name: str | None,
    license: str | None,
    origin: str | None,
    on_progress: Progress | None,
) -> Manifest:
    """Do what edgereel.export.export_checkpoint says, once its arguments are checked."""
    opened = open_checkpoint(checkpoint, replaced)
    adapter = open_family(opened)
    adapter.add_loras(loras)
    facts = adapter.facts
    if recipe is not None:
        facts = replace(facts, recipes=put_first(recipe, facts.published, facts.recipes, len(facts.denoisers)))
    labels = {"name": name, "license": license, "origin": origin}
    defaults = {"name": output.stem, "license": NOT_STATED, "origin": NOT_STATED}
    for key, default in defaults.items():
        if labels[key] is None:
            labels[key] = opened.overrides.get(key, default)
    with new_bundle_folder(output) as folder:
        exported = _export_parts(adapter, folder, precision, on_progress or (lambda *_: None))
        shutil.copyfile(facts.tokenizer, folder / facts.text.tokenizer)
        return _write_manifest(folder, facts, exported, labels, max_tokens, precision)


def open_family(checkpoint: Checkpoint) -> Adapter:
    """Return the adapter of a checkpoint's family, which checks it; raise CheckpointError."""
    if checkpoint.family not in FAMILIES:
        raise CheckpointError(
            f"{checkpoint.folder / INDEX_NAME}: a {checkpoint.family} checkpoint is of an unknown family; "
            f"known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[checkpoint.family](checkpoint)


def _export_parts(
    adapter: Adapter, folder: Path, precision: Literal["fp32", "fp16"], on_progress: Progress
) -> Exported:
    """Export and prove one part after another, so that only one is in memory."""
    exported = Exported({}, {}, {})
    for part in adapter.parts:
        _export_part(part, folder, precision, on_progress, exported)
        gc.collect()
    return exported


def _export_part(
    part: Part, folder: Path, precision: Literal["fp32", "fp16"], on_progress: Progress, exported: Exported
) -> None:
    on_progress(part.name, 0, 3)
    module = part.load()
    trials = part.trials(module)
    on_progress(part.name, 1, 3)
    with DataFile(folder / f"{part.name}.data") as data:
        sources = part.graphs(module, COMPUTE[precision])
        for source in sources:
            save_graph(source, folder, data)
            exported.graphs[source.name] = _graph_entry(source, data.path.name)
    for kind, count in data.stored_bytes.items():
        exported.stored[kind] = exported.stored.get(kind, 0) + count
    names = [source.name for source in sources]
    limit = LIMITS[precision]
    in_torch: dict[str, Parity] = {}
    if precision != "fp32":
        in_torch = _prove(part, names, [traced_module(source) for source in sources], trials, limit)
    del module, sources, source  # the engine is about to need the memory
    gc.collect()
    on_progress(part.name, 2, 3)
    with ExitStack() as stack:
        runs = [stack.enter_context(opened(folder / f"{name}.onnx", data.path)) for name in names]
        proofs = _prove(part, names, runs, trials, limit)
    for name, proof in proofs.items():
        exported.parity[name] = max(proof, in_torch.get(name, proof), key=lambda either: either.relative)
    on_progress(part.name, 3, 3)


def _prove(part: Part, names: list[str], runs: list[Run], trials: list[Trial], limit: float) -> dict[str, Parity]:
    """Return the parity of each of a part's graphs; raise ParityError where one is over the limit."""
    if part.streams:
        differences = list(decoder_differences(runs[0], runs[1], trials))
    else:
        differences = [graph_differences(run, trials) for run in runs]
    return {name: judge(name, found, trials, limit) for name, found in zip(names, differences, strict=True)}


def _graph_entry(source: GraphSource, data: str) -> Graph:
    return Graph(file=f"{source.name}.onnx", data=data, inputs=source.inputs, outputs=source.outputs)


def _write_manifest(
    folder: Path,
    facts: Facts,
    exported: Exported,
    labels: dict[str, Any],
    max_tokens: int | None,
    precision: Literal["fp32", "fp16"],
) -> Manifest:
    """Write the model card, then reel.json, which lists every other file and its hash."""
    graphs = exported.graphs
    denoisers = [graph for name, graph in graphs.items() if name.startswith("denoiser")]
    main = max(sorted(exported.stored), key=lambda kind: exported.stored[kind])
    if max_tokens is not None:
        facts.text.max_tokens = max_tokens
    try:
        (folder / "MODEL_CARD.md").write_text(
            model_card(labels, facts, exported.parity, precision), encoding="utf-8", newline="\n"
        )
        manifest = Manifest(
            **labels,
            roles=Roles(
                text_encoder=graphs["text_encoder"],
                denoiser=[
                    Denoiser(**dict(graph), **levels) for graph, levels in zip(denoisers, facts.denoisers, strict=True)
                ],
                decoder_first=graphs["decoder_first"],
                decoder_next=graphs["decoder_next"],
            ),
            text=facts.text,
            latent=facts.latent,
            recipes=facts.recipes,
            precision=Precision(compute=precision, weights=WEIGHT_NAMES[main]),
            defaults=facts.defaults,
            files=file_records(folder),
            written_by={package: _version(package) for package in WRITERS},
            parity=exported.parity,
            quality=facts.quality,
            loras=facts.loras,
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
