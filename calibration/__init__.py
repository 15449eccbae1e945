"""Make a bundle smaller: watch a model while it samples, choose where precision may go, prove what was lost.

Needs the `calibration` extra; importing this package does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import MissingExtraError
from ..runtime.progress import Progress

if TYPE_CHECKING:
    from ..runtime.manifest import Manifest
    from .statistics import Statistics

__all__ = ["calibrate", "quantize"]

PACKAGES = ("onnx", "ml_dtypes", "onnxruntime")


def calibrate(
    bundle: Path | None,
    prompts: Path,
    output: Path,
    *,
    recipe: str | None = None,
    steps: int | None = None,
    seeds: int = 1,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Statistics:
    """Sample every prompt of a file with a bundle (None: the built-in demo) and record what goes into its linears.

    The statistics are by denoiser, guidance branch and timestep, and of the recipe (None: the bundle's default) that is to be
    deployed, since other timesteps have other ranges. seeds: clips of each prompt, seeds counting up from 0. Of the others,
    None means the recipe's or bundle's own. They are written to `output` after each clip, and a run that was stopped goes on
    when it is called again. on_progress is told of the stages `check` and `calibrate`, in clips.

    Raises UsageError where the prompts cannot be used, or `output` holds statistics of something else; PromptError;
    GeometryError; BundleError; EngineError where activations are not finite numbers; OutputError; MissingExtraError.
    """
    _check_extra("edgereel calibrate")
    from .collecting import calibrate as run

    return run(
        bundle,
        prompts,
        output,
        recipe=recipe,
        steps=steps,
        seeds=seeds,
        size=size,
        frames=frames,
        threads=threads,
        on_progress=on_progress,
    )


def _check_extra(purpose: str) -> None:
    for package in PACKAGES:
        try:
            found = find_spec(package) is not None
        except ValueError:  # blocked by sys.modules[package] = None
            found = False
        if not found:
            raise MissingExtraError(package, "calibration", purpose)
