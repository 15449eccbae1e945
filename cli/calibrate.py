"""Commands that make a bundle smaller, and say what that has cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError, one_line
from ..core.interrupts import interrupts_wait
from ..core.units import format_bytes
from .application import app
from .options import DecoderOption, EngineOption, JsonOption, ThreadsOption, parse_size
from .terminal import print_json, show_note, stage_progress

SizeOption = Annotated[str | None, typer.Option(metavar="WxH", help="Picture size of the compared clips, in pixels.")]
FramesOption = Annotated[int | None, typer.Option(help="Number of frames of the compared clips.")]
RecipeOption = Annotated[str | None, typer.Option(help="One of the bundle's recipes, see inspect.")]
GuidanceOption = Annotated[float | None, typer.Option(help="Classifier-free guidance of the compared clips.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Clips of each prompt, seeds 0, 1, …")]


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The .reel folder to watch.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="One prompt per line: what to sample.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="STATS", help="The statistics to write.")],
    recipe: Annotated[str | None, typer.Option(help="The recipe that will be used, see inspect.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the recipe's own if left out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Clips of each prompt.")] = 1,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Picture size in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a model while it samples, for quantize. Stopped at any moment, the same command goes on."""
    with interrupts_wait():
        from ..calibration import calibrate as run

    with stage_progress() as progress:
        statistics = run(
            bundle,
            prompts,
            output,
            recipe=recipe,
            steps=steps,
            seeds=seeds,
            size=None if size is None else parse_size(size),
            frames=frames,
            threads=threads,
            on_progress=progress,
        )
    timesteps = {name: len({slot.timestep for slot in statistics.slots(name)}) for name in statistics.seen}
    if as_json:
        print_json({"output": str(output), "clips": statistics.clips, "timesteps": timesteps})
        return
    of_each = ", ".join(f"{name} at {count} timesteps" for name, count in timesteps.items())
    print(f"{one_line(output)}: {statistics.clips} clips, {of_each}")


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Argument(help="The .reel folder to quantize, in fp32.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle to write, NAME.reel.")],
    precision: Annotated[str, typer.Option(help="int8, int4, fp8, or mixed: int8 where frames do not suffer.")],
    stats: Annotated[Path | None, typer.Option(metavar="STATS", help="What calibrate wrote of this bundle.")] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            help="dynamic, or static: faster to engines that want it, and less exact; needs --stats. Default dynamic."
        ),
    ] = None,
    text_encoder: Annotated[str, typer.Option(help="Its weights: int8, int4 or keep.")] = "int8",
    table_outside: Annotated[
        bool, typer.Option("--table-outside", help="Keep token embeddings in a file that rows are read from as needed.")
    ] = False,
    budget_db: Annotated[
        float | None, typer.Option(help="PSNR to the source's clips that must be reached; 38 for mixed.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Layers to leave as they are, such as 'blocks.0.*'. Repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What to compare clips of; the demo's captions if left out.")
    ] = None,
    seeds: SeedsOption = 1,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of these clips; the recipe's if left out.")] = None,
    size: SizeOption = None,
    frames: FramesOption = None,
    recipe: RecipeOption = None,
    guidance: GuidanceOption = None,
    no_compare: Annotated[bool, typer.Option("--no-compare", help="Do not measure how near the clips are.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle smaller, and measure how near its clips are to the original's."""
    with interrupts_wait():
        from ..calibration import quantize as run

    with stage_progress() as progress:
        manifest = run(
            bundle,
            output,
            precision=precision,  # type: ignore[arg-type]
            stats=stats,
            activations=activations,  # type: ignore[arg-type]
            text_encoder=text_encoder,  # type: ignore[arg-type]
            table_outside=table_outside,
            budget_db=budget_db,
            keep=keep or [],
            prompts=prompts,
            seeds=range(seeds),
            steps=steps,
            size=None if size is None else parse_size(size),
            frames=frames,
            recipe=recipe,
            guidance=guidance,
            compare=not no_compare,
            threads=threads,
            on_estimate=show_note,
            on_progress=progress,
        )
    written = sum(record.size for record in manifest.files.values())
    quality = manifest.quality.get("to_source")
    if as_json:
        print_json({"output": str(output), "digest": manifest.digest, "bytes": written, "quality": quality})
        return
    near = f", clips at {quality['psnr_db']:.1f} dB to the original's" if quality else ", quality not measured"
    kept = sum(len(graph.quantization.kept) for graph in manifest.roles.denoiser if graph.quantization is not None)
    mixed = f", {kept or 'no'} layers kept in high precision" if precision == "mixed" else ""
    print(f"{one_line(output)}: {format_bytes(written)}{near}{mixed}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The .reel folder to compare with, such as the one in full precision.")],
    second: Annotated[Path, typer.Argument(help="The .reel folder that may have lost something.")],
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One prompt per line; the demo has its own.")
    ] = None,
    seeds: SeedsOption = 1,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the recipe's own if left out.")] = None,
    size: SizeOption = None,
    frames: FramesOption = None,
    recipe: RecipeOption = None,
    guidance: GuidanceOption = None,
    decoder: DecoderOption = None,
    second_decoder: Annotated[
        str | None,
        typer.Option(help="That of the second bundle, where it is another; both bundles may be the same one then."),
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with pictures.")] = None,
    budget_db: Annotated[float | None, typer.Option(help="Mean PSNR to keep; exit code 1 where it is missed.")] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the same clips by two bundles and measure what the second has lost."""
    with interrupts_wait():
        from ..calibration.clips import ClipSettings
        from ..calibration.compare import compare_bundles
        from ..calibration.report import PICTURES, summary, write_report
        from ..core.files import check_file_target
        from ..runtime.batch import read_prompts

    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {report}: the page is HTML: end its name in .html")
    if report is not None:
        check_file_target(report)
    settings = ClipSettings(steps, None if size is None else parse_size(size), frames, recipe, guidance, decoder)
    with stage_progress() as progress:
        comparison = compare_bundles(
            first,
            second,
            prompts=None if prompts is None else read_prompts(prompts),
            seeds=range(seeds),
            settings=settings,
            second_decoder=second_decoder,
            engine=engine,
            threads=threads,
            budget_db=budget_db,
            pictures=0 if report is None else PICTURES,
            on_estimate=show_note,
            on_progress=progress,
        )
    if report is not None:
        write_report(comparison, report)
    if as_json:
        print_json(comparison.to_json())
    else:
        print(summary(comparison))
        if report is not None:
            print(f"page         {one_line(report)}")
    if comparison.within_budget is False:
        raise typer.Exit(1)
