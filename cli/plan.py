"""Commands that prepare for a device: what would fit into it, and the engines built for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError, one_line
from ..core.interrupts import interrupts_wait
from .application import app
from .options import DecoderOption, EngineOption, JsonOption, MemoryOption, parse_size, reel_options
from .terminal import print_json, show_plan, stage_progress

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
    bundle: Annotated[Path | None, typer.Argument(help="The .reel folder; the built-in demo if left out.")] = None,
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
    bundle: Annotated[Path | None, typer.Argument(help="The .reel folder; the built-in demo if left out.")] = None,
    engine: EngineOption = "auto",
    target: Annotated[
        str | None,
        typer.Option(help="With --dry-run: what to lower the graphs for, such as tensorrt-10.3, tensorrt-rtx or cuda."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built; no device is needed.")] = False,
    compute: Annotated[str, typer.Option(help="With --dry-run: float16, bfloat16 or float32.")] = "float16",
    size: SizeOption = None,
    frames: FramesOption = None,
    memory: MemoryOption = None,
    compute_capability: CapabilityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the engines for clips of a size and length, so that the first clip need not wait for them."""
    pixels = None if size is None else parse_size(size)
    if dry_run:
        _show_build(bundle, target, compute, pixels, frames, memory, compute_capability, as_json)
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
    if compute not in ("float16", "bfloat16", "float32"):
        raise UsageError(f"--compute {compute}: choose float16, bfloat16 or float32")
    with stage_progress() as progress:
        shown = show_build(
            bundle,
            target,
            compute=compute,  # type: ignore[arg-type]
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
