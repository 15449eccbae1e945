"""Commands that make films longer: what follows a clip, and streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError
from ..core.interrupts import interrupts_wait
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
from .terminal import print_result, stage_progress

GuidanceOption = Annotated[float | None, typer.Option(help="Classifier-free guidance; the recipe's own if left out.")]


@app.command("continue")
def continue_(
    clip: Annotated[Path, typer.Argument(help="Latents that --keep-latents has kept, or a video file.")],
    prompt: Annotated[str, typer.Argument(help="What the video shows next.")],
    output: OutputOption = Path("out.mp4"),
    seconds: Annotated[
        float | None, typer.Option(metavar="N", help="How long what follows is; a clip of the bundle's if left out.")
    ] = None,
    bundle: BundleOption = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same video. Default one more than that of kept latents, or 0.")
    ] = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    negative: NegativeOption = None,
    recipe: RecipeOption = None,
    decoder: DecoderOption = None,
    private: PrivateOption = False,
    keep_latents: Annotated[
        bool, typer.Option("--keep-latents", help="Keep the latents of both beside the output, to continue once more.")
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
    """Make the video that follows a clip, at its size and speed; the new pictures alone are written."""
    with interrupts_wait():
        from ..runtime.batch import continue_file
        from ..runtime.request import OpenRequest

    screen = screening(policy, clip if clip.suffix.lower() != ".safetensors" else None)
    asked = OpenRequest(
        screen.prompt(prompt),
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative,
        recipe=recipe,
        decoder=decoder,
    )
    with stage_progress() as progress:
        result = continue_file(
            clip,
            asked,
            seconds,
            output,
            bundle=bundle,
            options=reel_options(engine, threads, memory, as_json),
            private=private,
            keep_latents=keep_latents,
            marks=clip_marks(mark, require_signature, log, marker),
            label=clip_label(label, label_corner, label_size),
            classifier=screen.classifier,
            on_progress=progress,
        )
    print_result(result, as_json)


@app.command()
def live(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="What the film shows; after each --then, what it shows next.")
    ],
    output: OutputOption = Path("out.mp4"),
    seconds: Annotated[float, typer.Option(metavar="N", help="How long the film is.")] = 60,
    then: Annotated[
        list[float] | None,
        typer.Option(metavar="SECONDS PROMPT", help="Another prompt from then on; may be given again."),
    ] = None,
    bundle: BundleOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    negative: NegativeOption = None,
    size: FormatSizeOption = None,
    fps: FpsOption = None,
    recipe: RecipeOption = None,
    image: ImageOption = None,
    fit: FitOption = None,
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
    """Make a film chunk by chunk, of any length, in memory that does not grow; prompts may follow one another."""
    with interrupts_wait():
        from ..runtime.batch import write_stream
        from ..runtime.request import OpenRequest

    times = then or []
    if len(prompts) != 1 + len(times):
        raise UsageError(
            f"{len(prompts)} prompts and {len(times)} times: give one prompt, then --then SECONDS PROMPT for each other one"
        )
    screen = screening(policy, image)
    prompts = [screen.prompt(prompt) for prompt in prompts]
    asked = OpenRequest(
        prompts[0],
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative,
        size=None if size is None else parse_format(size),
        fps=None if fps is None else parse_fps(fps),
        recipe=recipe,
        image=image,
        fit=fit,
        decoder=decoder,
    )
    with stage_progress() as progress:
        result = write_stream(
            asked,
            seconds,
            list(zip(times, prompts[1:], strict=True)),
            output,
            bundle=bundle,
            options=reel_options(engine, threads, memory, as_json),
            private=private,
            marks=clip_marks(mark, require_signature, log, marker),
            label=clip_label(label, label_corner, label_size),
            classifier=screen.classifier,
            on_progress=progress,
        )
    print_result(result, as_json)
