"""Commands that measure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import Cancelled, UsageError
from ..interrupts import interrupts_wait
from ..terminal import print_json, show_note, stage_progress
from .application import app
from .options import JsonOption, ThreadsOption, parse_size

bench = typer.Typer(help="Measure how long clips take, and what that takes from the machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command()
def run(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="The .reel folders; the built-in demo if left out.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the report is written.")
    ] = Path("bench-report"),
    engine: Annotated[str, typer.Option(help="What runs the graphs: names with commas between them.")] = "auto",
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One prompt per line, used in turn; the demo's if left out.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="1,2,4", help="Numbers of denoising steps; the recipes' own if left out.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="WxH,…", help="Picture sizes in pixels; the bundle's own if left out.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="N,…", help="Numbers of frames; the bundle's own if left out.")
    ] = None,
    min_runs: Annotated[
        int | None,
        typer.Option(min=1, help="Warm clips of each row; 64 of quick ones, else about a minute's worth, if left out."),
    ] = None,
    min_seconds: Annotated[float, typer.Option(min=0, help="Make warm clips of each row for so long at least.")] = 0,
    cold: Annotated[bool, typer.Option("--cold/--no-cold", help="Measure clips made by fresh processes too.")] = True,
    cold_runs: Annotated[int, typer.Option(min=1, help="How many fresh processes for each row.")] = 5,
    quality: Annotated[bool, typer.Option("--quality", help="Score fresh clips beside the times.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every stage of making clips, cold and warm, and write the record into a folder."""
    with interrupts_wait():
        from ..bench.folder import prepare_folder, write_record
        from ..bench.run import run_bench
        from ..bench.table import markdown
        from ..runtime.batch import read_prompts

    chosen = None if prompts is None else read_prompts(prompts)
    counts = None if steps is None else _counts("--steps", steps)
    pixels = [None] if sizes is None else [parse_size(size) for size in sizes.split(",")]
    lengths = [None] if frames is None else _counts("--frames", frames)
    folder = prepare_folder(output)
    with stage_progress() as progress:
        record = run_bench(
            bundles or (None,),
            [name.strip() for name in engine.split(",")],
            chosen,
            counts,
            pixels,
            lengths,
            min_runs=min_runs,
            min_seconds=min_seconds,
            cold=cold_runs if cold else 0,
            threads=threads,
            quality=quality,
            command=["edgereel", *sys.argv[1:]],
            on_progress=progress,
        )
    path = write_record(record, folder)
    if as_json:
        warm = {row.name: None if row.warm is None else row.warm.stages["total"].median for row in record.rows}
        coldly = {row.name: None if row.cold is None else row.cold.stages["total"].median for row in record.rows}
        medians = {name: {"warm_seconds": warm[name], "cold_seconds": coldly[name]} for name in warm}
        print_json({"record": str(path), "partial": record.partial, "rows": medians})
    else:
        print(markdown(record))
        show_note(f"the record is {path}")
    if record.partial:
        show_note("interrupted: what was measured until then is in the record, which is marked partial")
        raise typer.Exit(Cancelled.exit_code)


def _counts(option: str, text: str) -> list[int]:
    """Return the whole numbers of "1,2,4". Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 and int(part) for part in parts):
        raise UsageError(f"{option} {text}: write whole numbers from 1 on, with commas between them")
    return [int(part) for part in parts]
