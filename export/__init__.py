"""Turn a trained checkpoint into a bundle. Needs the `export` extra; importing this package does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.errors import require_packages
from ..core.interrupts import interrupts_wait
from .lora.request import Lora

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest

__all__ = ["Lora", "export_checkpoint"]

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "onnx", "onnxscript", "onnxruntime")


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    max_tokens: int | None = None,
    recipe: str | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
    loras: Sequence[Lora | Path | str] = (),
    transformer: Path | None = None,
    transformer_2: Path | None = None,
    name: str | None = None,
    license: str | None = None,
    origin: str | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Export a checkpoint folder to a bundle folder `output` (NAME.reel, not there yet) and return its manifest.

    max_tokens: length prompts are padded to. recipe: name of a published recipe of the model family that becomes the
    bundle's default; the checkpoint's own ones follow. precision: what the graphs compute in. name, license, origin: of the
    weights. None takes the checkpoint's `edgereel.json` or, without, the family's default.
    loras: safetensors files to fuse into the denoisers in float32, one after another; text is FILE[:SCALE][@2].
    transformer, transformer_2: folders of denoisers to export in the place of the checkpoint's own, as distilled models
    are published; what their `edgereel.json` says goes before what the checkpoint's says.
    on_progress: called with (part, steps done, steps in all) as each part is loaded, exported and proved.

    Raises MissingExtraError without the `export` extra, UsageError for arguments that cannot be used, CheckpointError
    for a checkpoint or LoRA that cannot be exported, ParityError where a graph is not what the module is, OutputError where the
    bundle cannot be written. Whatever is raised, KeyboardInterrupt included, nothing is left behind.
    """
    require_packages(PACKAGES, "export", "edgereel export")
    with interrupts_wait():
        from .request import check_arguments

    checkpoint, output, fused = Path(checkpoint), Path(output), [Lora.of(lora) for lora in loras]
    given = {"transformer": transformer, "transformer_2": transformer_2}
    replaced = {name: Path(folder) for name, folder in given.items() if folder is not None}
    check_arguments(
        checkpoint,
        output,
        max_tokens=max_tokens,
        recipe=recipe,
        precision=precision,
        loras=fused,
        replaced=replaced,
    )
    with interrupts_wait():
        from .bundle import export_checkpoint as run

    return run(
        checkpoint,
        output,
        max_tokens=max_tokens,
        recipe=recipe,
        precision=precision,
        loras=fused,
        replaced=replaced,
        name=name,
        license=license,
        origin=origin,
        on_progress=on_progress,
    )
