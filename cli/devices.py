"""Commands about the device: what would fit into it, what is built for it, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import one_line
from ..terminal import print_json
from .application import app
from .options import EngineOption, JsonOption, MemoryOption, parse_size

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
    from ..runtime.memory_plan import describe_plan
    from ..runtime.planning import plan_bundle

    found = plan_bundle(
        bundle,
        size=None if size is None else parse_size(size),
        frames=frames,
        memory=memory,
        engine=engine,
        compute_capability=compute_capability,
    )
    if as_json:
        print_json(found.to_json())
    else:
        print("\n".join(one_line(line) for line in describe_plan(found)))
