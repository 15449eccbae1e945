"""Procedural captioned clips: a coloured shape that moves in front of an animated scene.

Every clip is a closed-form picture of (shape, colour, motion, scene) and a few small random numbers, so that captions are
true by construction, data is endless, and `scorer.py` can read the attributes back by measurement. Positions are in
units of the picture (0, 0 is the top left, 1, 1 the bottom right); time u runs from 0 to 1 over a clip, so that a clip of
any size and length shows the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.93, 0.10, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.93, 0.12),
    "green": (0.12, 0.85, 0.22),
    "cyan": (0.10, 0.88, 0.95),
    "blue": (0.15, 0.28, 1.00),
    "pink": (1.00, 0.30, 0.85),
    "white": (0.98, 0.98, 0.98),
}

TAU = 2 * np.pi


def _disc(x: Array, y: Array, r: float) -> Array:
    distance: Array = np.hypot(x, y) - np.float32(r)
    return distance


def _square(x: Array, y: Array, r: float) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.86 * r)


def _triangle(x: Array, y: Array, r: float) -> Array:
    slanted = 0.866 * np.abs(x) - 0.5 * y
    return np.maximum(slanted, y) - np.float32(0.62 * r)


def _star(x: Array, y: Array, r: float) -> Array:
    """Five points up: distance to the edge line of the wedge that the pixel falls into."""
    angle = np.arctan2(x, -y)
    wedge = np.abs((angle / TAU * 5 + 0.5) % 1.0 - 0.5) * TAU / 5
    radius = np.hypot(x, y)
    outer, inner = 1.28 * r, 0.58 * r
    ax, ay = outer, 0.0
    bx, by = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
    length = np.hypot(bx - ax, by - ay)
    px, py = radius * np.cos(wedge), radius * np.sin(wedge)
    distance: Array = ((px - ax) * (by - ay) - (py - ay) * (bx - ax)) / np.float32(length)
    return distance


def _ring(x: Array, y: Array, r: float) -> Array:
    distance: Array = np.abs(np.hypot(x, y) - np.float32(0.83 * r)) - np.float32(0.27 * r)
    return distance


def _cross(x: Array, y: Array, r: float) -> Array:
    ax, ay = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(ax, ay) - np.float32(1.08 * r), np.minimum(ax, ay) - np.float32(0.36 * r))


SHAPES: dict[str, Callable[[Array, Array, float], Array]] = {
    "ball": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def _moves_right(u: Array) -> tuple[Array, Array, Array]:
    return 0.25 + 0.5 * u, 0.5 + 0 * u, 1 + 0 * u


def _moves_left(u: Array) -> tuple[Array, Array, Array]:
    return 0.75 - 0.5 * u, 0.5 + 0 * u, 1 + 0 * u


def _rises(u: Array) -> tuple[Array, Array, Array]:
    return 0.5 + 0 * u, 0.75 - 0.5 * u, 1 + 0 * u


def _falls(u: Array) -> tuple[Array, Array, Array]:
    return 0.5 + 0 * u, 0.25 + 0.5 * u, 1 + 0 * u


def _bounces(u: Array) -> tuple[Array, Array, Array]:
    return 0.5 + 0 * u, 0.72 - 0.42 * np.abs(np.sin(TAU * u)), 1 + 0 * u


def _circles(u: Array) -> tuple[Array, Array, Array]:
    return 0.5 + 0.25 * np.sin(TAU * u), 0.5 - 0.25 * np.cos(TAU * u), 1 + 0 * u


def _grows(u: Array) -> tuple[Array, Array, Array]:
    return 0.5 + 0 * u, 0.5 + 0 * u, 0.55 + 1.0 * u


def _shrinks(u: Array) -> tuple[Array, Array, Array]:
    return 0.5 + 0 * u, 0.5 + 0 * u, 1.55 - 1.0 * u


MOTIONS: dict[str, Callable[[Array], tuple[Array, Array, Array]]] = {
    "moves right": _moves_right,
    "moves left": _moves_left,
    "rises": _rises,
    "falls": _falls,
    "bounces": _bounces,
    "circles": _circles,
    "grows": _grows,
    "shrinks": _shrinks,
}


def _mix(a: tuple[float, float, float], b: tuple[float, float, float], amount: Array) -> Array:
    low, high = np.asarray(a, np.float32), np.asarray(b, np.float32)
    picture: Array = low + (high - low) * amount[..., None]
    return picture


def _smooth(value: Array, width: float) -> Array:
    """Return 0 below zero, 1 above, with a linear edge of that width."""
    edge: Array = np.clip(value / width + 0.5, 0, 1)
    return edge


def _ocean(x: Array, y: Array, u: Array, phase: float) -> Array:
    swell = np.sin(TAU * (5 * y - 0.8 * u + 0.12 * np.sin(TAU * (x + phase + u))))
    water = _mix((0.03, 0.18, 0.32), (0.08, 0.32, 0.46), 0.5 + 0.5 * swell)
    sky = _mix((0.38, 0.47, 0.54), (0.50, 0.54, 0.56), np.broadcast_to(y / 0.4, swell.shape))
    below = _smooth(y - 0.4 + 0 * swell, 0.06)[..., None]
    picture: Array = sky * (1 - below) + water * below
    return picture


def _desert(x: Array, y: Array, u: Array, phase: float) -> Array:
    ridge = 0.62 + 0.07 * np.sin(TAU * (x + 0.7 * u + phase))
    far = _mix((0.52, 0.43, 0.34), (0.50, 0.38, 0.22), np.broadcast_to(y / 0.6, ridge.shape))
    near = np.asarray((0.36, 0.25, 0.12), np.float32)
    below = _smooth(y - ridge, 0.08)[..., None]
    picture: Array = far * (1 - below) + near * below
    return picture


def _forest(x: Array, y: Array, u: Array, phase: float) -> Array:
    sway = 0.22 * np.sin(TAU * (u + phase)) * (1 - y)
    trunks = 0.5 + 0.5 * np.sin(TAU * (3 * x + sway))
    return _mix((0.03, 0.13, 0.06), (0.10, 0.36, 0.12), trunks)


def _night(x: Array, y: Array, u: Array, phase: float) -> Array:
    stars = (0.5 + 0.5 * np.sin(TAU * (2 * x + 0.7 * u + phase)) * np.sin(TAU * 2 * y)) ** 4
    sky = _mix((0.02, 0.02, 0.09), (0.14, 0.08, 0.26), np.broadcast_to(y, stars.shape))
    picture: Array = sky + 0.22 * stars[..., None]
    return picture


def _snow(x: Array, y: Array, u: Array, phase: float) -> Array:
    flakes = (0.5 + 0.5 * np.sin(TAU * 2 * x) * np.sin(TAU * (2 * y - u + phase))) ** 3
    sky = _mix((0.44, 0.47, 0.53), (0.56, 0.58, 0.62), np.broadcast_to(y, flakes.shape))
    picture: Array = sky + 0.10 * flakes[..., None]
    return picture


def _volcano(x: Array, y: Array, u: Array, phase: float) -> Array:
    glow = _smooth(y - 0.68 + 0.06 * np.sin(TAU * (x - 0.8 * u + phase)), 0.16)
    return _mix((0.13, 0.05, 0.06), (0.46, 0.15, 0.04), glow)


SCENES: dict[str, Callable[[Array, Array, Array, float], Array]] = {
    "ocean": _ocean,
    "desert": _desert,
    "forest": _forest,
    "night": _night,
    "snow": _snow,
    "volcano": _volcano,
}

PLACES = {
    "ocean": ("over the ocean", "above the sea"),
    "desert": ("in the desert", "over the sand"),
    "forest": ("in the forest", "among the trees"),
    "night": ("in the night sky", "among the stars"),
    "snow": ("in the snow", "on a snowy day"),
    "volcano": ("above a volcano", "over the lava"),
}
VERBS = {
    "moves right": ("moves to the right", "moving to the right", "slides right"),
    "moves left": ("moves to the left", "moving to the left", "slides left"),
    "rises": ("rises", "rising", "floats up"),
    "falls": ("falls", "falling", "drops down"),
    "bounces": ("bounces", "bouncing", "bounces up and down"),
    "circles": ("circles around", "circling around", "goes around in a circle"),
    "grows": ("grows", "growing", "gets bigger"),
    "shrinks": ("shrinks", "shrinking", "gets smaller"),
}
_PHRASINGS = (
    "{a} {colour} {shape} {verb} {place}",
    "{a} {colour} {shape} {other} {place}",
    "{a} {colour} {shape} is {doing} {place}",
    "{place} {a} {colour} {shape} {verb}",
    "{place} {a} {colour} {shape} is {doing}",
    "a video of {a} {colour} {shape} that {other} {place}",
)


@dataclass(frozen=True)
class Subject:
    """What a clip shows: one of SHAPES, COLOURS, MOTIONS and SCENES each."""

    shape: str
    colour: str
    motion: str
    scene: str

    def captions(self) -> list[str]:
        """Return every phrasing of this subject's caption; the first is the plainest."""
        verb, doing, other = VERBS[self.motion]
        article = "an" if self.colour == "orange" else "a"
        return [
            phrasing.format(
                a=article, colour=self.colour, shape=self.shape, verb=verb, doing=doing, other=other, place=place
            )
            for place in PLACES[self.scene]
            for phrasing in _PHRASINGS
        ]


EXAMPLES = (
    Subject("ball", "red", "bounces", "ocean"),
    Subject("star", "yellow", "rises", "snow"),
    Subject("ring", "orange", "circles", "night"),
    Subject("triangle", "green", "moves right", "desert"),
    Subject("cross", "pink", "grows", "forest"),
    Subject("square", "cyan", "falls", "volcano"),
    Subject("ball", "white", "moves left", "night"),
    Subject("star", "blue", "circles", "desert"),
)
"""Every shape, colour, motion but one and scene is among them."""


def subjects() -> list[Subject]:
    """Return all combinations, in a fixed order: 6 shapes x 8 colours x 8 motions x 6 scenes."""
    return [
        Subject(shape, colour, motion, scene)
        for shape in SHAPES
        for colour in COLOURS
        for motion in MOTIONS
        for scene in SCENES
    ]


def prompt_words() -> dict[str, Any]:
    """Return `vocabulary` and `examples` for a checkpoint's edgereel.json: the plainest words and phrasings.

    Whatever is chosen of the words, the sentence is a caption that a subject has.
    """
    verbs, places = [forms[0] for forms in VERBS.values()], [forms[0] for forms in PLACES.values()]
    words = {"colour": list(COLOURS), "shape": list(SHAPES), "motion": verbs, "place": places}
    return {
        "vocabulary": {
            "groups": [{"name": name, "words": choices} for name, choices in words.items()],
            "templates": ["{a} {colour} {shape} {motion} {place}"],
        },
        "examples": [subject.captions()[0] for subject in EXAMPLES],
    }


def split() -> tuple[list[Subject], list[Subject]]:
    """Return (training, held out) subjects: a fixed random 10% of the combinations is never trained on."""
    everything = subjects()
    order = np.random.RandomState(20260101).permutation(len(everything))
    held_out = len(everything) // 10
    return [everything[i] for i in order[held_out:]], [everything[i] for i in order[:held_out]]


def coverage(shape: str | dict[str, float], x: Array, y: Array, radius: Array, softness: float) -> Array:
    """Return how much of each pixel the shape covers, 0 to 1; of several with their shares, what lies between them.

    x, y: offsets from the shape's centre, any broadcastable shape. radius: its size, same units. softness: width of the
    anti-aliased edge, same units.
    """
    shares = {shape: 1.0} if isinstance(shape, str) else shape
    parts = [share * SHAPES[name](x, y, 1.0 * radius) for name, share in shares.items()]  # type: ignore[arg-type]
    alpha: Array = np.clip(0.5 - sum(parts) / softness, 0, 1)
    return alpha


def render(
    subject: Subject, rng: np.random.RandomState, *, frames: int = 17, height: int = 64, width: int = 64
) -> NDArray[np.uint8]:
    """Render one clip of a subject, with small random differences in place, size and the scene's phase.

    Returns uint8 [frames, height, width, 3], RGB.
    """
    u = np.linspace(0, 1, frames, dtype=np.float32)[:, None, None]
    y, x = np.meshgrid(
        (np.arange(height, dtype=np.float32) + 0.5) / height,
        (np.arange(width, dtype=np.float32) + 0.5) / width,
        indexing="ij",
    )
    background = SCENES[subject.scene](x, y, u, float(rng.uniform()))
    centre_x, centre_y, scale = MOTIONS[subject.motion](u)
    offset_x, offset_y = rng.uniform(-0.05, 0.05, size=2)
    radius = (rng.uniform(0.17, 0.20) * scale).astype(np.float32)
    shortest = min(height, width)
    alpha = coverage(
        subject.shape,
        (x - centre_x - np.float32(offset_x)) * (width / shortest),
        (y - centre_y - np.float32(offset_y)) * (height / shortest),
        radius,
        softness=2.0 / shortest,
    )[..., None]
    colour = np.asarray(COLOURS[subject.colour], np.float32)
    picture = background * (1 - alpha) + colour * alpha
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
