"""Several takes of a scene to choose from, side by side; and the choice, written into the story."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...core.files import check_file_target, write_text
from ...core.progress import Progress, report_progress
from ...media.cards import Card, draw_card
from ...media.lettering import Lettering
from ...runtime.batch import ReelOptions
from ...runtime.pictures.fit import fit_picture
from ...runtime.sampling.noise import LARGEST_SEED
from ..script.source import read_source
from ..script.story import StoryFile, read_story
from .film import FilmOptions, check_apart, load_story
from .pictures import write_still
from .plan import plan_film
from .scenes import SceneMaker
from .store import Store

Picture = NDArray[np.uint8]
MOST = 64
_SHOWN = 6
"""Pictures of each take on a contact sheet."""
_SIDE = 160
"""Pixels of a picture's longer side there."""


def make_takes(
    path: Path,
    name: str,
    count: int,
    sheet: Path,
    options: FilmOptions,
    reel_options: ReelOptions,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Make takes of one scene with seeds from its own on, and write a contact sheet (PNG) of them: a row each.

    They are kept, so that the one that is picked is not made again. Raises what make_film raises.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"{count} takes are not possible: choose from 1 to {MOST}")
    if sheet.suffix.lower() != ".png":
        raise UsageError(f"{sheet}: a contact sheet is a .png")
    check_file_target(sheet)
    file, lettering = load_story(path, options.font)
    check_apart(file, [sheet], options.font)
    number = scene_number(file, name)
    scene = file.story.scenes[number]
    if scene.prompt is None:
        raise UsageError(f"{name} is a card: there is one take of it")
    first = file.story.seed if scene.seed is None else scene.seed
    bundle = options.bundle or (None if file.story.model is None else Path(file.story.model))
    rows: list[tuple[str, list[Picture]]] = []
    takes = []
    with reel_options.open(bundle, on_progress) as reel:
        store = Store(options.store)
        for take in range(count):
            report_progress(on_progress, "takes", take, count)
            seed = (first + take) % (LARGEST_SEED + 1)
            plan = plan_film(
                with_seed(file, number, seed),
                reel,
                format=options.format,
                choices=options.choices,
                lettering=lettering,
            )
            index = next((index for index, each in enumerate(plan.scenes) if each.number == number), None)
            if index is None:
                raise UsageError(f"{name} is not on the way that was chosen: see --choose")
            maker = SceneMaker(plan, reel, store, private=options.private)
            video = maker.made_video(index, on_progress)
            pictures = [fit_picture(each, *plan.size.shown, plan.fit) for each in video]
            rows.append((str(seed), [pictures[at] for at in np.linspace(0, len(pictures) - 1, _SHOWN).astype(int)]))
            takes.append({"seed": seed, "key": plan.scenes[index].key, "made": name in maker.made})
        report_progress(on_progress, "takes", count, count)
    write_still(sheet, contact_sheet(rows))
    return {"scene": name, "takes": takes, "sheet": str(sheet)}


def contact_sheet(rows: Sequence[tuple[str, Sequence[Picture]]]) -> Picture:
    """Return rows of pictures with a title before each, as one picture, uint8 [H, W, 3]. All rows are as long as the first."""
    height, width = rows[0][1][0].shape[:2]
    scale = min(1.0, _SIDE / max(width, height))
    width, height = max(2, round(width * scale)), max(16, round(height * scale))
    lettering = Lettering()
    lines = []
    for title, pictures in rows:
        head = draw_card(Card(title), max(64, width), height, lettering)
        lines.append(np.concatenate([head, *(fit_picture(each, width, height, "pad") for each in pictures)], axis=1))
    return np.ascontiguousarray(np.concatenate(lines, axis=0))


def pick(path: Path, name: str, seed: int) -> Path:
    """Write a scene's seed into the story file, all else as it is, comments too. Raises UsageError where that cannot be done."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed} is out of range: it must be from 0 to {LARGEST_SEED}")
    file = read_story(read_source(path))
    number = scene_number(file, name)
    if file.story.scenes[number].prompt is None:
        raise UsageError(f"{name} is a card: it has no seed")
    lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    place = ("scenes", number)
    if file.story.scenes[number].seed is not None:
        at = file.source.line((*place, "seed")) - 1
        lines[at] = re.sub(r"(\bseed['\"]?\s*:\s*)[0-9]+", rf"\g<1>{seed}", lines[at])
    else:
        at = file.source.line((*place, "prompt")) - 1
        found = re.search(r"(?P<before>.*?)(?P<key>['\"]?prompt['\"]?\s*:)", lines[at])
        assert found is not None
        before = found["before"]
        if before.strip() in ("", "-"):
            lines[at] = f"{before}seed: {seed}\n{' ' * len(before)}{lines[at][len(before) :]}"
        else:
            lines[at] = f"{before}seed: {seed}, {lines[at][len(before) :]}"
    trial = path.with_name(f".{path.name}.pick.yaml")
    try:
        write_text(trial, "".join(lines))
        same = read_story(read_source(trial)).story == with_seed(file, number, seed).story
    except UsageError:
        same = False
    finally:
        trial.unlink(missing_ok=True)
    if not same:
        raise UsageError(f"{path}: cannot be changed by itself: write seed: {seed} into scene {name}")
    return write_text(path, "".join(lines))


def scene_number(file: StoryFile, name: str) -> int:
    """Return the number, from 0, of a scene by its name. Raises UsageError."""
    names = file.story.names()
    if name not in names:
        raise UsageError(f"there is no scene {name[:60]!r}: choose from {', '.join(names[:20])}")
    return names.index(name)


def with_seed(file: StoryFile, number: int, seed: int) -> StoryFile:
    """Return the story with another seed of one scene."""
    scenes = list(file.story.scenes)
    scenes[number] = scenes[number].model_copy(update={"seed": seed})
    return replace(file, story=file.story.model_copy(update={"scenes": scenes}))
