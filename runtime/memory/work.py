"""What a clip is to do: runs of each graph, arithmetic and traffic, counted from the graphs at the clip's shapes.

FLOPs are those of matrix products, convolutions and attention; bytes are what each node reads and writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...bundle.geometry import latent_shape
from ...bundle.manifest import Manifest, Quantization
from ...bundle.reader import Bundle
from ...engines.costs import GraphCosts, graph_costs
from ..denoise import pick_expert
from ..request import Request
from ..sampling.schedules import Schedule
from .shapes import input_shapes
from .sizes import Uses, decoder_graphs


@dataclass(frozen=True)
class Work:
    """What one clip's stage is: FLOPs, bytes that nodes read and write, the precision of its products as a key of limits."""

    flops: int
    bytes: int
    precision: str


def count_work(bundle: Bundle, request: Request) -> dict[str, Work]:
    """Return the work of a clip's stages `text`, `denoise` and `decode`, counted from the graphs at the clip's shapes.

    Raises EngineError where a graph cannot be told about, MissingExtraError where onnx is needed and not installed.
    """
    manifest = bundle.manifest
    latents = latent_shape(manifest.latent, request.width, request.height, request.frames)
    graphs = manifest.roles.graphs()

    def costs(name: str, shape: tuple[int, ...] = latents) -> GraphCosts:
        return graph_costs(bundle.path(graphs[name].file), input_shapes(manifest, name, shape))

    runs = count_runs(manifest, request)
    decoder = decoder_graphs(manifest, Uses(request.decoder))
    stages = {"text": ["text_encoder"], "denoise": manifest.roles.denoiser_names(), "decode": decoder}
    sizes = request.stages(manifest)
    work = {}
    for stage, names in stages.items():
        each = [(runs[name], costs(name)) for name in names if runs[name]]
        if stage == "denoise" and len(sizes) > 1:
            each = [
                (count, costs(name, size.shape))
                for size in sizes
                for name, count in _denoiser_runs(manifest, request, size.schedule).items()
            ]
        work[stage] = Work(
            sum(count * cost.flops for count, cost in each),
            sum(count * cost.bytes_moved for count, cost in each),
            precision_of(graphs[names[0]].quantization),
        )
    return work


def count_runs(manifest: Manifest, request: Request) -> dict[str, int]:
    """Return how often each graph runs for a clip."""
    roles = manifest.roles
    runs = dict.fromkeys(roles.graphs(), 0)
    runs["text_encoder"] = 1 + (max(request.guidances) > 1)
    latents = latent_shape(manifest.latent, request.width, request.height, request.frames)
    runs.update(zip(decoder_graphs(manifest, Uses(request.decoder)), (1, latents[2] - 1), strict=False))
    chunks = 1
    if manifest.stream is not None:
        chunks += max(0, -(-(latents[2] - manifest.stream.first) // manifest.stream.chunk))
        both = manifest.stream.negative_context == "own" and max(request.guidances) > 1
        runs["denoiser"] += (chunks - 1) * (1 + both) * (manifest.stream.window > 0)  # each but the last is remembered
    for stage in request.stages(manifest):
        for name, count in _denoiser_runs(manifest, request, stage.schedule).items():
            runs[name] += chunks * count
    return runs


def _denoiser_runs(manifest: Manifest, request: Request, schedule: Schedule) -> dict[str, int]:
    """Return how often each denoiser runs along these noise levels."""
    recipe, roles = request.chosen_recipe(manifest), manifest.roles
    runs: dict[str, int] = {}
    for timestep in schedule.timesteps:
        expert = pick_expert(roles.denoiser, float(timestep), recipe.train_timesteps, recipe.boundary)
        name = roles.denoiser_names()[expert]
        runs[name] = runs.get(name, 0) + 1 + (request.guidances[expert] > 1)
    return runs


def precision_of(quantization: Quantization | None) -> str:
    """Return the type that most of a graph's linears calculate in, as a key of limits."""
    if quantization is None or quantization.activations == "float" or not quantization.linears:
        return "float32"
    return max(quantization.linears, key=lambda kind: quantization.linears[kind])
