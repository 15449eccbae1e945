"""The command line: it reads arguments, shows progress, prints results, and holds no logic of its own."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import __version__
from .errors import Cancelled, EdgereelError, UsageError, one_line
from .interrupts import interrupts_wait
from .terminal import print_json, print_report, stage_progress, stderr

app = typer.Typer(
    name="edgereel",
    help="Run text-to-video diffusion models offline: export once, then generate with no torch installed.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
# ClickException: typer brings a click of its own from some version on, so it is found as what both have in common.
_WrongUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
EngineOption = Annotated[str, typer.Option(help="What runs the graphs: auto or cpu.")]
BundleOption = Annotated[Path | None, typer.Option(help="The .reel folder; the built-in demo if left out.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads per operator; all cores if left out.")]


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of "WIDTHxHEIGHT". Raises UsageError."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {text}: write it as WIDTHxHEIGHT, for example 64x64")
    if len(width) > 6 or len(height) > 6:
        raise UsageError(f"--size {text}: that is too large for any model")
    return int(width), int(height)


def _show_version(value: bool) -> None:
    if value:
        print(f"edgereel {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The .mp4, .gif or .webp (lossless) to write; without a suffix, a folder of PNGs; with --prompts, a folder "
            "of videos. Default out.mp4, or the folder out.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="mp4, gif, webp or png: what each of --prompts becomes, or the default output. Default mp4."),
    ] = None,
    bundle: BundleOption = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same video. Default 0.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the recipe's own if left out.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance; 1 and below turns it off. Distilled recipes are made for 1."),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the video should not show.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Picture size in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second of the file.")] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, unipc, sde or rcm.")] = None,
    recipe: Annotated[str | None, typer.Option(help="One of the bundle's recipes, see inspect.")] = None,
    latents: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Initial noise, float32 [1, C, F, H, W].")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="One prompt per line: a video of each.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Leave the prompts out of the file's metadata.")] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither use nor keep embeddings of prompts in the cache folder.")
    ] = False,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a video of a prompt."""
    with interrupts_wait():
        from .runtime.batch import Job, read_latents, run_jobs

    jobs = Job.plan(prompt, prompts, output, format)
    settings = {
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative,
        "size": None if size is None else parse_size(size),
        "frames": frames,
        "fps": fps,
        "sampler": sampler,
        "recipe": recipe,
        "latents": None if latents is None else read_latents(latents),
    }
    with stage_progress() as progress:
        results = run_jobs(
            jobs,
            settings,
            bundle=bundle,
            engine=engine,
            threads=threads,
            private=private,
            cache=not no_cache,
            on_progress=progress,
        )
        done = []
        for result in results:
            done.append(result)
            progress.restart(len(done), len(jobs))
            if not as_json:
                times = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result["seconds"].items())
                print(f"{one_line(result['output'])}  ({times})")
    if as_json:
        print_json(done[0] if prompts is None else {"videos": done})


@app.command()
def embed(
    prompts: Annotated[Path, typer.Argument(help="A file with one prompt per line.")],
    negative: Annotated[str | None, typer.Option(help="The negative prompt that generate will be given.")] = None,
    bundle: BundleOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed prompts ahead: generate, with the same bundle and engine, then never loads the text encoder for them."""
    with interrupts_wait():
        from .runtime.embed_ahead import embed_ahead

    with stage_progress() as progress:
        result = embed_ahead(
            prompts, negative_prompt=negative, bundle=bundle, engine=engine, threads=threads, on_progress=progress
        )
    if as_json:
        print_json(result)
    else:
        size = f"{result['bytes'] / 1e6:.2f} MB in {one_line(result['folder'])}"
        print(f"{result['embedded']} embedded, {result['already_there']} already there, {size}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A model folder in diffusers' layout.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle to write, NAME.reel.")],
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length prompts are padded to; the family's own if left out.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A published way to sample, such as self-forcing, as the bundle's default.")
    ] = None,
    precision: Annotated[str, typer.Option(help="What the graphs calculate in: fp32 or fp16.")] = "fp32",
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:SCALE][@2]",
            help="Fuse a LoRA (safetensors) into the denoiser, @2 into the second of two experts. Repeatable.",
        ),
    ] = None,
    transformer: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Take the denoiser from another folder, such as a distilled one."),
    ] = None,
    transformer_2: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The same for the second of two experts.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; the folder's if left out.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Licence of the weights.")] = None,
    origin: Annotated[str | None, typer.Option(help="Where the weights come from.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle, each graph proved against the torch module it came from."""
    from .export import export_checkpoint

    if precision not in ("fp32", "fp16"):
        raise UsageError(f"--precision {precision}: choose fp32 or fp16")
    with stage_progress() as progress:
        manifest = export_checkpoint(
            checkpoint,
            output,
            max_tokens=max_tokens,
            recipe=recipe,
            precision=precision,  # type: ignore[arg-type]
            loras=lora or [],
            transformer=transformer,
            transformer_2=transformer_2,
            name=name,
            license=license_,
            origin=origin,
            on_progress=progress,
        )
    parity = {name: figure.relative for name, figure in manifest.parity.items()}
    if as_json:
        print_json({"output": str(output), "digest": manifest.digest, "parity": parity})
        return
    for name_, relative in parity.items():
        print(f"{name_:<16} differs from torch by {relative:.1e}")
    print(output)


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
    from .calibration import calibrate as run

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
    steps: Annotated[int | None, typer.Option(help="Denoising steps of these clips; the recipe's if left out.")] = None,
    no_compare: Annotated[bool, typer.Option("--no-compare", help="Do not measure how near the clips are.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle smaller, and measure how near its clips are to the original's."""
    from .calibration import quantize as run

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
            steps=steps,
            compare=not no_compare,
            threads=threads,
            on_progress=progress,
        )
    size = sum(record.size for record in manifest.files.values())
    quality = manifest.quality.get("to_source")
    if as_json:
        print_json({"output": str(output), "digest": manifest.digest, "bytes": size, "quality": quality})
        return
    near = f", clips at {quality['psnr_db']:.1f} dB to the original's" if quality else ", quality not measured"
    kept = sum(len(graph.quantization.kept) for graph in manifest.roles.denoiser if graph.quantization is not None)
    mixed = f", {kept or 'no'} layers kept in high precision" if precision == "mixed" else ""
    print(f"{one_line(output)}: {size / 1e6:.1f} MB{near}{mixed}")


@app.command()
def inspect(
    bundle: Annotated[Path | None, typer.Argument(help="The .reel folder; the built-in demo if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds: model, recipes, sizes, precision, parity and quality."""
    from .runtime.bundle import open_bundle
    from .runtime.describe import describe
    from .runtime.reel import demo_bundle_path

    opened = open_bundle(bundle or demo_bundle_path())
    if as_json:
        print_json(opened.manifest.to_json())
    else:
        print(describe(opened))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The .reel folder to compare with, such as the one in full precision.")],
    second: Annotated[Path, typer.Argument(help="The .reel folder that may have lost something.")],
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One prompt per line; the demo has its own.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Clips of each prompt, seeds 0, 1, …")] = 1,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the recipe's own if left out.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with pictures.")] = None,
    budget_db: Annotated[float | None, typer.Option(help="Mean PSNR to keep; exit code 1 where it is missed.")] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the same clips by two bundles and measure what the second has lost."""
    from .calibration.compare import compare_bundles
    from .calibration.report import PICTURES, summary, write_report
    from .runtime.batch import read_prompts

    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {report}: the page is HTML: end its name in .html")
    with stage_progress() as progress:
        comparison = compare_bundles(
            first,
            second,
            prompts=None if prompts is None else read_prompts(prompts),
            seeds=range(seeds),
            steps=steps,
            engine=engine,
            threads=threads,
            budget_db=budget_db,
            pictures=0 if report is None else PICTURES,
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


@app.command()
def verify(
    bundle: Annotated[Path | None, typer.Argument(help="The .reel folder; the built-in demo if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of a bundle again and check it against the manifest."""
    from .runtime.bundle import verify_bundle
    from .runtime.reel import demo_bundle_path

    with stage_progress() as progress:
        opened = verify_bundle(bundle or demo_bundle_path(), on_progress=progress)
    if as_json:
        print_json(
            {"bundle": str(opened.folder), "digest": opened.manifest.digest, "files": len(opened.manifest.files)}
        )
    else:
        print(f"{opened.folder}: {len(opened.manifest.files)} files are as declared, digest {opened.manifest.digest}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has, what is missing, and the commands that bring it; 0 if a video can be made, 1 if not."""
    with interrupts_wait():
        from .runtime.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report)
    raise typer.Exit(0 if report.ready else EdgereelError.exit_code)


def main() -> None:
    """Run the command line: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has closed it; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        status = Cancelled.exit_code
    except EdgereelError as error:
        _fail(str(error), error.exit_code)
    except _WrongUsage as error:
        message = error.format_message()
        quotes = ": put the prompt in quotes" if "extra argument" in message and sys.argv[1:2] == ["generate"] else ""
        _fail(f"{message}{quotes}", UsageError.exit_code)
    except MemoryError as error:
        _fail(f"not enough memory: try a smaller size or fewer frames ({error})", EdgereelError.exit_code)
    except OSError as error:
        _fail(str(error), EdgereelError.exit_code)
    if status == Cancelled.exit_code:
        _fail("interrupted", status)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, exit_code: int) -> NoReturn:
    stderr.print(f"edgereel: {one_line(message)}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(exit_code)
