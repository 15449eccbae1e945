"""Which part of a bundle is held when, so that a run stays within a budget; decided before any work, from real sizes.

Parts that all fit stay open (`resident`). Where they do not, each is opened when its turn comes and closed after
(`swapped`). One that alone is too large has its weights fetched piece by piece at every run (`streamed`), or runs on the
processor (`cpu`) beside a GPU. A decoder whose activations are too large decodes tile by tile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import Any, Literal

from ...core.units import format_bytes
from ..decoding.tiling import DEFAULT_OVERLAP, Tile
from .budget import UNKNOWN, Budget
from .sizes import DECODER, ENCODER, IMAGE_ENCODER, TEXT_ENCODER, ClipSizes, ComponentSizes

Placement = Literal["resident", "swapped", "streamed", "cpu"]
OVERHEAD = {"cpu": 170 * 2**20, "gpu": 600 * 2**20}
"""What a process takes before it opens a graph: Python, the libraries and the video encoder, or a CUDA context."""

LEAST_TILE = DEFAULT_OVERLAP + 2
"""Side of the smallest tile in latents: below, almost everything is overlap."""
STREAMING_MARGIN = 1.25
"""Of a streamed component's weight budget: a part, an eighth of it, takes three times its size for a moment as it is opened."""
_PROCESS = {"cpu": "Python, libraries, video encoder", "gpu": "CUDA and its libraries"}
_TITLES = {
    TEXT_ENCODER: "the text encoder",
    ENCODER: "the encoder",
    IMAGE_ENCODER: "the image encoder",
    DECODER: "the decoder",
    "denoiser": "the denoiser",
}


@dataclass(frozen=True)
class ComponentPlan:
    """How one component is held. weight_budget: bytes of weights at once, where it is streamed."""

    placement: Placement
    weight_budget: int | None = None

    def held(self, sizes: ComponentSizes) -> int:
        """Return the bytes that weights take on the device while it works."""
        if self.placement == "cpu":
            return 0
        return sizes.weights if self.weight_budget is None else int(self.weight_budget * STREAMING_MARGIN)


@dataclass(frozen=True)
class MemoryPlan:
    """How every component is held for clips of one size.

    tile: how the decoder cuts pictures, None for not at all. window: how many latent frames the rear of a decoder of whole
    clips sees at a time, None for all.
    """

    sizes: ClipSizes = field(repr=False)
    budget: Budget
    device: Literal["cpu", "gpu"]
    components: dict[str, ComponentPlan]
    tile: Tile | None = None
    window: int | None = None

    @property
    def phases(self) -> dict[str, int]:
        """The bytes needed while each component works: its own, and what those hold that stay open beside it.

        These keep the memory of their activations for the next run: ONNX Runtime's arenas, TensorRT's contexts.
        """
        return {name: self._phase(name) for name in self.components}

    @property
    def peak(self) -> int:
        """The most bytes needed at any time."""
        return max(self.phases.values())

    @property
    def fits(self) -> bool:
        """Whether the plan stays within its budget."""
        return self.peak <= self.budget.bytes

    def sizes_of(self, name: str) -> ComponentSizes:
        """Return a component's sizes under this plan: the decoder's are those of a tile or window."""
        if name == DECODER and self.window is not None and self.sizes.within is not None:
            return self.sizes.within(self.window)
        if name == DECODER and self.tile is not None:
            return self.sizes.decoder_of(self.tile.height, self.tile.width)
        return self.sizes.components[name]

    def _phase(self, name: str) -> int:
        sizes, own = self.sizes_of(name), self.components[name]
        others = [
            self.sizes_of(other)
            for other, plan in self.components.items()
            if other != name and plan.placement == "resident"
        ]
        beside = sum(other.weights + other.activations for other in others)
        activations = 0 if own.placement == "cpu" else sizes.activations
        return OVERHEAD[self.device] + self.sizes.context + beside + own.held(sizes) + activations

    def place(self, name: str, plan: ComponentPlan) -> MemoryPlan:
        """Return this plan with a component held in another way."""
        return replace(self, components={**self.components, name: plan})

    def swap_all(self) -> MemoryPlan:
        """Return this plan with nothing kept open that is not working."""
        swapped = ComponentPlan("swapped")
        return replace(
            self,
            components={
                name: swapped if plan.placement == "resident" else plan for name, plan in self.components.items()
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data, sizes in bytes."""
        parts = {
            name: {
                "placement": plan.placement,
                "weights": self.sizes.components[name].weights,
                "held": plan.held(self.sizes_of(name)),
                "activations": self.sizes_of(name).activations,
                "needed": self._phase(name),
            }
            for name, plan in self.components.items()
        }
        tile = None if self.tile is None else [self.tile.height, self.tile.width, self.tile.overlap]
        return {
            "device": self.device,
            "budget": self.budget.bytes,
            "budget_is": self.budget.source,
            "peak": self.peak,
            "fits": self.fits,
            "components": parts,
            "tile": tile,
            "window": self.window,
            "context": self.sizes.context,
            "unknown": self.sizes.unknown,
        }


def plan_memory(sizes: ClipSizes, budget: Budget, device: Literal["cpu", "gpu"] = "cpu") -> MemoryPlan:
    """Return the plan that fits the budget and costs the least time; where none fits, the one that needs the least.

    Components leave memory in the order in which keeping them open saves least: the text encoder works once a clip.
    """
    plan = MemoryPlan(sizes, budget, device, {name: ComponentPlan("resident") for name in sizes.components})
    first = [name for name in (IMAGE_ENCODER, ENCODER, TEXT_ENCODER, DECODER) if name in sizes.components]
    for name in (*first, *(name for name in sizes.components if name not in first)):
        if plan.fits:
            return plan
        plan = plan.place(name, ComponentPlan("swapped"))
    for name in sizes.components:
        if plan.phases[name] > budget.bytes:
            plan = _within(plan, name)
    return plan


def _within(plan: MemoryPlan, name: str) -> MemoryPlan:
    """Return the plan under which a component that works alone takes as much as the budget leaves, or the least it can."""
    for streamed in _streamed(plan, name, [_left(plan, name)]):
        return streamed
    ways = list(_smaller(plan, name)) or [plan]
    # What a tile takes is counted from graphs, so that not all are tried.
    return ways[min(bisect_left(ways, True, key=lambda way: way.phases[name] <= plan.budget.bytes), len(ways) - 1)]


def step_down(plan: MemoryPlan, name: str) -> MemoryPlan | None:
    """Return the next plan that needs less memory while a component works, None where there is none.

    First nothing else is kept open, then the component itself takes less: half of its weights at a time, smaller tiles,
    at last the processor.
    """
    swapped = plan.swap_all()
    if swapped != plan:
        return swapped
    return next((way for way in _smaller(plan, name) if way.phases[name] < plan.phases[name]), None)


def _smaller(plan: MemoryPlan, name: str) -> Iterator[MemoryPlan]:
    """Yield plans under which a component takes less and less."""
    if name == DECODER and plan.sizes.whole_clips:
        yield from (replace(plan, window=window) for window in plan.sizes.windows)
    elif name == DECODER:
        for tile in tile_sizes(*plan.sizes.latents[3:]):
            yield replace(plan, tile=tile)
    else:
        sizes = plan.sizes_of(name)
        halves = takewhile(lambda budget: budget > sizes.largest_weight, (sizes.weights >> n for n in count(1)))
        yield from _streamed(plan, name, [*halves, sizes.largest_weight])
    if plan.device == "gpu":
        whole = replace(plan, tile=None, window=None) if name == DECODER else plan
        yield whole.place(name, ComponentPlan("cpu"))


def tile_sizes(height: int, width: int) -> Iterator[Tile]:
    """Yield ever smaller tiles for pictures of height x width latents: one more along the longer side each time."""
    rows, columns = 1, 1
    last = (height, width)
    while min(last) >= LEAST_TILE:
        if last != (height, width):
            yield Tile(*last)
        tile = last
        while tile == last:  # one tile more does not always make them smaller
            if max(last) < LEAST_TILE + 1:
                return
            rows, columns = (rows, columns + 1) if last[1] >= last[0] else (rows + 1, columns)
            tile = (_side(height, rows), _side(width, columns))
        last = tile


def _side(length: int, tiles: int) -> int:
    """Return the least side of that many tiles that cover a length and overlap."""
    return -(-(length + (tiles - 1) * DEFAULT_OVERLAP) // tiles)


def _streamed(plan: MemoryPlan, name: str, weight_budgets: list[int]) -> Iterator[MemoryPlan]:
    """Yield plans under which a component's weights are fetched piece by piece; a decoder's are too few for that."""
    sizes = plan.sizes_of(name)
    for weight_budget in weight_budgets:
        if name != DECODER and 0 < sizes.largest_weight <= weight_budget < sizes.weights / STREAMING_MARGIN:
            yield plan.place(name, ComponentPlan("streamed", weight_budget))


def _left(plan: MemoryPlan, name: str) -> int:
    """Return what a component that works alone may hold of its weights."""
    taken = OVERHEAD[plan.device] + plan.sizes.context + plan.sizes_of(name).activations
    return int((plan.budget.bytes - taken) / STREAMING_MARGIN)


def describe_step(before: MemoryPlan, after: MemoryPlan, name: str) -> str:
    """Return in words what changed when memory ran out while a component worked."""
    title = _TITLES.get(name, name.replace("_", " "))
    own = after.components[name]
    if after.tile != before.tile and after.tile is not None:
        what = f"pictures are decoded in tiles of {after.tile.height}x{after.tile.width} latents"
    elif after.window != before.window and after.window is not None:
        what = f"pictures are decoded in windows of {after.window} latent frames"
    elif own.placement == "streamed" and own.weight_budget is not None:
        what = f"{title} is streamed, {format_bytes(own.weight_budget)} of weights at a time"
    elif own.placement == "cpu":
        what = f"{title} runs on the processor"
    else:
        what = "nothing is kept open that is not working"
    return f"out of memory in {title}: {what}"


def describe_plan(plan: MemoryPlan) -> list[str]:
    """Return a plan as lines of text, one for each component."""
    needs = f"needs {format_bytes(plan.peak)}"
    unlimited = plan.budget.bytes >= UNKNOWN
    budget = "" if unlimited else f" of {format_bytes(plan.budget.bytes)} ({plan.budget.source})"
    lines = [f"memory       {needs}{budget}{'' if plan.fits else ': does not fit'}"]
    if plan.sizes.unknown:
        lines.append(f"  counted    weights alone: {plan.sizes.unknown}")
    lines.append(f"  {'process':<12} {format_bytes(OVERHEAD[plan.device])}: {_PROCESS[plan.device]}, whatever runs")
    if plan.sizes.context:
        lines.append(f"  {'context':<12} {format_bytes(plan.sizes.context)}: what a stream remembers, whatever runs")
    for name, own in plan.components.items():
        sizes = plan.sizes_of(name)
        weights = format_bytes(sizes.weights)
        if own.weight_budget is not None:
            weights = f"{format_bytes(own.weight_budget)} of {weights}"
        tiled = name == DECODER and plan.tile is not None
        tile = f", in tiles of {plan.tile.height}x{plan.tile.width} latents" if tiled and plan.tile else ""
        if name == DECODER and plan.window is not None:
            tile = f", in windows of {plan.window} latent frames"
        lines.append(
            f"  {name:<12} {own.placement}: weights {weights}, activations {format_bytes(sizes.activations)}{tile}, "
            f"{format_bytes(plan.phases[name])} in all"
        )
    return lines
