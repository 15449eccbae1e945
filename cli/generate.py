"""Commands that make videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import one_line
from ..core.interrupts import interrupts_wait
from ..core.units import format_bytes
from .application import app
from .options import (
    BundleOption,
    DecoderOption,
    EngineOption,
    FitOption,
    FormatSizeOption,
    FpsOption,
    ImageOption,
    JsonOption,
    LabelCornerOption,
    LabelOption,
    LabelSizeOption,
    LogOption,
    MarkerOption,
    MarkOption,
    MemoryOption,
    NegativeOption,
    OutputOption,
    PolicyOption,
    PrivateOption,
    RecipeOption,
    RequireSignatureOption,
    SeedOption,
    StepsOption,
    ThreadsOption,
    clip_label,
    clip_marks,
    parse_format,
    parse_fps,
    reel_options,
    screening,
)
from .terminal import print_json, print_result, print_video, stage_progress


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
    seed: SeedOption = None,
    steps: StepsOption = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance; 1 and below turns it off. Distilled recipes are made for 1."),
    ] = None,
    negative: NegativeOption = None,
    size: FormatSizeOption = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames.")] = None,
    fps: FpsOption = None,
    sampler: Annotated[str | None, typer.Option(help="euler, unipc, sde or rcm.")] = None,
    recipe: RecipeOption = None,
    latents: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Initial noise, float32 [1, C, F, H, W].")
    ] = None,
    image: ImageOption = None,
    last_image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture that it ends with, where the model can do that.")
    ] = None,
    fit: FitOption = None,
    decoder: DecoderOption = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Show here, anew at each step, what is known of the video: .webp, .mp4 or .gif."
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="One prompt per line: a video of each.")] = None,
    private: PrivateOption = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither use nor keep embeddings of prompts in the cache folder.")
    ] = False,
    keep_latents: Annotated[
        bool, typer.Option("--keep-latents", help="Keep the sampled latents beside the output, for decode.")
    ] = False,
    mark: MarkOption = "none",
    marker: MarkerOption = None,
    require_signature: RequireSignatureOption = False,
    log: LogOption = None,
    label: LabelOption = None,
    label_corner: LabelCornerOption = "bottom-right",
    label_size: LabelSizeOption = 5.0,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a video of a prompt."""
    with interrupts_wait():
        from ..runtime.batch import Job, read_latents, run_jobs
        from ..runtime.request import OpenRequest

    screen = screening(policy, image, last_image)
    marks = clip_marks(mark, require_signature, log, marker)
    jobs = Job.plan(prompt, prompts, output, format)
    if policy is not None:
        jobs = [job.screened(screen.prompt) for job in jobs]
    asked = OpenRequest(
        prompt or "",
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative,
        size=None if size is None else parse_format(size),
        frames=frames,
        fps=None if fps is None else parse_fps(fps),
        sampler=sampler,
        recipe=recipe,
        latents=None if latents is None else read_latents(latents),
        image=image,
        last_image=last_image,
        fit=fit,
        decoder=decoder,
    )
    with stage_progress() as progress:
        results = run_jobs(
            jobs,
            asked,
            bundle=bundle,
            options=reel_options(engine, threads, memory, as_json, cache=not no_cache),
            private=private,
            keep_latents=keep_latents,
            marks=marks,
            label=clip_label(label, label_corner, label_size),
            classifier=screen.classifier,
            preview=preview,
            on_progress=progress,
        )
        done = []
        for result in results:
            done.append(result)
            progress.restart(len(done), len(jobs))
            if not as_json:
                print_video(result)
    if as_json:
        print_json(done[0] if prompts is None else {"videos": done})


@app.command()
def decode(
    latents: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="What --keep-latents has kept.")],
    output: OutputOption = Path("out.mp4"),
    bundle: BundleOption = None,
    decoder: DecoderOption = None,
    private: PrivateOption = False,
    mark: MarkOption = "none",
    marker: MarkerOption = None,
    require_signature: RequireSignatureOption = False,
    log: LogOption = None,
    label: LabelOption = None,
    label_corner: LabelCornerOption = "bottom-right",
    label_size: LabelSizeOption = 5.0,
    policy: PolicyOption = None,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the video of latents that were kept, without sampling again."""
    with interrupts_wait():
        from ..runtime.batch import decode_file

    with stage_progress() as progress:
        result = decode_file(
            latents,
            output,
            bundle=bundle,
            options=reel_options(engine, threads, memory, as_json),
            private=private,
            decoder=decoder,
            marks=clip_marks(mark, require_signature, log, marker),
            label=clip_label(label, label_corner, label_size),
            classifier=screening(policy).classifier,
            on_progress=progress,
        )
    print_result(result, as_json)


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
        from ..runtime.embed_ahead import embed_ahead

    with stage_progress() as progress:
        result = embed_ahead(
            prompts, negative_prompt=negative, bundle=bundle, engine=engine, threads=threads, on_progress=progress
        )
    if as_json:
        print_json(result)
    else:
        size = f"{format_bytes(result['bytes'])} in {one_line(result['folder'])}"
        print(f"{result['embedded']} embedded, {result['already_there']} already there, {size}")
