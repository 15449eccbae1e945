"""Embedding a file of prompts ahead of time, so that the text encoder need not be loaded when their videos are made."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..bundle.manifest import Manifest
from ..core import paths
from ..core.errors import EngineError, OutputError
from ..core.progress import Progress, report_progress
from ..core.units import format_bytes
from .batch import read_prompts
from .reel import Reel, load
from .request import OpenRequest
from .text.embedder import NEGATIVE, Prompt
from .text.embedding_cache import EmbeddingCache
from .text.tokens import prompt_named


def embed_ahead(
    path: Path,
    *,
    negative_prompt: str | None = None,
    bundle: Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Put the embeddings of a file's prompts into the user's cache, and that of the negative prompt.

    The empty negative prompt is embedded too where a recipe uses guidance. All prompts are checked before the first is
    embedded. Returns how many were embedded, how many were there already, the bytes that all of them take, and the folder.
    Raises UsageError, PromptError, BundleError, EngineError; OutputError where the cache cannot hold all of them or cannot
    be written; Cancelled.
    """
    lines = read_prompts(path)
    if paths.find_cache_folder() is None:
        raise OutputError(f"embeddings cannot be kept: {paths.NO_HOME}")
    numbers: dict[Prompt, int] = {}
    for number, text in enumerate(lines, start=1):
        numbers.setdefault(Prompt(text), number)
    prompts = list(numbers)
    with load(bundle, engine=engine, threads=threads, on_progress=on_progress) as reel:
        cache = reel.embedder.cache
        assert cache is not None
        if negative_prompt:
            prompts.append(Prompt(negative_prompt, NEGATIVE))
        if _is_guided(reel.bundle.manifest):
            prompts.append(Prompt("", NEGATIVE))
        try:
            cache.check_writable()
            sizes = {}
            for prompt in prompts:
                numbered = prompt in numbers
                with prompt_named(prompt.text, numbers[prompt], len(lines)) if numbered else nullcontext():
                    sizes[prompt] = reel.embedder.size_of(prompt) or reel.embedder.least_size_of(prompt)
            _check_fit(sum(sizes.values()), cache)
            embedded = _embed_each(reel, prompts, sizes, cache, on_progress)
        except OSError as error:
            raise OutputError(
                f"{cache.folder}: cannot keep embeddings there: {error.strerror or error} "
                "(EDGEREEL_CACHE chooses another cache folder)"
            ) from error
        return {
            "embedded": embedded,
            "already_there": len(prompts) - embedded,
            "bytes": sum(sizes.values()),
            "folder": str(cache.folder),
        }


def _embed_each(
    reel: Reel, prompts: list[Prompt], sizes: dict[Prompt, int], cache: EmbeddingCache, on_progress: Progress | None
) -> int:
    """Embed the prompts that are not there, correct the sizes to what each really takes, and return how many they were."""
    # Those that are there count as used now, so that the new ones do not push them out.
    missing = [prompt for prompt in prompts if not reel.embedder.is_cached(prompt)]
    report_progress(on_progress, "embed", 0, len(missing))
    for done, prompt in enumerate(missing, start=1):
        try:
            sizes[prompt] = reel.embedder.embed_ahead(prompt)
        except ValueError as error:
            raise EngineError(f"the text encoder gave what cannot be kept: {error}") from error
        _check_fit(sum(sizes.values()), cache)
        report_progress(on_progress, "embed", done, len(missing))
    return len(missing)


def _check_fit(size: int, cache: EmbeddingCache) -> None:
    if size > cache.limit:
        raise OutputError(
            f"the embeddings of these prompts take at least {format_bytes(size)} and {cache.folder} is limited to "
            f"{format_bytes(cache.limit)}: leave some prompts out"
        )


def _is_guided(manifest: Manifest) -> bool:
    """Tell whether any recipe runs the denoiser without the prompt too."""
    requests = (OpenRequest("", recipe=recipe.name).complete(manifest) for recipe in manifest.recipes)
    return any(max(request.guidances) > 1 for request in requests)
