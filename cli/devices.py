"""Commands about the device: what would fit into it, what is built for it, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError, one_line
from ..core.interrupts import interrupts_wait
from .application import app
from .options import EngineOption, JsonOption, MemoryOption, parse_size, reel_options
from .terminal import print_cache, print_json, show_plan, stage_progress

cache = typer.Typer(help="What is kept in the user's cache folder: built engines, lowered graphs, embeddings.")
app.add_typer(cache, name="cache")

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
    memory: MemoryOption = None,
    compute_capability: CapabilityOption = None,
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show what would be held in memory when, for clips of a size and length; 1 if they do not fit, with what would."""
    with interrupts_wait():
        from ..runtime.memory.plan import describe_plan
        from ..runtime.planning import plan_bundle

    pixels = None if size is None else parse_size(size)
    with stage_progress() as progress:
        found = plan_bundle(
            bundle,
            size=pixels,
            frames=frames,
            memory=memory,
            engine=engine,
            compute_capability=compute_capability,
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
    with interrupts_wait():
        from ..runtime.prepare import build_engines, describe_build, show_build

    pixels = None if size is None else parse_size(size)
    if not dry_run:
        if target is not None or compute_capability is not None:
            raise UsageError(
                "--target and --compute-capability are for --dry-run: what is built is for this device (--engine)"
            )
        options = reel_options(engine, None, memory, as_json)
        with stage_progress() as progress, options.open(bundle, progress) as reel:
            result = build_engines(reel, pixels, frames, progress)
        if as_json:
            print_json(result)
        for name, graph in [] if as_json else result["graphs"].items():
            made = f"engine {graph['build']}" if graph["build"] else f"graph {graph['lowered']}"
            print(f"{name:<14} {graph['provider']}, {graph['precision']}, {made}")
        return
    if target is None:
        raise UsageError("--dry-run needs a --target, such as tensorrt-10.3, tensorrt-rtx or cuda")
    if compute not in ("float16", "bfloat16", "float32"):
        raise UsageError(f"--compute {compute}: choose float16, bfloat16 or float32")
    with stage_progress() as progress:
        shown = show_build(
            bundle,
            target,
            compute=compute,  # type: ignore[arg-type]
            size=pixels,
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


@cache.command("ls")
def list_cache(as_json: JsonOption = False) -> None:
    """Show what the cache holds, and each built engine."""
    with interrupts_wait():
        from ..bundle.reader import hashes_path
        from ..engines.cache.engines import EngineCache
        from ..engines.cache.parts import CachePart, cache_parts

    parts, path = cache_parts(), hashes_path()
    if path.is_file():
        parts.append(CachePart(path.name, path, path.stat().st_size, 1, ours=True))
    print_cache(parts, EngineCache().list_entries(), as_json)


@cache.command("rm")
def remove_from_cache(
    engines: Annotated[list[str] | None, typer.Argument(help="Built engines, by the beginning of their names.")] = None,
    part: Annotated[
        str | None, typer.Option(help="Everything of one kind: engines, lowered, embeddings, costs or timings.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove built engines or other kept things; what is in use stays."""
    with interrupts_wait():
        from ..bundle.reader import forget_hashes
        from ..engines.cache.engines import EngineCache
        from ..engines.cache.parts import cache_parts, clear_part

    if sum((bool(engines), part is not None, everything)) != 1:
        raise UsageError("say what to remove: engines by name, --part KIND, or --all")
    if engines:
        freed = EngineCache().remove(engines)
    else:
        parts = [found.name for found in cache_parts() if found.ours] if part is None else [part]
        freed = sum(clear_part(name) for name in parts) + (forget_hashes() if everything else 0)
    if as_json:
        print_json({"freed": freed})
    else:
        print(f"{freed / 1e6:.1f} MB freed")


@cache.command("verify")
def verify_cache(as_json: JsonOption = False) -> None:
    """Hash every built engine again; 1 if one is not as it was built. A damaged one is built again when it is needed."""
    with interrupts_wait():
        from ..engines.cache.engines import EngineCache

    found = EngineCache().verify()
    problems = {entry.digest: problem for entry, problem in found if problem is not None}
    if as_json:
        print_json({"engines": len(found), "problems": problems})
    else:
        for digest, problem in problems.items():
            print(f"{digest[:12]}  {one_line(problem)}")
        print(f"{len(found) - len(problems)} of {len(found)} built engines are as they were built")
    raise typer.Exit(1 if problems else 0)
