"""How much memory each part of a bundle takes for a clip, from the graphs themselves.

A part (component) is what is opened and closed together: the text encoder, each denoiser, the decoder with its two graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ...bundle.geometry import latent_shape
from ...bundle.reader import Bundle
from ...core.errors import BundleError, EngineError, MissingExtraError
from ...engines import Engine, EngineOptions, Part
from ...engines.costs import CPU_ACTIVATION_MARGIN, graph_costs
from .shapes import input_shapes, part_extents, shapes_of

TEXT_ENCODER, DECODER = "text_encoder", "decoder"
DECODER_GRAPHS = ("decoder_first", "decoder_next")
WEIGHTS_ALONE_MARGIN = 1.75
"""What ONNX Runtime's CPU provider takes for one byte of weights where they alone are quantized: it repacks them at opening, and
unpacks as it runs. 1.63 was measured on a text encoder of UMT5-XXL's size in int8."""
GPU_ACTIVATION_MARGIN = 1.5
"""What is set aside on a GPU for one byte of activations: workspace of convolutions, and what allocators lose.

NVIDIA's TensorRT-RTX compiler takes 1.0 to 1.2 for 81 frames of Wan 2.1 1.3B's denoiser and decoder, inputs and outputs
included, and 1.7 for its text encoder, where it is little (docs/hardware.md). Not measured on a card, nor with ONNX
Runtime's CUDA provider.
"""


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

    decoder_of: the decoder's where it decodes tiles of (height, width) in latent units, its front whole pictures. unknown: why
    the graphs could not be analysed ("" where they were): then only weights are counted.
    """

    latents: tuple[int, int, int, int, int]
    components: dict[str, ComponentSizes]
    decoder_of: Callable[[int, int], ComponentSizes]
    unknown: str = ""


def component_of(graph: str) -> str:
    """Return the component that a graph (see Roles.graphs) belongs to."""
    return DECODER if graph in DECODER_GRAPHS else graph


def clip_sizes(
    bundle: Bundle,
    width: int,
    height: int,
    frames: int,
    engine: Engine,
    options: EngineOptions,
    *,
    only_decoder: bool = False,
) -> ClipSizes:
    """Return what a clip of this many pixels and frames takes on an engine, which need not be able to run here.

    only_decoder: leave the other components out. Raises GeometryError where the model cannot do the size.
    """
    latents = latent_shape(bundle.manifest.latent, width, height, frames)
    try:
        sizes = _analysed(bundle, latents, engine, options, only_decoder)
    except (MissingExtraError, BundleError, EngineError, ValueError) as error:
        sizes = _by_files(bundle, latents, str(error))
    return replace(sizes, components={DECODER: sizes.components[DECODER]}) if only_decoder else sizes


def _analysed(
    bundle: Bundle, latents: tuple[int, int, int, int, int], engine: Engine, options: EngineOptions, only_decoder: bool
) -> ClipSizes:
    counted = _Counted(bundle, engine, options)
    names = [] if only_decoder else [TEXT_ENCODER, *bundle.manifest.roles.denoiser_names()]
    components = {name: counted.sizes(name, latents) for name in names}
    components[DECODER] = counted.decoder(latents)

    @lru_cache
    def front_of() -> ComponentSizes:
        return counted.decoder(latents, "front")

    @lru_cache
    def decoder_of(height: int, width: int) -> ComponentSizes:
        rear = counted.decoder((*latents[:3], height, width), "rear")
        if "latent" in counted.inputs(DECODER_GRAPHS[0], "rear"):
            return rear
        front = front_of()
        # The front stays open, and what an arena has taken for its activations it does not give back.
        return ComponentSizes(
            front.weights + rear.weights,
            max(front.largest_weight, rear.largest_weight),
            front.activations + rear.activations,
        )

    return ClipSizes(latents, components, decoder_of)


class _Counted:
    """The sizes of a bundle's graphs and of their parts, as an engine runs them."""

    def __init__(self, bundle: Bundle, engine: Engine, options: EngineOptions) -> None:
        self._bundle, self._engine, self._options = bundle, engine, options

    def inputs(self, name: str, part: Part) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each input of a part of a graph, in the extents' names."""
        return part_extents(self._path(name), part)

    def sizes(self, name: str, latents: tuple[int, ...], part: Part | None = None) -> ComponentSizes:
        """Return the sizes of a graph or of a part of it for latents of a shape."""
        manifest = self._bundle.manifest
        activations = manifest.roles.graphs()[name].activations or "float"
        model = self._engine.graph_to_run(self._path(name), replace(self._options, activations=activations, part=part))
        if part is None:
            shapes = input_shapes(manifest, name, latents)
        else:
            shapes = shapes_of(manifest, name, latents, self.inputs(name, part))
        costs = graph_costs(model, shapes, self._options.compute or self._engine.compute)
        margin = CPU_ACTIVATION_MARGIN if self._engine.device == "cpu" else GPU_ACTIVATION_MARGIN
        largest = max(costs.largest_weights, default=0)
        quantized = manifest.roles.graphs()[name].quantization is not None
        alone = self._engine.device == "cpu" and quantized and activations == "float"
        weights = int(costs.weight_bytes * (WEIGHTS_ALONE_MARGIN if alone else 1))
        return ComponentSizes(weights, largest, int(costs.activation_bytes * margin))

    def decoder(self, latents: tuple[int, ...], part: Part | None = None) -> ComponentSizes:
        """Return the sizes of both of the decoder's graphs, or of that part of both, which are open together and run in turn.

        On the processor the first graph's arena stays beside the other's; a GPU's margin is wide enough for that.
        """
        first, following = (self.sizes(name, latents, part) for name in DECODER_GRAPHS)
        combined = sum if self._engine.device == "cpu" else max
        return ComponentSizes(
            weights=first.weights + following.weights,
            largest_weight=max(first.largest_weight, following.largest_weight),
            activations=combined((first.activations, following.activations)),
        )

    def _path(self, name: str) -> Path:
        return self._bundle.path(self._bundle.manifest.roles.graphs()[name].file)


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
