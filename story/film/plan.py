"""A story as the scenes of one film: what each is made with, how long it is, and what is there already."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from ...bundle.geometry import nearest_frames
from ...bundle.manifest import Manifest
from ...core.errors import EdgereelError, GeometryError, PlanError, UsageError
from ...core.progress import Progress, report_progress
from ...media.captions import caption_cover, check_caption
from ...media.cards import Card, draw_card
from ...media.lettering import Lettering
from ...runtime.chunks.times import check_seconds
from ...runtime.conditioning import check_pictures
from ...runtime.continuation import can_continue, continued_request, goes_on_from_latents
from ...runtime.memory.sizes import Uses
from ...runtime.pictures.fit import Fit
from ...runtime.pictures.named_sizes import PictureSize, film_size
from ...runtime.reel import Reel
from ...runtime.request import OpenRequest, Request
from ...runtime.video.frame_rate import FrameRate, frame_rate
from ..script.checks import card_of, inside, narration_sound, prompt_of
from ..script.path import follow, followers, scene_numbers
from ..script.source import Place
from ..script.story import Scene, StoryFile
from .store import scene_key

_CARD_SECONDS = 2.0


@dataclass(frozen=True)
class PlannedScene:
    """One scene of a film.

    number: in the file, from 0. start: its first picture in the film. pictures: those that it has; dissolves show some of
    them beside the next scene's. transition: how it begins, and how many pictures that takes, 0 for a cut. card: what it
    shows, None for a clip. Of a clip, asked and request: what it is made with; seconds: what was asked for, of one that goes
    on; origin: the scene of the film that it goes on from; joined: together they are one film, so that they are decoded as
    one; key: what it is kept under.
    """

    number: int
    name: str
    start: int
    pictures: int
    transition: str
    blend: int
    card: Card | None = None
    asked: OpenRequest | None = None
    request: Request | None = None
    seconds: float | None = None
    origin: int | None = None
    joined: bool = False
    key: str | None = None


@dataclass(frozen=True)
class FilmPlan:
    """All scenes of a film in order. pictures: how many the film has. peak: the most bytes of memory that a scene needs."""

    file: StoryFile
    scenes: tuple[PlannedScene, ...]
    size: PictureSize
    fps: FrameRate
    pictures: int
    peak: int
    fit: Fit

    @property
    def seconds(self) -> Fraction:
        """How long the film is."""
        return Fraction(self.pictures) / Fraction(self.fps)


def plan_film(
    file: StoryFile,
    reel: Reel,
    *,
    format: str | None = None,
    choices: Sequence[int] | None = None,
    lettering: Lettering | None = None,
    on_progress: Progress | None = None,
    overrides: dict[str, Any] | None = None,
) -> FilmPlan:
    """Return the plan of a story that `check_story` took. Nothing is sampled.

    format: in the place of the story's. choices: see path.follow. lettering: see check_story. overrides: settings of every
    request, such as the recipe and decoder of a preview. Raises SourceError for what the model cannot do, by scene and line, in
    scenes that are not shown too.
    """
    planner = FilmPlanner(file, reel, format, lettering, overrides)
    planner.check_prompts()
    shown = follow(file, choices)
    for done, number in enumerate(shown):
        report_progress(on_progress, "plan scenes", done, len(shown))
        planner.add(number)
    report_progress(on_progress, "plan scenes", len(shown), len(shown))
    planner.check_others()
    return planner.finish()


class FilmPlanner:
    """Adds scenes to a film, one after the other; see plan_film."""

    def __init__(
        self,
        file: StoryFile,
        reel: Reel,
        format: str | None,
        lettering: Lettering | None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        """Raise UsageError for a format that is none."""
        story = file.story
        self._file, self._reel, self._lettering, self._overrides = file, reel, lettering, overrides or {}
        self._manifest: Manifest = reel.bundle.manifest
        try:
            self._size = film_size(self._manifest, format or story.format)
        except UsageError as error:
            raise (error if format else file.source.error(("format",), str(error))) from error
        self._fps = frame_rate(self._manifest.defaults.fps if story.fps is None else story.fps)
        self._fit: Fit = "pad" if story.fit == "pad" else "crop"
        self._names = story.names()
        self._numerics = reel.numerics()
        self._scenes: list[PlannedScene] = []
        self._length = 0
        self._checked: set[str] = set()
        self._peaks: dict[tuple[int, bool], int] = {}
        self._pictures: dict[str, Any] = {}

    def fork(self) -> FilmPlanner:
        """Return a planner of the same film so far, which goes on by itself."""
        other = copy(self)
        other._scenes = list(self._scenes)
        return other

    def check_prompts(self) -> None:
        """Raise SourceError for the first prompt that the model cannot take, on whichever way it lies."""
        for number, scene in enumerate(self._file.story.scenes):
            if scene.prompt is None or (prompt := prompt_of(self._file, number)) in self._checked:
                continue
            try:
                self._reel.check_prompt(prompt)
            except UsageError as error:
                place = ("scenes", number, "prompt")
                raise self._file.source.error(place, f"scene {number + 1} ({self._names[number]}): {error}") from error
            self._checked.add(prompt)

    def add(self, number: int) -> None:
        """Add the scene of that number in the file."""
        scene, origin = self._file.story.scenes[number], None
        if self._goes_on(number, scene):
            origin = self._origin(number, scene)
        before = self._scenes[-1] if self._scenes else None
        planned = self._planned(number, before, None if origin is None else self._scenes[origin])
        start = self._length - (planned.blend if planned.transition == "dissolve" else 0)
        self._scenes.append(replace(planned, start=start, origin=origin))
        self._length = start + planned.pictures

    def check_others(self) -> None:
        """Raise SourceError for what is wrong in scenes that the film does not show, and in steps that it does not take."""
        scenes, numbers = self._file.story.scenes, scene_numbers(self._file)
        steps = {(before.number, after.number) for before, after in pairwise(self._scenes)}
        known = {scene.number: scene for scene in self._scenes}
        # A scene after another one can be longer or shorter than elsewhere, and what follows it depends on that.
        seen = {(scene.number, scene.pictures, scene.blend) for scene in self._scenes}
        waiting = [*self._scenes]
        while waiting:
            before = waiting.pop()
            for number in followers(self._file, before.number, numbers):
                if (before.number, number) in steps:
                    continue
                origin, scene = None, scenes[number]
                if self._goes_on(number, scene):
                    origin = before if scene.origin.scene is None else known[numbers[scene.origin.scene]]
                planned = self._planned(number, before, origin)
                known.setdefault(number, planned)
                if (state := (number, planned.pictures, planned.blend)) not in seen:
                    seen.add(state)
                    waiting.append(planned)
        for number, scene in enumerate(scenes):
            if number not in known:  # no way leads there yet
                self._goes_on(number, scene)
                self._planned(number, None, None)

    def _planned(self, number: int, before: PlannedScene | None, origin: PlannedScene | None) -> PlannedScene:
        """Return the scene of that number as it is after another one, but for its place. Raises SourceError."""
        scene = self._file.story.scenes[number]
        place: Place = ("scenes", number)
        try:
            planned = self._card(number, scene) if scene.card is not None else self._clip(number, scene, origin)
        except (UsageError, PlanError) as error:
            if type(error).__name__ == "SourceError":
                raise
            key = next(
                (key for key in ("pictures", "seconds") if isinstance(error, GeometryError | PlanError)), "prompt"
            )
            raise self._file.source.error(
                (*place, key if getattr(scene, key, None) is not None else "prompt"),
                f"scene {number + 1} ({self._names[number]}): {error}",
            ) from error
        self._check_captions(number, scene, planned)
        transition = scene.transition or self._file.story.transition
        blend = 0 if transition.kind == "cut" else max(1, round(transition.seconds * self._fps))
        if before is None:
            blend = blend if transition.kind == "fade" else 0
        else:
            least = min(before.pictures - before.blend, planned.pictures)
            if blend >= least:
                raise self._file.source.error(
                    (*place, "transition"),
                    f"a {transition.kind} of {blend} pictures is longer than a scene beside it: make it shorter than "
                    f"{float(least / Fraction(self._fps)):g} s",
                )
        return replace(planned, transition=transition.kind if blend else "cut", blend=blend)

    def finish(self) -> FilmPlan:
        """Return the plan. Raises UsageError where the film is longer than its format may be."""
        seconds = float(self._length / Fraction(self._fps))
        if self._size.seconds is not None and seconds > self._size.seconds:
            raise UsageError(f"the film lasts {seconds:g} s, and its format takes {self._size.seconds:g}: shorten it")
        return self.so_far()

    def so_far(self) -> FilmPlan:
        """Return the plan of what was added, which need not be a whole film."""
        peak = max(self._peaks.values(), default=0)
        return FilmPlan(self._file, tuple(self._scenes), self._size, self._fps, self._length, peak, self._fit)

    def _card(self, number: int, scene: Scene) -> PlannedScene:
        card = card_of(self._file, scene)
        pictures = scene.pictures or max(1, round((scene.seconds or _CARD_SECONDS) * self._fps))
        if self._lettering is not None:
            try:
                draw_card(card, *self._size.shown, self._lettering)
            except UsageError as error:
                raise self._file.source.error(("scenes", number, "card"), str(error)) from error
        return PlannedScene(number, self._names[number], 0, pictures, "cut", 0, card)

    def _clip(self, number: int, scene: Scene, origin: PlannedScene | None) -> PlannedScene:
        story, manifest = self._file.story, self._manifest
        prompt = prompt_of(self._file, number)
        asked = OpenRequest(
            prompt,
            seed=scene.seed,
            negative_prompt=scene.negative or story.negative,
            recipe=story.recipe,
            decoder=story.decoder,
        )
        asked = replace(asked, **self._overrides)
        seconds = scene.seconds
        if scene.pictures is not None:
            seconds = float(scene.pictures / Fraction(self._fps))
        if origin is not None:
            if origin.request is None:
                raise self._file.source.error(
                    ("scenes", number, "from"), "before it comes a card, and no scene goes on from one"
                )
            request = continued_request(manifest, asked, origin.request, seconds)
            pictures = request.frames - request.overlap
            if scene.pictures not in (None, pictures):
                raise GeometryError(
                    f"{scene.pictures} pictures are not possible where it goes on: the nearest is {pictures}"
                )
            joined = goes_on_from_latents(manifest)
            continues: str | None = origin.key
        else:
            picture = scene.origin.picture
            if picture is not None:
                path = str(inside(self._file, ("scenes", number, "from"), picture))
                asked = replace(asked, image=self._pictures.setdefault(path, path), fit=self._fit)
            frames = scene.pictures
            if frames is None and seconds is not None:
                check_seconds(seconds)
                frames = nearest_frames(manifest.latent, max(1, round(seconds * self._fps)))
            seed = story.seed if scene.seed is None else scene.seed
            asked = replace(asked, seed=seed, size=self._size.made, frames=frames, fps=self._fps)
            asked = asked.with_pictures(manifest)
            if picture is not None:
                self._pictures[path] = asked.image  # read once, however many scenes begin with it
            request = asked.complete(manifest)
            pictures, joined, continues, seconds = request.frames, False, None, None
        self._plan_memory(request, continues is not None or asked.image is not None)
        return PlannedScene(
            number,
            self._names[number],
            0,
            pictures,
            "cut",
            0,
            asked=asked,
            request=request,
            seconds=seconds,
            joined=joined,
            key=scene_key(manifest.digest, request, self._numerics, continues),
        )

    def _goes_on(self, number: int, scene: Scene) -> bool:
        """Tell whether a scene goes on from another one. Raises SourceError where the model cannot do what it asks for."""
        kind, place = scene.origin.kind, ("scenes", number, "from")
        if kind == "none":
            return False
        if kind == "picture":
            try:
                check_pictures(self._manifest, first=True, last=False)
            except UsageError as error:
                raise self._file.source.error(place, str(error)) from error
            return False
        if not can_continue(self._manifest):
            if self._file.story.continuity == "if-possible":
                return False
            raise self._file.source.error(
                place,
                f"the bundle {self._manifest.name} makes clips of a prompt alone, so no scene goes on from another: leave it "
                "out, take another bundle, or write continuity: if-possible",
            )
        return True

    def _origin(self, number: int, scene: Scene) -> int:
        """Return the scene of the film, the last one of its name, that one goes on from. Raises SourceError."""
        if scene.origin.scene is None:
            found = len(self._scenes) - 1
        else:
            wanted = self._names.index(scene.origin.scene)
            found = max((index for index, each in enumerate(self._scenes) if each.number == wanted), default=-1)
        if found < 0:
            place = ("scenes", number, "from")
            raise self._file.source.error(place, "what it goes on from does not come before it in the film")
        return found

    def _plan_memory(self, request: Request, pictures: bool) -> None:
        # A film's chunks are as large however long it is; what does not fit is refused here, with numbers.
        key = (request.frames if self._manifest.stream is None else 0, pictures)
        if key not in self._peaks:
            uses = Uses(request.decoder, pictures or self._manifest.condition is not None)
            self._peaks[key] = self._reel.plan(request.width, request.height, request.frames, None, uses).peak

    def _check_captions(self, number: int, scene: Scene, planned: PlannedScene) -> None:
        """Raise SourceError for captions and words that a scene is too short for, or that do not fit into its pictures."""
        seconds = float(planned.pictures / Fraction(self._fps))
        place: Place = ("scenes", number)
        timed = [((*place, "captions", index), each) for index, each in enumerate(scene.captions)]
        for at, caption in timed:
            end = caption.at + (caption.seconds or 0)
            if caption.at >= seconds or end > seconds + 0.001:
                raise self._file.source.error(at, f"ends at {end:g} s, and the scene after {seconds:g}")
        if (spoken := scene.narration) is not None:
            at = (*place, "narration")
            end = spoken.at
            if (sound := narration_sound(self._file, number)) is not None:
                end += sound[1]
            if spoken.at >= seconds or end > seconds + 0.05:
                raise self._file.source.error(at, f"its words end at {end:.2f} s, and the scene after {seconds:g}")
        if self._lettering is None or not self._file.story.burn:
            return
        for at, text in [(at, each.text) for at, each in timed] + [((*place, "caption"), scene.caption)] * bool(
            scene.caption
        ):
            try:
                caption_cover(check_caption(str(text)), *self._size.shown, self._lettering)
            except EdgereelError as error:
                raise self._file.source.error(at, str(error)) from error
