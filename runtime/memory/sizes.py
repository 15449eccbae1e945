"""How much memory each part of a bundle takes for a clip, from the graphs themselves.

A part (component) is what is opened and closed together: the text encoder, each denoiser, the encoder of pictures and the
decoder with their two graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...bundle.geometry import latent_shape
from ...bundle.manifest import Manifest
from ...bundle.reader import Bundle
from ...bundle.roles import DECODER_ROLES
from ...core.errors import BundleError, EngineError, MissingExtraError, UsageError
from ...engines import Engine, EngineOptions, Part
from ...engines.costs import CPU_ACTIVATION_MARGIN, GraphCosts, graph_costs
from ..decoding.windows import window_sizes
from .shapes import input_shapes, part_extents, shapes_of, window_of

TEXT_ENCODER, ENCODER, IMAGE_ENCODER, DECODER = "text_encoder", "encoder", "image_encoder", "decoder"
ENCODER_GRAPHS = ("encoder_first", "encoder_next")
WEIGHTS_ALONE_MARGIN = 1.75
"""What ONNX Runtime's CPU provider takes for one byte of weights where they alone are quantized: it repacks them at opening, and
unpacks as it runs. 1.63 was measured on a text encoder of UMT5-XXL's size in int8."""
GPU_ACTIVATION_MARGIN = 1.3
"""What is set aside on a GPU for one byte of activations: workspace of convolutions, and what allocators lose.

For 81 frames of Wan 2.1 1.3B at 832x480, NVIDIA's TensorRT-RTX compiler takes 1.0 to 1.2 for the denoiser and the decoder,
inputs and outputs included, and 1.7 for the text encoder, where it is little. ONNX Runtime's CUDA provider took 1.05 for the
denoiser and 1.24 for the decoder's two graphs together, its allocations counted without a card and without cuDNN's workspace
(docs/hardware.md). Not measured on a card.
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
class Uses:
    """What of a bundle a clip needs beside what every clip does: which decoder, None for the default; whether pictures go in."""

    decoder: str | None = None
    pictures: bool = False


PlanKey = tuple[tuple[int, ...], Uses]


@dataclass(frozen=True)
class ClipSizes:
    """All components' sizes for latents [1, C, F, H, W].

    decoder_of: the decoder's where it decodes tiles of (height, width) in latent units, its front whole pictures. unknown: why
    the graphs could not be analysed ("" where they were): then only weights are counted. uses: what of the bundle is used.
    context: what a stream remembers, which is held whatever works. decoder_flops: of all of a clip's decoding. whole_clips:
    whether the decoder takes a clip at once, which is cut into windows instead of tiles; windows: how many latent frames
    its rear may see at a time, the most first; within: its sizes then.
    """

    latents: tuple[int, int, int, int, int]
    components: dict[str, ComponentSizes]
    decoder_of: Callable[[int, int], ComponentSizes]
    unknown: str = ""
    uses: Uses = Uses()
    context: int = 0
    whole_clips: bool = False
    decoder_flops: int = 0
    windows: tuple[int, ...] = ()
    within: Callable[[int], ComponentSizes] | None = None

    @property
    def key(self) -> PlanKey:
        """What tells the plan of such clips from others'."""
        return self.latents, self.uses


def component_of(graph: str) -> str:
    """Return the component that a graph (see Roles.graphs) belongs to."""
    if graph in ENCODER_GRAPHS:
        return ENCODER
    return DECODER if graph.endswith(DECODER_ROLES) else graph


def context_size(manifest: Manifest, latents: tuple[int, ...]) -> int:
    """Return the bytes of one context of a stream, 0 for a bundle that makes none."""
    if manifest.stream is None:
        return 0
    denoiser = manifest.roles.denoiser[0]
    shapes = input_shapes(manifest, "denoiser", latents)
    return sum(math.prod(shapes[name]) * np.dtype(denoiser.inputs[name].dtype).itemsize for name in denoiser.context)


def contexts_of(manifest: Manifest) -> int:
    """Return how many contexts a stream may have: the negative prompt of guided recipes has one of its own."""
    stream = manifest.stream
    if stream is None or stream.negative_context == "shared":
        return int(stream is not None)
    guided = any(max([recipe.guidance, *(recipe.expert_guidance or [])]) > 1 for recipe in manifest.recipes)
    return 1 + guided


def clip_sizes(
    bundle: Bundle,
    width: int,
    height: int,
    frames: int,
    engine: Engine,
    options: EngineOptions,
    *,
    only_decoder: bool = False,
    uses: Uses = Uses(),
) -> ClipSizes:
    """Return what a clip of this many pixels and frames takes on an engine, which need not be able to run here.

    only_decoder: leave the other components out. Raises GeometryError where the model cannot do the size.
    """
    latents = latent_shape(bundle.manifest.latent, width, height, frames)
    try:
        sizes = _analysed(bundle, latents, engine, options, only_decoder, uses)
    except (MissingExtraError, BundleError, EngineError, ValueError) as error:
        sizes = _by_files(bundle, latents, str(error), uses)
    if only_decoder:
        return replace(sizes, components={DECODER: sizes.components[DECODER]}, uses=uses)
    return replace(sizes, uses=uses, context=contexts_of(bundle.manifest) * context_size(bundle.manifest, latents))


def decoder_graphs(manifest: Manifest, uses: Uses) -> list[str]:
    """Return the names of the graphs of the decoder that is used: of its first latent frame and of the others, or of all."""
    name = manifest.decoder_name(uses.decoder)
    if name is None:
        raise UsageError(
            f"this bundle has no decoder {uses.decoder!r}: choose from {', '.join(manifest.roles.decoders_by_name)}"
        )
    return list(manifest.roles.decoder_names(name).values())


def streaming_graphs(manifest: Manifest, uses: Uses) -> tuple[str, str]:
    """Return the names of the graphs of a decoder that takes one latent frame after the other. Raises BundleError."""
    names = decoder_graphs(manifest, uses)
    if len(names) != 2:
        raise BundleError(f"{names[0]} decodes a clip as a whole, so that nothing can be shown before its end")
    return names[0], names[1]


def _component_graphs(manifest: Manifest, uses: Uses) -> dict[str, list[str]]:
    """Return the graphs of each component that is used, the decoder last."""
    roles = manifest.roles
    found = {TEXT_ENCODER: [TEXT_ENCODER]}
    if uses.pictures:
        found[ENCODER] = list(ENCODER_GRAPHS)
        if roles.image_encoder is not None:
            found[IMAGE_ENCODER] = [IMAGE_ENCODER]
    found |= {name: [name] for name in roles.denoiser_names()}
    return found | {DECODER: decoder_graphs(manifest, uses)}


def _analysed(
    bundle: Bundle,
    latents: tuple[int, int, int, int, int],
    engine: Engine,
    options: EngineOptions,
    only_decoder: bool,
    uses: Uses,
) -> ClipSizes:
    counted = _Counted(bundle, engine, options)
    graphs = _component_graphs(bundle.manifest, uses)
    names = [DECODER] if only_decoder else list(graphs)
    components = {name: counted.together(graphs[name], latents) for name in names}

    @lru_cache
    def front_of() -> ComponentSizes:
        return counted.together(graphs[DECODER], latents, "front")

    @lru_cache
    def decoder_of(height: int, width: int) -> ComponentSizes:
        rear = counted.together(graphs[DECODER], (*latents[:3], height, width), "rear")
        return rear if "latent" in counted.inputs(graphs[DECODER][0], "rear") else _both(front_of(), rear)

    @lru_cache
    def within(frames: int) -> ComponentSizes:
        rear = counted.together(graphs[DECODER], (*latents[:2], frames, *latents[3:]), "rear")
        return _both(front_of(), rear)

    whole = len(graphs[DECODER]) == 1
    windows = _windows(counted.path(graphs[DECODER][0]), latents[2]) if whole else ()
    runs = dict(zip(graphs[DECODER], (1, latents[2] - 1), strict=False))
    return ClipSizes(
        latents,
        components,
        decoder_of,
        whole_clips=whole,
        decoder_flops=sum(count * counted.flops(name, latents) for name, count in runs.items()),
        windows=windows,
        within=within,
    )


def _windows(decoder: Path, frames: int) -> tuple[int, ...]:
    """Return the windows that a clip can be decoded in; none where the graph cannot be cut."""
    try:
        return tuple(window_sizes(frames, window_of(decoder)))
    except EngineError:
        return ()


def _both(front: ComponentSizes, rear: ComponentSizes) -> ComponentSizes:
    """Return the sizes of a decoder's parts together.

    The front stays open, and what an arena has taken for its activations it does not give back.
    """
    return ComponentSizes(
        front.weights + rear.weights,
        max(front.largest_weight, rear.largest_weight),
        front.activations + rear.activations,
    )


class _Counted:
    """The sizes of a bundle's graphs and of their parts, as an engine runs them."""

    def __init__(self, bundle: Bundle, engine: Engine, options: EngineOptions) -> None:
        self._bundle, self._engine, self._options = bundle, engine, options
        self._counted: dict[tuple[str, tuple[int, ...], Part | None], GraphCosts] = {}

    def inputs(self, name: str, part: Part) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each input of a part of a graph, in the extents' names."""
        return part_extents(self.path(name), part)

    def flops(self, name: str, latents: tuple[int, ...]) -> int:
        """Return the FLOPs of one run of a whole graph for latents of a shape."""
        return self._costs(name, latents, None).flops

    def sizes(self, name: str, latents: tuple[int, ...], part: Part | None = None) -> ComponentSizes:
        """Return the sizes of a graph or of a part of it for latents of a shape."""
        manifest = self._bundle.manifest
        activations = manifest.roles.graphs()[name].activations or "float"
        costs = self._costs(name, latents, part)
        # A context is held, and counted, for as long as the stream goes on.
        context = context_size(manifest, latents) if component_of(name) in manifest.roles.denoiser_names() else 0
        margin = CPU_ACTIVATION_MARGIN if self._engine.device == "cpu" else GPU_ACTIVATION_MARGIN
        margin *= 1 if component_of(name) == DECODER else self._engine.blocks_lost
        largest = max(costs.largest_weights, default=0)
        quantized = manifest.roles.graphs()[name].quantization is not None
        alone = self._engine.device == "cpu" and quantized and activations == "float"
        weights = int(costs.weight_bytes * (WEIGHTS_ALONE_MARGIN if alone else 1))
        return ComponentSizes(weights, largest, int(max(0, costs.activation_bytes - context) * margin))

    def _costs(self, name: str, latents: tuple[int, ...], part: Part | None) -> GraphCosts:
        key = (name, latents, part)
        if key not in self._counted:
            self._counted[key] = self._count(name, latents, part)
        return self._counted[key]

    def _count(self, name: str, latents: tuple[int, ...], part: Part | None) -> GraphCosts:
        manifest = self._bundle.manifest
        activations = manifest.roles.graphs()[name].activations or "float"
        model = self._engine.graph_to_run(self.path(name), replace(self._options, activations=activations, part=part))
        if part is None:
            shapes = input_shapes(manifest, name, latents)
        else:
            shapes = shapes_of(manifest, name, latents, self.inputs(name, part))
        return graph_costs(model, shapes, self._options.compute or self._engine.compute)

    def together(self, names: Sequence[str], latents: tuple[int, ...], part: Part | None = None) -> ComponentSizes:
        """Return the sizes of all of a component's graphs, or of that part of each, which are open together and run in turn.

        The first graph's arena, or its context, stays beside the other's.
        """
        sizes = [self.sizes(name, latents, part) for name in names]
        return ComponentSizes(
            weights=sum(size.weights for size in sizes),
            largest_weight=max(size.largest_weight for size in sizes),
            activations=sum(size.activations for size in sizes),
        )

    def path(self, name: str) -> Path:
        """Return the file of a graph."""
        return self._bundle.path(self._bundle.manifest.roles.graphs()[name].file)


def _by_files(bundle: Bundle, latents: tuple[int, int, int, int, int], reason: str, uses: Uses) -> ClipSizes:
    """Return the sizes of the files of weights: less than what is needed, and all that is known."""
    manifest = bundle.manifest
    area, clip = math.prod(latents[3:]), math.prod(latents) * 4
    graphs, named = _component_graphs(manifest, uses), manifest.roles.graphs()
    files = {part: sum(manifest.files[named[name].data].size for name in names) for part, names in graphs.items()}

    def decoder_of(height: int, width: int) -> ComponentSizes:
        return ComponentSizes(files[DECODER], 0, clip * height * width // area)

    components = {name: ComponentSizes(size, 0, clip) for name, size in files.items()}
    return ClipSizes(latents, components, decoder_of, reason, whole_clips=len(graphs[DECODER]) == 1)
