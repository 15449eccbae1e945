"""The whole of `edgereel calibrate`: prompts through the sampling loop, statistics of its activations into one file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bundle.reader import Bundle, open_bundle
from ..core.errors import OutputError, UsageError, brief
from ..core.files import check_file_target
from ..core.interrupts import temporary_folder
from ..core.paths import demo_bundle_path
from ..core.progress import Progress, report_progress
from ..engines import EngineOptions, get_engine
from ..runtime.batch import read_prompts
from ..runtime.reel import Reel
from ..runtime.request import OpenRequest, Request
from ..runtime.sampling.recipes import schedule_of
from ..runtime.text.embedder import NEGATIVE, Prompt
from ..runtime.text.embedding_cache import EmbeddingCache
from .graph_file import GraphFile
from .recording import RecordingEngine
from .statistics import ROWS_KEPT, RecordingPlan, Statistics, load_statistics


def calibrate(
    bundle: Path | None,
    prompts: Path,
    output: Path,
    *,
    recipe: str | None = None,
    steps: int | None = None,
    seeds: int = 1,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Statistics:
    """Do what edgereel.calibration.calibrate says."""
    if seeds < 1:
        raise UsageError(f"{seeds} seeds are not possible: choose 1 or more")
    texts = read_prompts(prompts)
    check_file_target(output)
    opened = open_bundle(bundle or demo_bundle_path(), on_progress=on_progress)
    settings: dict[str, Any] = {"recipe": recipe, "steps": steps, "size": size, "frames": frames}
    request = OpenRequest(texts[0], **settings).complete(opened.manifest)
    graphs = denoiser_graphs(opened)
    plan = RecordingPlan(opened.manifest.digest, _hash(texts), len(texts), seeds, _recipe(request))
    statistics = _begin(output, plan)
    report_progress(on_progress, "calibrate", statistics.clips, statistics.clips_in_all)
    if statistics.clips == statistics.clips_in_all:
        return statistics
    try:
        # Beside the output, since data files are linked there, and copied where it is another file system.
        with temporary_folder(".edgereel-calibrate-", output.parent) as folder:
            cache = EmbeddingCache(folder / "embeddings")
            options = EngineOptions(threads=threads)
            # Before the denoisers are opened, so that the text encoder is not in memory beside them.
            with Reel(opened, get_engine("cpu"), options, cache) as reel:
                for text in texts:
                    reel.check_prompt(text)
                embed_all(reel, texts, guided=max(request.guidances) > 1)
            engine = RecordingEngine(get_engine("cpu"), graphs, folder, statistics, _rows_by_slot(opened, request))
            with Reel(opened, engine, options, cache) as reel:
                clips = [(text, seed) for text in texts for seed in range(seeds)]
                for text, seed in clips[statistics.clips :]:
                    engine.begin_clip()
                    reel.generate(text, seed=seed, **settings)
                    statistics.clips += 1
                    statistics.save(output)
                    report_progress(on_progress, "calibrate", statistics.clips, len(clips))
    except OSError as error:
        raise OutputError(f"{output.parent}: cannot be written: {brief(error)}") from error
    return statistics


def denoiser_graphs(bundle: Bundle) -> dict[str, GraphFile]:
    """Return a bundle's denoisers by file name. Raises UsageError for a bundle that cannot be calibrated or quantized."""
    manifest = bundle.manifest
    if manifest.quantized_from is not None:
        raise UsageError(f"{bundle.folder}: is quantized already: take the bundle it was made from")
    if manifest.precision.compute != "fp32":
        raise UsageError(
            f"{bundle.folder}: calculates in {manifest.precision.compute}: take an fp32 export of the same model"
        )
    named = zip(manifest.roles.denoiser_names(), manifest.roles.denoiser, strict=True)
    return {graph.file: GraphFile(bundle.path(graph.file), name) for name, graph in named}


def embed_all(reel: Reel, texts: Sequence[str], *, guided: bool) -> None:
    """Put the embeddings of prompts, and of the empty negative prompt where there is guidance, into the reel's cache."""
    prompts = [Prompt(text) for text in dict.fromkeys(texts)] + [Prompt("", NEGATIVE)] * guided
    for prompt in prompts:
        reel.embedder.embed_ahead(prompt)


def _in_words(keys: list[str]) -> str:
    """Return what differs between two plans as a user would name it, the first thing alone: the rest mostly follow."""
    return {"prompt_count": "the prompts", "seeds": "the number of seeds"}.get(keys[0], f"the {keys[0]}")


def _begin(output: Path, plan: RecordingPlan) -> Statistics:
    """Return the statistics to go on with: those that are there, where they are of the same plan, or new ones."""
    if not output.exists():
        return Statistics(plan)
    found = load_statistics(output)
    differing = [key for key, value in asdict(plan).items() if asdict(found.plan)[key] != value]
    if differing:
        raise UsageError(
            f"{output}: holds statistics that differ in {_in_words(differing)}: remove it or choose another name"
        )
    return found


def _rows_by_slot(bundle: Bundle, request: Request) -> int:
    chosen = bundle.manifest.recipe(request.recipe)
    assert chosen is not None
    branches = 2 if max(request.guidances) > 1 else 1
    slots = schedule_of(chosen, request.sampler, request.steps).steps * branches
    return max(1, math.ceil(ROWS_KEPT / slots))


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _recipe(request: Request) -> dict[str, Any]:
    names = ("recipe", "sampler", "steps", "guidances", "shift", "width", "height", "frames")
    settings = request.settings()
    return {name: list(settings[name]) if name == "guidances" else settings[name] for name in names}
