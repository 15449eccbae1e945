"""Turn a trained checkpoint into a bundle. Needs the `export` extra; importing this package does not."""

from __future__ import annotations

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
    checkpoint: Path | str, output: Path | str, *, on_progress: Progress | None = None, **options: Any
) -> Manifest:
    """Export a checkpoint folder to a bundle folder `output` (NAME.reel, not there yet) and return its manifest.

    options: the fields of `ExportOptions`. For on_progress and what is raised, see `run_export`.
    """
    return run_export(ExportOptions(checkpoint, output, **options), on_progress=on_progress)


def run_export(options: ExportOptions, *, on_progress: Progress | None = None) -> Manifest:
    """Do an export and return the new bundle's manifest.

    on_progress: called with (part, steps done, steps in all) as each part is loaded, exported and proved; False cancels.

    Raises MissingExtraError without the `export` extra, UsageError for options that cannot be used, CheckpointError
    for a checkpoint or LoRA that cannot be exported, ParityError where a graph is not what the module is, OutputError where
    the bundle cannot be written, Cancelled. Whatever is raised, KeyboardInterrupt included, nothing is left behind.
    """
    require_packages(PACKAGES, "export", "edgereel export")
    request = options.complete()
    with interrupts_wait():
        from .bundle import export_request

    return export_request(request, on_progress)
