"""Trying quantized graphs out: what a change of one part of a model does to the finished frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ..bundle.reader import Bundle
from ..engines import EngineOptions, get_engine
from ..engines.options import Activations
from ..quality.metrics import Clip, decibels
from ..runtime.reel import Reel
from ..runtime.text.embedding_cache import EmbeddingCache
from .clips import ClipSettings
from .collecting import embed_all
from .compare import default_prompts
from .graph_file import GraphFile
from .recording import link_data
from .rewriting import GraphPlan, WeightFile, write_quantized
from .switching import SwitchingEngine

SquaredErrors = tuple[float, ...]
"""The mean squared difference of each clip's frames to those of the source."""


class Trials:
    """A bundle in which graphs can be replaced by quantized ones, and the clips that it makes without that.

    Only one version of a graph is open at a time; weights that have been quantized once stay on disk, in `folder`.
    """

    def __init__(
        self,
        bundle: Bundle,
        graphs: Sequence[GraphFile],
        folder: Path,
        prompts: Sequence[str] | None,
        seeds: Sequence[int],
        *,
        activations: Activations,
        settings: ClipSettings,
        threads: int | None,
    ) -> None:
        """graphs: those that can be replaced. prompts: None for default ones. activations: of the denoisers' linears."""
        self._folder = folder
        self._given = settings.given()
        self._activations = activations
        self._engine = SwitchingEngine(get_engine("cpu"))
        self._plain_cache, self._other_cache = EmbeddingCache(folder / "plain"), EmbeddingCache(folder / "other")
        self._reel = Reel(bundle, self._engine, EngineOptions(threads=threads), self._plain_cache)
        self._data: dict[str, WeightFile] = {}
        for graph in graphs:
            link_data(graph, folder)
            self._data[graph.name] = WeightFile(folder / f"{graph.name}.quantized").__enter__()
        texts = default_prompts(bundle.manifest) if prompts is None else prompts
        self._texts = texts
        self._guided = max(settings.complete(bundle).guidances) > 1
        self._clips = [(text, seed) for text in texts for seed in seeds]
        self._embed()
        self._reference = [self._frames(text, seed) for text, seed in self._clips]

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reel.close()
        for data in self._data.values():
            data.__exit__()

    @property
    def clips(self) -> int:
        """Of how many clips errors are measured."""
        return len(self._clips)

    def errors(self, plans: Mapping[str, tuple[GraphFile, GraphPlan]]) -> SquaredErrors:
        """Return what quantizing these graphs, by name, does to each clip; every other graph is the source's.

        The text encoder's plan must be the same whenever there is one: its embeddings are kept.
        """
        for name, (graph, plan) in plans.items():
            target = self._folder / graph.path.name
            # A new file in the place of the old one: an engine may have the old one mapped.
            target.unlink(missing_ok=True)
            write_quantized(graph, plan, target, self._data[name], copy_others=False)
            dynamic = self._activations == "dynamic" and name != "text_encoder"
            self._engine.switch(graph.path.name, target, "dynamic" if dynamic else "float")
        other_text = "text_encoder" in plans
        self._reel.embedder.cache = self._other_cache if other_text else self._plain_cache
        try:
            if other_text and not self._other_cache.folder.exists():
                self._embed()
            return tuple(
                _squared_error(self._frames(prompt, seed), expected)
                for (prompt, seed), expected in zip(self._clips, self._reference, strict=True)
            )
        finally:
            for graph, _ in plans.values():
                self._engine.switch(graph.path.name, None)

    def _embed(self) -> None:
        """Fill the reel's cache of embeddings, with no denoiser in memory beside the text encoder."""
        self._engine.release()
        embed_all(self._reel, self._texts, guided=self._guided)
        self._engine.release()

    def _frames(self, prompt: str, seed: int) -> Clip:
        return np.stack(list(self._reel.generate(prompt, seed=seed, **self._given)))


def mean_decibels(errors: Iterable[float]) -> float:
    """Return the mean of the clips' PSNR, each at most what equal clips count as."""
    return float(np.mean([decibels(float(error), 1.0) for error in errors]))


def _squared_error(found: Clip, expected: Clip) -> float:
    """Return the mean squared difference on a scale on which white is 1, a frame at a time."""
    return float(np.mean([np.square(a / 255 - b / 255).mean() for a, b in zip(found, expected, strict=True)]))
