"""Turn a trained checkpoint into a bundle. Needs the `export` extra; importing this package does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import require_packages
from ..core.interrupts import interrupts_wait
from ..core.progress import Progress
from .request import ExportOptions, Lora

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest

__all__ = ["ExportOptions", "Lora", "export_checkpoint", "run_export"]

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "onnx", "onnxscript", "onnxruntime")


def export_checkpoint(
    checkpoint: Path | str,
    output: Path | str,
    *,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
    **options: Any,
) -> Manifest:
    """Export a checkpoint folder to a bundle folder `output` (NAME.reel, not there yet) and return its manifest.

    options: the fields of `ExportOptions`. For the callbacks and what is raised, see `run_export`.
    """
    return run_export(ExportOptions(checkpoint, output, **options), on_progress=on_progress, on_note=on_note)


def run_export(
    options: ExportOptions, *, on_progress: Progress | None = None, on_note: Callable[[str], None] | None = None
) -> Manifest:
    """Do an export and return the new bundle's manifest.

    on_progress: called with (part, steps done, steps in all) as each part is loaded, exported and proved; False cancels.
    on_note: called with each line that people should know of how checkpoint and LoRAs were read.

    Raises MissingExtraError without the `export` extra, UsageError for options that cannot be used, CheckpointError
    for a checkpoint or LoRA that cannot be exported, ParityError where a graph is not what the module is, OutputError where
    the bundle cannot be written, Cancelled. Whatever is raised, KeyboardInterrupt included, nothing is left behind.
    """
    require_packages(PACKAGES, "export", "edgereel export")
    request = options.complete()
    with interrupts_wait():
        from .bundle import export_request

    return export_request(request, on_progress, on_note)
