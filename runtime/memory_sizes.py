"""How much memory each part of a bundle takes for a clip, from the graphs themselves.

A part (component) is what is opened and closed together: the text encoder, each denoiser, the decoder with its two graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from ..engines import Engine, EngineOptions
from ..engines.costs import CPU_ACTIVATION_MARGIN, graph_costs
from ..errors import BundleError, EngineError, MissingExtraError
from .bundle import Bundle
from .geometry import latent_shape
from .graph_shapes import input_shapes

TEXT_ENCODER, DECODER = "text_encoder", "decoder"
DECODER_GRAPHS = ("decoder_first", "decoder_next")
GPU_ACTIVATION_MARGIN = 1.5
"""What is set aside on a GPU for one byte of activations: workspace of convolutions, and what allocators lose. Not measured."""


@dataclass(frozen=True)
class ComponentSizes:
    """Bytes of one component at one clip size.

    weights: while it is open. largest_weight: no less can be streamed. activations: what it holds beside weights while it
    runs, its inputs, outputs and state included.
    """

    weights: int
    largest_weight: int
    activations: int


@dataclass(frozen=True)
class ClipSizes:
    """All components' sizes for latents [1, C, F, H, W].

    decoder_of: the decoder's where it decodes tiles of (height, width) in latent units. unknown: why the graphs could not be
    analysed ("" where they were): then only weights are counted.
    """

    latents: tuple[int, int, int, int, int]
    components: dict[str, ComponentSizes]
    decoder_of: Callable[[int, int], ComponentSizes]
    unknown: str = ""


def component_of(graph: str) -> str:
    """Return the component that a graph (see Roles.graphs) belongs to."""
    return DECODER if graph in DECODER_GRAPHS else graph


def clip_sizes(
    bundle: Bundle, width: int, height: int, frames: int, engine: Engine, options: EngineOptions
) -> ClipSizes:
    """Return what a clip of this many pixels and frames takes on an engine, which need not be able to run here.

    Raises GeometryError where the model cannot do the size.
    """
    latents = latent_shape(bundle.manifest.latent, width, height, frames)
    try:
        return _analysed(bundle, latents, engine, options)
    except (MissingExtraError, BundleError, EngineError, ValueError) as error:
        return _by_files(bundle, latents, str(error))


def _analysed(
    bundle: Bundle, latents: tuple[int, int, int, int, int], engine: Engine, options: EngineOptions
) -> ClipSizes:
    @lru_cache
    def decoder_of(height: int, width: int) -> ComponentSizes:
        tile = (*latents[:3], height, width)
        parts = [_graph_sizes(bundle, name, tile, engine, options) for name in DECODER_GRAPHS]
        return ComponentSizes(
            weights=sum(part.weights for part in parts),
            largest_weight=max(part.largest_weight for part in parts),
            activations=max(part.activations for part in parts),
        )

    names = [TEXT_ENCODER, *bundle.manifest.roles.denoiser_names()]
    components = {name: _graph_sizes(bundle, name, latents, engine, options) for name in names}
    return ClipSizes(latents, {**components, DECODER: decoder_of(*latents[3:])}, decoder_of)


def _graph_sizes(
    bundle: Bundle, name: str, latents: tuple[int, ...], engine: Engine, options: EngineOptions
) -> ComponentSizes:
    graph = bundle.manifest.roles.graphs()[name]
    options = replace(options, activations=graph.activations or "float")
    model = engine.graph_to_run(bundle.path(graph.file), options)
    costs = graph_costs(model, input_shapes(bundle.manifest, name, latents), options.compute or engine.compute)
    margin = CPU_ACTIVATION_MARGIN if engine.device == "cpu" else GPU_ACTIVATION_MARGIN
    activations = int(costs.activation_bytes * margin)
    return ComponentSizes(costs.weight_bytes, max(costs.largest_weights, default=0), activations)


def _by_files(bundle: Bundle, latents: tuple[int, int, int, int, int], reason: str) -> ClipSizes:
    """Return the sizes of the files of weights: less than what is needed, and all that is known."""
    manifest = bundle.manifest
    area, clip = math.prod(latents[3:]), math.prod(latents) * 4

    def decoder_of(height: int, width: int) -> ComponentSizes:
        sizes = [manifest.files[manifest.roles.graphs()[name].data].size for name in DECODER_GRAPHS]
        return ComponentSizes(sum(sizes), 0, clip * height * width // area)

    names = [TEXT_ENCODER, *manifest.roles.denoiser_names()]
    files = {name: manifest.files[manifest.roles.graphs()[name].data].size for name in names}
    components = {name: ComponentSizes(size, 0, clip) for name, size in files.items()}
    return ClipSizes(latents, {**components, DECODER: decoder_of(*latents[3:])}, decoder_of, reason)
