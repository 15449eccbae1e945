"""The command that measures a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.errors import Cancelled, UsageError
from ...core.interrupts import interrupts_wait
from ..options import EngineOption, FormatSizeOption, JsonOption, MemoryOption, StepsOption, ThreadsOption, parse_format
from ..terminal import print_json, stage_progress
from .options import PromptsOption
from .run import bench


@bench.command()
def serve(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="A server of this shape; one of ours is started here if left out."),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option(help="What a server that is started here offers; several times for several. Default: the demo."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs.")] = 100,
    clients: Annotated[
        int | None,
        typer.Option(min=1, help="Clients that each wait for their job before they ask for the next. Default 8."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="JOBS", help="Instead: so many jobs a second, at random times, whatever becomes of others."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of those times.")] = 0,
    cancels: Annotated[int, typer.Option(min=0, help="Then try so often how soon a cancel frees a worker.")] = 0,
    bare: Annotated[
        int,
        typer.Option(min=0, metavar="CLIPS", help="Before it: make so many clips without a server, to compare with."),
    ] = 0,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The server's model; its default if left out.")
    ] = None,
    size: FormatSizeOption = None,
    steps: StepsOption = None,
    prompts: PromptsOption = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the server's token.", envvar="EDGEREEL_TOKEN_FILE")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where a server that is started here keeps its jobs. Default: nowhere for long."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Its worker processes.")] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Offer jobs to a server: throughput, waits, first previews, answers while it works, failures."""
    with interrupts_wait():
        from ...bench.load.serving.figures import serve_markdown
        from ...bench.load.serving.load import Offer
        from ...bench.load.serving.run import OwnServer, prompts_of, run_serve
        from ...runtime.batch import read_prompts
        from ...server.configuration import read_secret

    own = {
        "--bundle": bundle,
        "--bare": bare,
        "--data": data,
        "--workers": workers,
        "--threads": threads,
        "--memory": memory,
    }
    if url is not None and (given := [name for name, value in own.items() if value]):
        raise UsageError(f"{given[0]} is for a server that is started here: leave it or the address out")
    if clients is not None and rate is not None:
        raise UsageError("give --clients or --rate, not both")
    fields: dict[str, Any] = {}
    if size is not None:
        found = parse_format(size)
        fields["size"] = found if isinstance(found, str) else f"{found[0]}x{found[1]}"
    if steps is not None:
        fields["num_inference_steps"] = steps
    texts = prompts_of(None if prompts is None else read_prompts(prompts), jobs)
    offer = Offer(texts, jobs, None if rate is not None else clients or 8, rate, seed, fields)
    where = url or OwnServer(bundle or (), engine, threads, workers, memory, bare, data)
    token = None if token_file is None else read_secret(token_file, "token")
    with stage_progress() as progress:
        figures = run_serve(where, offer, token=token, model=model, cancels=cancels, on_progress=progress)
    if as_json:
        print_json({"command": ["edgereel", *sys.argv[1:]], **figures.to_json()})
    else:
        print(serve_markdown(figures))
    if figures.partial:
        raise typer.Exit(Cancelled.exit_code)
    if figures.failures or not figures.completed:
        raise typer.Exit(1)
