"""A film that is made again each time its story is saved: a quick look first, then the film."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...bundle.manifest import Manifest
from ...core.errors import EdgereelError
from ...core.progress import Progress
from ...runtime.batch import ReelOptions
from ...runtime.reel import Reel
from .film import FilmOptions, check_film, load_story, write_plan
from .plan import plan_film

_LOOK = 0.1
"""Seconds between two looks at the files."""


def watch_film(
    path: Path,
    output: Path,
    options: FilmOptions,
    reel_options: ReelOptions,
    tell: Callable[[str, dict[str, Any] | str], object],
    *,
    rounds: int | None = None,
) -> None:
    """Make a film now and each time its story is saved, with one opened model; ends with KeyboardInterrupt.

    Each time first a preview, FILE.preview.mp4, with the model's fewest steps and its smallest decoder; then the film. A story
    that is saved meanwhile is looked at at once. tell(kind, record): `preview` or `film` with its record, `error` with a line.
    rounds: how often, None for ever. Raises what opening a bundle raises.
    """
    check_film(output)
    preview = output.with_suffix(".preview.mp4")
    seen: float | None = None
    file = load_story(path, options.font)[0]
    bundle = options.bundle or (None if file.story.model is None else Path(file.story.model))
    with reel_options.open(bundle) as reel:
        fast = preview_settings(reel.bundle.manifest)
        while rounds is None or rounds > 0:
            if (now := _saved(path)) == seen:
                time.sleep(_LOOK)
                continue
            seen, current = now, now

            def go_on(stage: str, done: int, total: int, current: float | None = current) -> bool:
                return _saved(path) == current

            for kind, target, overrides in (("preview", preview, fast), ("film", output, {})):
                try:
                    tell(kind, _make(path, target, options, reel, overrides, go_on))
                except EdgereelError as error:
                    if _saved(path) != current:
                        break
                    if kind == "film":  # which says it too, if it is the story's fault
                        tell("error", str(error))
            rounds = None if rounds is None else rounds - 1


def preview_settings(manifest: Manifest) -> dict[str, Any]:
    """Return what makes a quick look of a film: the recipe of fewest steps, and the decoder that is called tiny."""
    recipe = min(manifest.recipes, key=lambda each: (each.steps, each.guidance > 1))
    settings: dict[str, Any] = {"recipe": recipe.name}
    if "tiny" in manifest.roles.decoders_by_name:
        settings["decoder"] = "tiny"
    return settings


def _make(
    path: Path, output: Path, options: FilmOptions, reel: Reel, overrides: dict[str, Any], go_on: Progress
) -> dict[str, Any]:
    started = time.perf_counter()
    file, lettering = load_story(path, options.font)
    plan = plan_film(
        file, reel, format=options.format, choices=options.choices, lettering=lettering, overrides=overrides
    )
    if overrides:  # a look that nobody else is shown
        options = replace(options, marks=None)
    record = write_plan(plan, reel, lettering, check_film(output), options, go_on)
    return {**record, "seconds_in_all": round(time.perf_counter() - started, 4)}


def _saved(path: Path) -> float | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
