"""Commands that prepare for a device: what would fit into it, and the engines built for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError, one_line
from ..core.interrupts import interrupts_wait
from .application import app
from .options import DecoderOption, EngineOption, JsonOption, MemoryOption, parse_size, reel_options
from .terminal import print_json, show_plan, stage_progress

if TYPE_CHECKING:
    from ..engines.options import Compute

SizeOption = Annotated[
    str | None, typer.Option(metavar="WxH", help="Picture size in pixels; the bundle's if left out.")
]
FramesOption = Annotated[int | None, typer.Option(help="Number of frames; the bundle's if left out.")]
CapabilityOption = Annotated[
    str | None,
    typer.Option(metavar="X.Y", help="Plan for an NVIDIA GPU of this compute capability, such as 8.9, with --memory."),
]


@app.command()
def plan(
    bundle: Annotated[
        Path | None, typer.Argument(help="The .reel folder or a model's name; the built-in demo if left out.")
    ] = None,
    size: SizeOption = None,
    frames: FramesOption = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Clips begin with pictures: count what encodes them too.")
    ] = False,
    decoder: DecoderOption = None,
    memory: MemoryOption = None,
    compute_capability: CapabilityOption = None,
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show what would be held in memory when, for clips of a size and length; 1 if they do not fit, with what would."""
    with interrupts_wait():
        from ..runtime.memory.fit import plan_bundle
        from ..runtime.memory.plan import describe_plan
        from ..runtime.memory.sizes import Uses

    pixels = None if size is None else parse_size(size)
    with stage_progress() as progress:
        found = plan_bundle(
            bundle,
            size=pixels,
            frames=frames,
            memory=memory,
            engine=engine,
            compute_capability=compute_capability,
            uses=Uses(decoder, pictures),
            on_progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print("\n".join(one_line(line) for line in describe_plan(found)))


@app.command()
def build(
    bundle: Annotated[
        Path | None, typer.Argument(help="The .reel folder or a model's name; the built-in demo if left out.")
    ] = None,
    engine: EngineOption = "auto",
    target: Annotated[
        str | None,
        typer.Option(help="With --dry-run: what to lower the graphs for, such as tensorrt-10.3, tensorrt-rtx or cuda."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built; no device is needed.")] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Show what the engine's compiler makes of each graph: attention, types of products, fusions, memory. "
            "With --engine rtx and --compute-capability no card is needed.",
        ),
    ] = False,
    compute: Annotated[
        str, typer.Option(help="With --dry-run and --explain: float16, bfloat16 or float32.")
    ] = "float16",
    size: SizeOption = None,
    frames: FramesOption = None,
    memory: MemoryOption = None,
    compute_capability: CapabilityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the engines for clips of a size and length, so that the first clip need not wait for them."""
    pixels = None if size is None else parse_size(size)
    if dry_run and explain:
        raise UsageError("--dry-run compiles nothing, and --explain tells what was compiled: leave one out")
    if dry_run:
        _show_build(bundle, target, compute, pixels, frames, memory, compute_capability, as_json)
        return
    if explain:
        _explain_build(bundle, engine, target, compute, pixels, frames, memory, compute_capability, as_json)
        return
    if target is not None or compute_capability is not None:
        raise UsageError(
            "--target and --compute-capability are for --dry-run: what is built is for this device (--engine)"
        )
    with interrupts_wait():
        from ..runtime.prepare import build_engines

    options = reel_options(engine, None, memory, as_json)
    with stage_progress() as progress, options.open(bundle, progress) as reel:
        result = build_engines(reel, pixels, frames, progress)
    if as_json:
        print_json(result)
    for name, graph in [] if as_json else result["graphs"].items():
        made = f"engine {graph['build']}" if graph["build"] else f"graph {graph['lowered']}"
        print(f"{name:<14} {graph['provider']}, {graph['precision']}, {made}")


def _show_build(
    bundle: Path | None,
    target: str | None,
    compute: str,
    size: tuple[int, int] | None,
    frames: int | None,
    memory: str | None,
    compute_capability: str | None,
    as_json: bool,
) -> None:
    """Print what would be built for a target, on whatever machine this is."""
    with interrupts_wait():
        from ..runtime.prepare import describe_build, show_build

    if target is None:
        raise UsageError("--dry-run needs a --target, such as tensorrt-10.3, tensorrt-rtx or cuda")
    with stage_progress() as progress:
        shown = show_build(
            bundle,
            target,
            compute=_compute(compute),
            size=size,
            frames=frames,
            memory=memory,
            compute_capability=compute_capability,
            on_plan=show_plan(as_json, True),
            on_progress=progress,
        )
    if as_json:
        print_json(shown)
    else:
        print("\n".join(one_line(line) for line in describe_build(shown)))


def _explain_build(
    bundle: Path | None,
    engine: str,
    target: str | None,
    compute: str,
    size: tuple[int, int] | None,
    frames: int | None,
    memory: str | None,
    compute_capability: str | None,
    as_json: bool,
) -> None:
    """Print what an engine's compiler makes of a bundle."""
    with interrupts_wait():
        from ..engines.compiled.facts import describe_compiled
        from ..runtime.prepare import explain_build

    if target is not None or memory is not None:
        raise UsageError("--target and --memory are not for --explain: choose --engine rtx or tensorrt")
    with stage_progress() as progress:
        told = explain_build(
            bundle,
            engine,
            compute=_compute(compute),
            size=size,
            frames=frames,
            compute_capability=compute_capability,
            on_progress=progress,
        )
    if as_json:
        print_json({**told, "graphs": {name: graph.to_json() for name, graph in told["graphs"].items()}})
        return
    for name, graph in told["graphs"].items():
        print("\n".join(one_line(line) for line in describe_compiled(name, graph)))


def _compute(text: str) -> Compute:
    kinds: tuple[Compute, ...] = ("float32", "float16", "bfloat16")
    found = next((kind for kind in kinds if kind == text), None)
    if found is None:
        raise UsageError(f"--compute {text}: choose float16, bfloat16 or float32")
    return found
