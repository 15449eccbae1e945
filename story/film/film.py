"""From a story file to a finished film: checked, planned, sampled scene by scene, written in one pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import OutputError, UsageError, one_line
from ...core.files import check_file_target, write_text
from ...core.machine import peak_host_memory
from ...core.progress import Progress, report_progress
from ...media.captions import write_captions
from ...media.label import Label
from ...media.lettering import FONT, Lettering
from ...media.spatial import Spatial
from ...media.tracks import Tracks
from ...provenance.claim import Origin
from ...provenance.marks import Marks
from ...runtime.batch import ReelOptions
from ...runtime.clip import file_metadata
from ...runtime.reel import Reel
from ...runtime.video.output import Output
from ..script.checks import check_story, inside
from ..script.source import read_source
from ..script.story import StoryFile, read_story
from .facts import film_facts, film_settings, scene_work
from .pictures import FilmPictures, film_stretches, write_still
from .pieces import PieceEncoder
from .plan import FilmPlan, plan_film
from .scenes import SceneMaker
from .speech import spoken
from .speed import note_speed
from .store import Store
from .timing import film_tracks, spoken_text

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class FilmOptions:
    """How a film is made of a story.

    bundle: in the place of the story's. format: likewise. choices: see path.follow. font: letters on cards and in pictures.
    store: where latents are kept, None for the user's. speaker: see speech.spoken; None where words without a recording are
    not spoken. screen: see Policy.check. private: leave prompts and title out of what
    is written.
    """

    bundle: Path | None = None
    format: str | None = None
    choices: tuple[int, ...] | None = None
    font: Path = FONT
    store: Path | None = None
    marks: Marks | None = None
    label: Label | None = None
    private: bool = False
    screen: Callable[[str], str] | None = None
    speaker: str | None = None


def load_story(path: Path, font: Path = FONT) -> tuple[StoryFile, Lettering | None]:
    """Return a story that nothing is wrong with, as far as can be told without a model; and what it is lettered with.

    Raises SourceError, UsageError, MissingExtraError.
    """
    file = read_story(read_source(path))
    draws = any(scene.card is not None for scene in file.story.scenes) or file.story.burn
    lettering = Lettering(font) if draws else None
    check_story(file, lettering)
    return file, lettering


@contextmanager
def planned_film(
    path: Path, options: FilmOptions, reel_options: ReelOptions, on_progress: Progress | None = None
) -> Iterator[tuple[FilmPlan, Reel, Lettering | None]]:
    """Give a story's plan, and the opened reel that it is for, for the time of the block. Nothing is made.

    Raises SourceError for whatever is wrong in the story, by line, and what opening a bundle raises.
    """
    file, lettering = load_story(path, options.font)
    if options.speaker is not None:
        file = spoken(file, options.speaker)
    model = file.story.model
    bundle = options.bundle or (None if model is None else Path(model))
    with reel_options.open(bundle, on_progress) as reel:
        plan = plan_film(
            file,
            reel,
            format=options.format,
            choices=options.choices,
            lettering=lettering,
            on_progress=on_progress,
        )
        if options.screen is not None:
            shown = [(scene.number, scene.request.prompt) for scene in plan.scenes if scene.request is not None]
            screen_prompts(plan.file, shown, options.screen)
        yield plan, reel, lettering


def describe_film(
    path: Path, options: FilmOptions, reel_options: ReelOptions, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Return what making a film would do, as plain data: scenes, seconds, memory, what is kept, how long it will take."""
    with planned_film(path, options, reel_options, on_progress) as (plan, reel, _):
        return film_facts(plan, reel, Store(options.store))


def make_film(
    path: Path, output: Path, options: FilmOptions, reel_options: ReelOptions, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Make the film of a story and return a record of it.

    What was sampled before is not sampled again; so a film that was stopped goes on. Beside the film lie its captions (.srt,
    .vtt), its poster (.poster.png) and what is said (.narration.txt), where there are some. Raises SourceError for whatever
    is wrong in the story, UsageError, OutputError, BundleError, EngineError, Cancelled.
    """
    target = check_film(output)
    with planned_film(path, options, reel_options, on_progress) as (plan, reel, lettering):
        return write_plan(plan, reel, lettering, target, options, on_progress)


def check_film(output: Path) -> Output:
    """Return where a film goes, after making sure that it can be written. Raises UsageError, OutputError."""
    if output.suffix.lower() != ".mp4":
        raise UsageError(f"cannot write {one_line(output)}: a film has captions, chapters and sound: end it in .mp4")
    return Output.check(output)


def write_plan(
    plan: FilmPlan,
    reel: Reel,
    lettering: Lettering | None,
    target: Output,
    options: FilmOptions,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a planned film; see make_film. target: see check_film."""
    store, tracks = Store(options.store), film_tracks(plan)
    target = replace(target.at(plan.fps), tracks=tracks, crf=plan.size.crf, spatial=_spatial(plan))
    target = target.marked(options.marks, options.label, *plan.size.shown)
    beside = _beside(target.path, plan, tracks)
    check_apart(plan.file, [target.path, *beside.values()], options.font)
    facts = film_facts(plan, reel, store)
    maker = SceneMaker(plan, reel, store, private=options.private)
    store.need(scene.key for scene in plan.scenes if scene.key is not None)
    sampled = _seconds(reel, "text", "denoise")
    maker.make_all(on_progress)
    sampled = _seconds(reel, "text", "denoise") - sampled
    started, decoded = time.perf_counter(), _seconds(reel, "decode")
    captions = tracks.captions if plan.file.story.burn else None

    def pictures() -> FilmPictures:
        return FilmPictures(plan, maker, lettering, captions)

    encoder = PieceEncoder(plan, target, pictures, lettering, captions, reel.threads)
    marks = _write(plan, reel, target, pictures, encoder, options.private, on_progress)
    _write_beside(beside, plan, tracks, _poster(plan, target, pictures()), options.private)
    _note_speeds(plan, reel, maker, sampled, _seconds(reel, "decode") - decoded)
    record = {
        **facts,
        "output": str(target.given),
        "beside": {kind: str(each) for kind, each in beside.items()},
        "made": maker.made,
        "decoded": maker.decoded,
        "encoded": encoder.encoded,
        "seconds_taken": {"scenes": round(sampled, 4), "film": round(time.perf_counter() - started, 4)},
        "peak_host_bytes": peak_host_memory(),
    }
    return record if marks is None else {**record, "marks": marks}


def _spatial(plan: FilmPlan) -> Spatial | None:
    said = plan.file.story.spatial
    return None if said is None else Spatial(said.stereo, said.projection)


def _seconds(reel: Reel, *stages: str) -> float:
    return sum(reel.timings.get(stage, 0.0) for stage in stages)


def _note_speeds(plan: FilmPlan, reel: Reel, maker: SceneMaker, sampling: float, decoding: float) -> None:
    made = set(maker.made)
    work = sum(scene_work(plan, reel, index) for index, scene in enumerate(plan.scenes) if scene.name in made)
    pixels = maker.decoded * plan.size.made[0] * plan.size.made[1]
    note_speed(reel, (work, sampling), (pixels, decoding))


def screen_prompts(file: StoryFile, prompts: Iterable[tuple[int, str]], screen: Callable[[str], str]) -> None:
    """Raise SourceError for the first prompt, told with its scene's number, that a policy refuses, or would change."""
    for number, prompt in prompts:
        place = ("scenes", number, "prompt")
        try:
            left = screen(prompt)
        except UsageError as error:
            raise file.source.error(place, str(error)) from error
        if left != prompt:
            raise file.source.error(place, "the policy takes words out of this prompt: leave them out")


def _poster(plan: FilmPlan, target: Output, pictures: FilmPictures) -> Picture:
    """Return the film's picture for its poster: from the middle of the first scene that is none of text."""
    clips = [scene for scene in plan.scenes if scene.card is None] or list(plan.scenes)
    at = clips[0].start + clips[0].pictures // 2
    stretch = next(each for each in film_stretches(plan) if at < each.start + each.count)
    if not stretch.dissolves:
        stretch = replace(stretch, start=at, count=1)
    found = islice(pictures.of([stretch]), at - stretch.start, None)
    return next(found if target.label is None else iter(target.label.over(found)))


def _write(
    plan: FilmPlan,
    reel: Reel,
    target: Output,
    pictures: Callable[[], FilmPictures],
    encoder: PieceEncoder,
    private: bool,
    on_progress: Progress | None,
) -> dict[str, Any] | None:
    """Write the film, and return what became of its marks, None where it has none."""
    settings = film_settings(plan, reel, private=private)
    metadata = file_metadata(None if private else plan.file.story.title, settings)
    origin = Origin(film_settings(plan, reel, private=True), _inputs(plan))

    def done(count: int) -> None:
        report_progress(on_progress, "film", count, plan.pictures)

    def counted() -> Iterator[Picture]:
        for number, picture in enumerate(pictures().all(), start=1):
            yield picture
            done(number)

    done(0)
    if target.marks is not None and target.marks.watermark:
        # It is another one in each film, and lies over all pictures.
        encoder.encoded = plan.pictures
        return target.write(counted(), metadata, plan.pictures, origin).marks
    with encoder:
        return target.join(encoder.files(done), metadata, replace(origin, scenes=encoder.clips)).marks


def _inputs(plan: FilmPlan) -> tuple[Path, ...]:
    """Return the pictures that scenes begin with, each once."""
    found = []
    for scene in plan.scenes:
        picture = plan.file.story.scenes[scene.number].origin.picture
        if picture is not None and scene.request is not None:
            found.append(inside(plan.file, ("scenes", scene.number, "from"), picture))
    return tuple(dict.fromkeys(found))


def check_apart(file: StoryFile, outputs: Sequence[Path], font: Path) -> None:
    """Raise OutputError where a file to write is the story, or one that it names: a film must not cost what it is made of."""
    story, folder = file.story, file.source.path.parent
    named = [None if story.music is None else story.music.file]
    for scene in story.scenes:
        named += [scene.origin.picture, None if scene.narration is None else scene.narration.file]
    inputs = {os.path.realpath(path) for path in (file.source.path, font, *(folder / name for name in named if name))}
    for path in outputs:
        if os.path.realpath(path) in inputs:
            raise OutputError(f"cannot write {path}: the film is made of it: give another name")


def _beside(film: Path, plan: FilmPlan, tracks: Tracks) -> dict[str, Path]:
    """Return where what lies beside a film goes, after making sure that it can be written. Raises OutputError."""
    beside = {"poster": film.with_suffix(".poster.png")}
    if tracks.captions:
        beside |= {"srt": film.with_suffix(".srt"), "vtt": film.with_suffix(".vtt")}
    if spoken_text(plan):
        beside["narration"] = film.with_suffix(".narration.txt")
    tried: set[Path] = set()
    for path in beside.values():
        check_file_target(path, tried)
    return beside


def _write_beside(beside: dict[str, Path], plan: FilmPlan, tracks: Tracks, poster: Picture, private: bool) -> None:
    for kind, path in beside.items():
        if kind in ("srt", "vtt"):
            write_captions(path, tracks.captions)
        elif kind == "narration":
            write_text(path, spoken_text(plan))
        else:
            write_still(path, poster, None if private else plan.file.story.title)
