"""From prompts to their embeddings: out of the cache where they were seen before, by the text encoder where not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ...bundle.reader import Bundle
from ...core.progress import Progress, report_progress
from ...core.version import __version__
from ...engines import Session, Tensor
from ...engines.base import run_graph
from .embedding_cache import CachedEmbedding, EmbeddingCache, embedding_key, entry_size
from .token_table import TokenTable
from .tokens import PromptTokenizer, TokenIds

NEGATIVE = "negative prompt"


class Prompt(NamedTuple):
    """A text to embed. name: what messages call it; only a negative prompt may be empty."""

    text: str
    name: str = "prompt"


class PromptEmbedder:
    """Embeds prompts for one bundle on one engine; neither tokenizer nor text encoder is loaded before it is needed.

    cache: None for no caching. cached: how many prompts came out of it so far. ran_before: (provider, precision) of the
    text encoder when those were made.
    """

    def __init__(
        self,
        bundle: Bundle,
        numerics: Callable[[], dict[str, str]],
        cache: EmbeddingCache | None,
        open_session: Callable[[], Session],
        add_time: Callable[[str, float], None],
    ) -> None:
        """numerics: see Engine.numerics. open_session: gives the text encoder's. add_time: see Reel.add_time."""
        self.cached = 0
        self.ran_before: set[tuple[str, str]] = set()
        self._bundle = bundle
        self._find_numerics = numerics
        self.cache = cache
        self._open_session = open_session
        self._add_time = add_time

    def check(self, prompt: Prompt) -> None:
        """Raise PromptError where the model cannot take this prompt; one that is in the cache was checked before."""
        if self.size_of(prompt) is None:
            self._tokenize(prompt)

    def check_all(self, prompts: Sequence[str], on_progress: Progress | None) -> None:
        """Raise PromptError for the first prompt that the model cannot take, saying which it is.

        on_progress is told of the stage `prompts`. Raises BundleError for a tokenizer that is none, Cancelled.
        """
        if len(prompts) == 1:  # it may be in the cache: then no tokenizer is loaded
            self.check(Prompt(prompts[0]))
        else:
            self._tokenizer.check_all(prompts, on_progress)

    def embed(self, prompts: Sequence[Prompt], on_progress: Progress | None) -> list[Tensor]:
        """Return the embeddings, float32 [1, L, D], of prompts that are all checked before the first is embedded.

        Raises PromptError, EngineError, BundleError for a tokenizer that is none, Cancelled.
        """
        sources = [self._look_up(prompt) or self._tokenize(prompt) for prompt in prompts]
        report_progress(on_progress, "text", 0, len(prompts))
        embeddings = []
        for done, (prompt, source) in enumerate(zip(prompts, sources, strict=True), start=1):
            if isinstance(source, CachedEmbedding):
                embedding = Tensor.from_numpy(source.values)
                self.cached += 1
                self.ran_before.add((source.provider, source.precision))
            else:
                embedding = self._run(source)
                # A cache that cannot be written, or an embedding that cannot be kept, costs time and nothing else.
                with contextlib.suppress(OSError, ValueError):
                    self._keep(prompt, embedding)
            embeddings.append(embedding)
            report_progress(on_progress, "text", done, len(prompts))
        return embeddings

    def embed_ahead(self, prompt: Prompt) -> int:
        """Put a prompt's embedding into the cache and return the bytes it takes there, 0 without a cache.

        Raises PromptError, EngineError; OSError and ValueError as EmbeddingCache.put does.
        """
        return self._keep(prompt, self._run(self._tokenize(prompt)))

    def is_cached(self, prompt: Prompt) -> bool:
        """Tell whether a prompt's embedding is in the cache, whole, and note its use."""
        return self._look_up(prompt) is not None

    def size_of(self, prompt: Prompt) -> int | None:
        """Return the bytes that a prompt's embedding takes in the cache, None where it is not there."""
        if self.cache is None or not isinstance(prompt.text, str):
            return None
        rules = self._bundle.manifest.text
        return self.cache.size_of(self._key(prompt), rules.max_tokens, self._width, trimmed=rules.trim)

    def least_size_of(self, prompt: Prompt) -> int:
        """Return how many bytes a prompt's embedding will at least take, 0 where nothing is known. Raises PromptError."""
        rows, rules = self._tokenize(prompt).length, self._bundle.manifest.text
        return entry_size(rows if rules.trim else rules.max_tokens, self._width, rows) if self._width else 0

    @cached_property
    def _width(self) -> int | None:
        """The extent D of embeddings where the manifest tells it."""
        declared = self._bundle.manifest.roles.text_encoder.outputs.get("prompt_embeds")
        last = declared.shape[-1] if declared is not None and len(declared.shape) == 3 else None
        return last if isinstance(last, int) else None

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        started = time.perf_counter()
        rules = self._bundle.manifest.text
        tokenizer = PromptTokenizer(self._bundle.path(rules.tokenizer), rules)
        self._add_time("open", started)
        return tokenizer

    @cached_property
    def _table(self) -> TokenTable | None:
        table = self._bundle.manifest.text.embedding_table
        return None if table is None else TokenTable(self._bundle.path(table.file), table)

    @cached_property
    def _numerics(self) -> dict[str, str]:
        started = time.perf_counter()
        numerics = self._find_numerics()
        self._add_time("open", started)
        return numerics

    def _tokenize(self, prompt: Prompt) -> TokenIds:
        return self._tokenizer.encode(prompt.text, allow_empty=prompt.name == NEGATIVE, name=prompt.name)

    def _key(self, prompt: Prompt) -> str:
        """Return the cache's key: everything that decides the embedding, and whether the prompt may be used at all."""
        manifest = self._bundle.manifest
        graph, table = manifest.roles.text_encoder, manifest.text.embedding_table
        files = (manifest.text.tokenizer, graph.file, graph.data, *(() if table is None else (table.file,)))
        return embedding_key(
            {
                "edgereel": __version__,
                "prompt": prompt.text,
                "as": prompt.name,
                "rules": manifest.text.model_dump(mode="json"),
                "files": [manifest.files[name].sha256 for name in files],
                "numerics": self._numerics,
            }
        )

    def _look_up(self, prompt: Prompt) -> CachedEmbedding | None:
        if self.cache is None or not isinstance(prompt.text, str):
            return None
        key, rules = self._key(prompt), self._bundle.manifest.text
        started = time.perf_counter()
        found = self.cache.get(key, rules.max_tokens, self._width, trimmed=rules.trim)
        self._add_time("text", started)
        return found

    def _run(self, tokens: TokenIds) -> Tensor:
        session = self._open_session()
        started = time.perf_counter()
        manifest = self._bundle.manifest
        arrays: dict[str, NDArray[Any]] = tokens._asdict()
        if self._table is not None:
            arrays = {"token_embeds": self._table.look_up(tokens.input_ids), "attention_mask": tokens.attention_mask}
        taken = manifest.roles.text_encoder.inputs
        inputs = {name: Tensor.from_numpy(array) for name, array in arrays.items() if name in taken}
        embedding = run_graph(session, "text_encoder", inputs, "prompt_embeds")
        if manifest.text.trim:
            embedding = Tensor.from_numpy(embedding.numpy()[:, : tokens.length])
        self._add_time("text", started)
        return embedding

    def _keep(self, prompt: Prompt, embedding: Tensor) -> int:
        if self.cache is None:
            return 0
        started = time.perf_counter()
        values = embedding.numpy()
        rules = self._bundle.manifest.text
        rows = values.shape[1] if values.ndim > 1 else 0
        fits = rows <= rules.max_tokens if rules.trim else rows == rules.max_tokens
        if not fits or self._width not in (None, values.shape[-1]):
            raise ValueError(f"embeddings of shape {list(values.shape)} are not what the manifest says")
        report = self._open_session().report
        try:
            return self.cache.put(self._key(prompt), CachedEmbedding(values, report.provider, report.precision))
        finally:
            self._add_time("text", started)
