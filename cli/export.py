"""The command that makes a bundle of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.interrupts import interrupts_wait
from .application import app
from .options import JsonOption
from .terminal import print_json, show_note, stage_progress


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A model folder in diffusers' layout, or a name on Hugging Face's hub.")
    ],
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
            metavar="FILE[:SCALE][:partial][@2]",
            help="Fuse a LoRA (safetensors) into the denoiser, @2 into the second of two experts; partial leaves out, and "
            "lists, what does not fit. Repeatable.",
        ),
    ] = None,
    fused_as: Annotated[
        str, typer.Option(help="What weights that a LoRA changed are stored as: fp32, or bf16 at half the size.")
    ] = "fp32",
    shift: Annotated[
        float | None, typer.Option(help="Shift of the noise levels, in place of the scheduler's or the recipe's.")
    ] = None,
    transformer: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Take the denoiser from another folder or .safetensors file, such as a distilled one."
        ),
    ] = None,
    transformer_2: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The same for the second of two experts.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(help="How a denoiser trained chunk by chunk goes on: self-forcing, causvid or longlive."),
    ] = None,
    encoder: Annotated[
        bool,
        typer.Option("--encoder", help="Have the encoder of pictures, to continue video files, whatever the model."),
    ] = False,
    tiny_decoder: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:scaled|:normalised]",
            help="A second, small decoder (safetensors: taew2_1, taew2_2, lighttaew2_1, lighttaew2_2), for --decoder tiny. "
            "Whether it takes normalised latents goes by the file's name if left out.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; the folder's if left out.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Licence of the weights.")] = None,
    origin: Annotated[str | None, typer.Option(help="Where the weights come from.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle, each graph proved against the torch module it came from.

    A model of the hub is read from the cache that its own tools fill: nothing is downloaded here.
    """
    with interrupts_wait():
        from ..export import ExportOptions, run_export

    options = ExportOptions(
        checkpoint,
        output,
        max_tokens=max_tokens,
        recipe=recipe,
        precision=precision,
        loras=lora,
        fused_as=fused_as,
        shift=shift,
        transformer=transformer,
        transformer_2=transformer_2,
        stream=stream,
        encoder=encoder,
        tiny_decoder=tiny_decoder,
        name=name,
        license=license_,
        origin=origin,
    )
    with stage_progress() as progress:
        manifest = run_export(options, on_progress=progress, on_note=show_note)
    parity = {name: figure.relative for name, figure in manifest.parity.items()}
    if as_json:
        print_json({"output": str(output), "digest": manifest.digest, "parity": parity})
        return
    for name_, relative in parity.items():
        print(f"{name_:<16} differs from torch by {relative:.1e}")
    print(output)
