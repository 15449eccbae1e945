"""Make a bundle smaller: watch a model while it samples, choose where precision may go, prove what was lost.

Needs the `calibration` extra; importing this package does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.errors import require_packages
from ..core.interrupts import interrupts_wait
from ..core.progress import Progress

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest
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
    require_packages(PACKAGES, "calibration", "edgereel calibrate")
    with interrupts_wait():
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


def quantize(
    bundle: Path | None,
    output: Path,
    *,
    precision: Literal["int8", "int4", "fp8", "mixed"],
    stats: Path | None = None,
    activations: Literal["dynamic", "static"] | None = None,
    text_encoder: Literal["int8", "int4", "keep"] = "int8",
    table_outside: bool = False,
    budget_db: float | None = None,
    keep: Sequence[str] = (),
    prompts: Path | None = None,
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    recipe: str | None = None,
    guidance: float | None = None,
    compare: bool = True,
    first_timesteps: int | None = None,
    threads: int | None = None,
    on_estimate: Callable[[str], object] | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """Write a bundle `output` (NAME.reel, not there yet) whose linears are quantized, and return its manifest.

    bundle: None for the built-in demo. precision: `int8` quantizes weights and activations, `int4` weights alone, `fp8`
    (E4M3) weights and, with statistics, activations; `mixed` is int8 where that is found not to matter to the frames.
    stats: what `calibrate` wrote; outliers are balanced by it. activations: None means dynamic.
    text_encoder: what its weights are stored as. table_outside: keep its token embeddings in a file of their own, from
    which the runtime reads a prompt's rows; unquantized either way.
    budget_db: PSNR to the source's clips that must be reached, 38 for `mixed` unless given.
    keep: patterns (fnmatch) of names of the denoisers' linears that stay as they are.
    prompts: a file, of what is sampled to measure quality (None: held-out captions of the demo), each with all `seeds`;
    steps, size, frames, recipe, guidance: of these clips, None for the bundle's own. compare: whether quality is measured at all.
    on_estimate: told how long measuring takes, before any work. first_timesteps: use the statistics of that many timesteps of
    each denoiser alone. on_progress is told of the stages `check`, `plan`, `measure`, `quantize` and `compare`.

    Raises UsageError for what cannot be used as given, QualityError where the budget is not met, BundleError, EngineError,
    OutputError, MissingExtraError. Whatever is raised, KeyboardInterrupt included, nothing is left behind.
    """
    require_packages(PACKAGES, "calibration", "edgereel quantize")
    with interrupts_wait():
        from .clips import ClipSettings
        from .quantizing import complete_settings
        from .quantizing import quantize as run

    settings = complete_settings(
        precision=precision,
        has_stats=stats is not None,
        activations=activations,
        text_encoder=text_encoder,
        table_outside=table_outside,
        budget_db=budget_db,
        keep=keep,
        prompts=prompts,
        seeds=seeds,
        clips=ClipSettings(steps, size, frames, recipe, guidance),
        compare=compare,
        threads=threads,
    )
    return run(
        bundle,
        output,
        settings,
        stats=stats,
        first_timesteps=first_timesteps,
        on_estimate=on_estimate,
        on_progress=on_progress,
    )
