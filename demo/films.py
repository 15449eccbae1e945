"""Films: clips that go on, shot after shot, each with a caption of its own.

A film is a row of shots. The object is never cut: it goes on from where the shot before left it, with the same motion or
another; its shape, its colour and the scene may change, within a few pictures. The picture is a torus: what leaves it at
one edge comes in at the opposite one, so that every motion may go on for ever at the speed that `clips.py` gives it.
Growing and shrinking end at the largest and the smallest size. The first shot has FIRST pictures, every later one NEXT:
what a chunk of five latent frames decodes to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import COLOURS, MOTIONS, PLACES, SCENES, SHAPES, TAU, VERBS, Subject, coverage, split

Array = NDArray[np.floating[Any]]

FIRST, NEXT = 17, 20
# Time of one picture, in the units of `clips.py`, in which a whole small clip lasts 1.
PICTURE = 1 / 16
SMALLEST, LARGEST = 0.55, 1.55
# Pictures that a change of object or scene takes.
FADE = 4

# How far each motion has gone after a time u: right, down (pictures), and in scale.
_PATHS: dict[str, Callable[[Array], tuple[Array, Array, Array]]] = {
    "moves right": lambda u: (0.5 * u, 0 * u, 0 * u),
    "moves left": lambda u: (-0.5 * u, 0 * u, 0 * u),
    "rises": lambda u: (0 * u, -0.5 * u, 0 * u),
    "falls": lambda u: (0 * u, 0.5 * u, 0 * u),
    "bounces": lambda u: (0 * u, -0.42 * np.abs(np.sin(TAU * u)), 0 * u),
    "circles": lambda u: (0.25 * np.sin(TAU * u), 0.25 - 0.25 * np.cos(TAU * u), 0 * u),
    "grows": lambda u: (0 * u, 0 * u, u),
    "shrinks": lambda u: (0 * u, 0 * u, -u),
}


@dataclass(frozen=True)
class Shot:
    """What a stretch of pictures shows. motions: one, or two of which each takes half of the shot."""

    shape: str
    colour: str
    motions: tuple[str, ...]
    scene: str

    def subjects(self) -> list[Subject]:
        """Return the subject of each motion."""
        return [Subject(self.shape, self.colour, motion, self.scene) for motion in self.motions]

    def captions(self) -> list[str]:
        """Return captions that say everything."""
        thing = f"{_article(self.colour)} {self.colour} {self.shape}"
        verb, doing, other = (_joined([VERBS[motion][form] for motion in self.motions]) for form in range(3))
        return [
            caption
            for place in PLACES[self.scene]
            for caption in (
                f"{thing} {verb} {place}",
                f"{thing} {other} {place}",
                f"{thing} is {doing} {place}",
                f"{place} {thing} {verb}",
                f"{place} {thing} is {doing}",
                f"a video of {thing} that {other} {place}",
            )
        ]

    def short_captions(self) -> list[str]:
        """Return captions that leave something out: the motion, the place, the colour or all but the thing."""
        article, thing = _article(self.colour), f"{self.colour} {self.shape}"
        verb, doing, _ = (_joined([VERBS[motion][form] for motion in self.motions]) for form in range(3))
        place = PLACES[self.scene][0]
        return [
            f"{article} {thing}",
            f"{article} {thing} {place}",
            f"{article} {thing} {verb}",
            f"{article} {thing} is {doing}",
            f"a {self.shape} {verb} {place}",
            f"{place} {article} {thing}",
        ]

    def pronoun_captions(self) -> list[str]:
        """Return captions that speak of what is in the picture already."""
        verb, doing, other = (_joined([VERBS[motion][form] for motion in self.motions]) for form in range(3))
        return [f"it {verb}", f"it is {doing}", f"then it {other}", f"then it {verb} {PLACES[self.scene][0]}"]


@dataclass(frozen=True)
class Wear:
    """What a shot's object looks like where a model has let it go: part of another shape, and leaning.

    shot: its index. share: of the other shape, 0 to 1. lean: how far right it goes for each step down.
    """

    shot: int
    shape: str
    share: float
    lean: float


@dataclass(frozen=True)
class Film:
    """Shots in a row. anywhere: whether the first begins somewhere at some size, not where its motion calls for.

    wear: a shot that is worn. It is there to be remembered; the next one shows its own shape again, within FADE pictures.
    """

    shots: tuple[Shot, ...]
    anywhere: bool = False
    wear: Wear | None = None


def _article(colour: str) -> str:
    return "an" if colour == "orange" else "a"


def _joined(verbs: list[str]) -> str:
    return " then ".join(verbs)


def draw_shot(rng: np.random.RandomState, *, like: Shot | None = None, changed: Sequence[str] = ()) -> Shot:
    """Return a random shot none of whose subjects is held out; where `like` is given, only `changed` fields are drawn."""
    while True:
        count = 2 if rng.uniform() < 0.15 else 1
        motions = [str(name) for name in rng.choice(list(MOTIONS), count, replace=False, p=_shares_of(MOTIONS))]
        drawn = Shot(_one_of(rng, SHAPES), _one_of(rng, COLOURS), tuple(motions), _one_of(rng, SCENES))
        shot = drawn if like is None else replace(like, **{name: getattr(drawn, name) for name in changed})
        if not any(subject in held_out_subjects() for subject in shot.subjects()):
            return shot


# What is hard to learn is drawn more often than the rest, by so many times.
_OFTENER = {"star": 2.0, "cross": 2.0, "triangle": 1.3, "circles": 1.6, "bounces": 1.4}


def _shares_of(names: dict[str, Any]) -> list[float]:
    weights = [_OFTENER.get(name, 1.0) for name in names]
    return [weight / sum(weights) for weight in weights]


def _one_of(rng: np.random.RandomState, names: dict[str, Any]) -> str:
    return str(rng.choice(list(names), p=_shares_of(names)))


_HELD_OUT: set[Subject] = set()


def held_out_subjects() -> set[Subject]:
    """Return the subjects that are never trained on."""
    if not _HELD_OUT:
        _HELD_OUT.update(split()[1])
    return _HELD_OUT


# What changes from shot to shot, and how often.
CHANGES: tuple[tuple[tuple[str, ...], float], ...] = (
    ((), 0.20),
    (("motions",), 0.15),
    (("shape", "colour"), 0.08),
    (("colour",), 0.04),
    (("shape",), 0.10),
    (("scene",), 0.08),
    (("shape", "colour", "motions", "scene"), 0.35),
)


def draw_film(rng: np.random.RandomState, shots: int) -> Film:
    """Return a random film of so many shots, for training."""
    row = [draw_shot(rng)]
    shares = [share for _, share in CHANGES]
    while len(row) < shots:
        changed = CHANGES[rng.choice(len(CHANGES), p=shares)][0]
        row.append(draw_shot(rng, like=row[-1], changed=changed) if changed else row[-1])
    return Film(tuple(row), anywhere=bool(rng.uniform() < 0.4))


def worn(film: Film, rng: np.random.RandomState) -> Film:
    """Return a film one of whose shots, not the last, is worn."""
    shot = int(rng.randint(len(film.shots) - 1))
    others = [name for name in SHAPES if name != film.shots[shot].shape]
    wear = Wear(shot, others[rng.randint(len(others))], float(rng.uniform(0.1, 0.6)), float(rng.uniform(-0.5, 0.5)))
    return replace(film, wear=wear)


def draw_caption(film: Film, index: int, rng: np.random.RandomState, *, has_context: bool) -> str:
    """Return a caption of one of a film's shots that is true of it.

    has_context: whether the model sees what came before (a picture at least), so that the caption may be silent about
    what it goes on with. What a caption is silent about is what has not changed.
    """
    shot, former = film.shots[index], film.shots[max(index - 1, 0)]
    draw = rng.uniform()
    if draw < 0.7:
        return _any(rng, shot.captions())
    same_thing, same_scene = (shot.shape, shot.colour) == (former.shape, former.colour), shot.scene == former.scene
    if has_context and draw < 0.85 and same_thing:
        captions = shot.pronoun_captions()
        return _any(rng, captions if same_scene else captions[-1:])
    if not has_context or (same_thing and same_scene and shot.motions == former.motions):
        return _any(rng, shot.short_captions())
    if same_scene:
        return _any(rng, shot.short_captions()[2:4])
    return _any(rng, shot.captions())


def _any(rng: np.random.RandomState, captions: list[str]) -> str:
    return captions[rng.randint(len(captions))]


def pictures_of(shots: int) -> int:
    """Return how many pictures a film of so many shots has."""
    return FIRST + NEXT * (shots - 1)


def render_film(film: Film, rng: np.random.RandomState, *, height: int, width: int) -> NDArray[np.uint8]:
    """Render a film: uint8 [pictures, height, width, 3], RGB."""
    y, x = np.meshgrid(
        (np.arange(height, dtype=np.float32) + 0.5) / height,
        (np.arange(width, dtype=np.float32) + 0.5) / width,
        indexing="ij",
    )
    phase, radius = float(rng.uniform()), float(rng.uniform(0.17, 0.20))
    pictures = []
    for index, (shot, track) in enumerate(zip(film.shots, tracks(film, rng), strict=True)):
        began = 0 if index == 0 else pictures_of(index)
        u = ((began + np.arange(len(track))) * PICTURE).astype(np.float32)[:, None, None]
        former = film.shots[max(index - 1, 0)]
        fade = np.clip((np.arange(len(track)) + 1) / (FADE + 1), 0, 1).astype(np.float32)[:, None, None, None]
        background = SCENES[shot.scene](x, y, u, phase)
        if former.scene != shot.scene:
            background = background * fade + SCENES[former.scene](x, y, u, phase) * (1 - fade)
        colour = np.asarray(COLOURS[shot.colour], np.float32)
        if former.colour != shot.colour:
            colour = colour * fade + np.asarray(COLOURS[former.colour], np.float32) * (1 - fade)
        wear, worn_before = _wear_of(film, index), _wear_of(film, index - 1)
        alpha = _covered(shot.shape, x, y, track, radius, wear)
        if former.shape != shot.shape or worn_before:
            alpha = alpha * fade + _covered(former.shape, x, y, track, radius, worn_before) * (1 - fade)
        pictures.append(background * (1 - alpha) + colour * alpha)
    return np.round(np.clip(np.concatenate(pictures), 0, 1) * 255).astype(np.uint8)


def _wear_of(film: Film, index: int) -> Wear | None:
    return film.wear if film.wear is not None and film.wear.shot == index else None


def _covered(shape: str, x: Array, y: Array, track: Array, radius: float, wear: Wear | None) -> Array:
    """Return how much of each pixel the object covers, [pictures, height, width, 1], on the torus."""
    height, width = x.shape
    shortest = min(height, width)
    centre_x, centre_y, scale = (track[:, i, None, None].astype(np.float32) for i in range(3))
    offset_x = (x - centre_x + 0.5) % 1 - 0.5
    offset_y = (y - centre_y + 0.5) % 1 - 0.5
    size = np.float32(radius) * scale
    offset_x, offset_y = offset_x * (width / shortest), offset_y * (height / shortest)
    if wear is not None:
        offset_x = offset_x - wear.lean * offset_y
    shares = {shape: 1.0} if wear is None else {shape: 1 - wear.share, wear.shape: wear.share}
    return coverage(shares, offset_x, offset_y, size, softness=2.0 / shortest)[..., None]


def tracks(film: Film, rng: np.random.RandomState) -> list[Array]:
    """Return centre x, centre y (not wrapped) and scale by picture, [pictures, 3], for each shot."""
    first = film.shots[0].motions[0]
    start = np.array([float(value) for value in MOTIONS[first](np.zeros((), np.float32))])
    start[:2] += rng.uniform(-0.05, 0.05, size=2)
    if film.anywhere:
        start = np.array([rng.uniform(), rng.uniform(), rng.uniform(SMALLEST, LARGEST)])
    result: list[Array] = []
    at, gone = start, 0.0
    for index, shot in enumerate(film.shots):
        count = FIRST if index == 0 else NEXT
        # Time since the last picture of the shot before, which is where this shot goes on from.
        u = np.arange(count) * PICTURE if index == 0 else (1 + np.arange(count)) * PICTURE
        if len(shot.motions) == 1 and index and shot.motions == film.shots[index - 1].motions:
            track = along(shot.motions[0], at, gone + u)
            gone += float(u[-1])
        else:
            if index:
                at = result[-1][-1]
            half = u[-1] / 2 if len(shot.motions) == 2 else u[-1] + 1
            track = along(shot.motions[0], at, u)
            if len(shot.motions) == 2:
                turn = along(shot.motions[0], at, np.array([half]))[0]
                track = np.where((u <= half)[:, None], track, along(shot.motions[1], turn, u - half))
            gone = float(u[-1])
        result.append(track)
    return result


def along(motion: str, at: Array, u: Array) -> Array:
    """Return centre x, centre y and scale [n, 3] of a motion that was at `at` [3], after times u [n]."""
    right, down, larger = _PATHS[motion](u)
    return np.stack([at[0] + right, at[1] + down, np.clip(at[2] + larger, SMALLEST, LARGEST)], axis=-1)
