"""`python -m edgereel.demo.showcase PATH.png`: what the built-in model does, in one picture.

Prompts in three formats, pictures that come alive (one as training drew them, a photograph and a drawing of kinds that it
never saw), and a film of eight chunks whose prompt changes twice. Needs `edgereel[bench]`: the photograph, which is in the
public domain, comes with matplotlib.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..runtime.reel import load
from .bundle_films import BundleFilms
from .evaluate import held_out_captions
from .figures import formats_of
from .films import FIRST, NEXT
from .gauges import Clips, true_clips

_PROMPTS = (
    ("square", "a red ball bounces over the ocean"),
    ("square", "a yellow star rises in the snow"),
    ("wide", "a pink cross moves to the right in the forest"),
    ("tall", "a cyan square falls above a volcano"),
)
_FILM = (
    (3, "a red ball moves to the right over the ocean"),
    (3, "a yellow star circles around in the night sky"),
    (2, "a green triangle rises in the desert"),
)
_COLUMNS = 6
_STRIP = 12
_CELL = 96
_GAP, _TITLE, _WIDTH = 6, 18, 2 * (_COLUMNS * (_CELL + 2) + 12)


@dataclass(frozen=True)
class _Row:
    title: str
    pictures: list[Clips]


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.showcase", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--bundle", type=Path, help="the .reel folder; the built-in demo if left out")
    arguments = parser.parse_args()
    with load(arguments.bundle) as reel:
        maker = BundleFilms(reel)
        formats = formats_of(reel.bundle.manifest)
        words = []
        for seed, (name, prompt) in enumerate(_PROMPTS):
            clip = maker.films([[prompt]], [seed], formats[name])[0]
            words.append(_Row(f"{prompt} ({name})", _spread(clip, _COLUMNS)))
        alive = []
        for seed, (picture, prompt, what) in enumerate(_pictures(formats["square"])):
            clip = maker.films([[prompt]], [seed], formats["square"], picture[None])[0]
            alive.append(_Row(f"{what}, {prompt}", [picture, *_spread(clip, _COLUMNS)[1:]]))
        prompts = [[prompt] for count, prompt in _FILM for _ in range(count)]
        film = maker.films(prompts, [5], formats["wide"])[0]
    strips: list[_Row] = []
    at = 0
    for count, prompt in _FILM:
        length = count * NEXT + (FIRST - NEXT if at == 0 else 0)
        title = f"then: {prompt}" if strips else f"one film of eight chunks: {prompt}"
        strips.append(_Row(title, _spread(film[at : at + length], _STRIP)))
        at += length
    _sheet(words, alive, strips).quantize(256).save(arguments.path, optimize=True)


def _spread(clip: Clips, count: int) -> list[Clips]:
    return [clip[index] for index in np.linspace(0, len(clip) - 1, count).round().astype(int)]


def _pictures(size: tuple[int, int]) -> list[tuple[Clips, str, str]]:
    """Return pictures [H, W, 3], what is asked of each, and what each is."""
    from matplotlib.cbook import get_sample_data

    true = true_clips(size, 1)[0][0]
    photograph = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    width = photograph.width
    cut = photograph.crop((0, 40, width, 40 + width)).resize(size, Image.Resampling.LANCZOS)
    drawing = Image.new("RGB", (4 * size[0], 4 * size[1]), (250, 244, 228))
    pen = ImageDraw.Draw(drawing)
    _draw_house(pen, drawing.width / 16)
    small = drawing.resize(size, Image.Resampling.LANCZOS)
    asked, subject = "it moves to the right", held_out_captions(1)[0][0]
    return [
        (true, replace(subject, motion="moves right").captions()[0], "a picture as in training"),
        (true, asked, "the same"),
        (np.asarray(cut, np.uint8), asked, "a photograph"),
        (np.asarray(small, np.uint8), asked, "a drawing"),
    ]


def _draw_house(pen: Any, unit: float) -> None:
    """Draw a house and a sun on a canvas of 16 units."""
    at = [(3, 8), (9, 8), (9, 14), (3, 14), (3, 8), (6, 4), (9, 8)]
    pen.line([(x * unit, y * unit) for x, y in at], fill=(60, 50, 50), width=round(unit / 4), joint="curve")
    pen.rectangle((5 * unit, 10.5 * unit, 7 * unit, 14 * unit), fill=(150, 80, 50))
    pen.ellipse((11 * unit, 2 * unit, 14 * unit, 5 * unit), fill=(250, 180, 40))
    pen.line((0, 14 * unit, 16 * unit, 14 * unit), fill=(70, 120, 60), width=round(unit / 3))


def _sheet(words: list[_Row], alive: list[_Row], strips: list[_Row]) -> Any:
    """Return an image: words on the left, pictures on the right, the film below."""
    half = _WIDTH // 2
    height = max(len(words), len(alive)) * (_CELL + _TITLE + _GAP) + _GAP
    strip_cell = (_WIDTH - 12) // _STRIP - 2
    strip_height = len(strips) * (strip_cell * 96 // 160 + _TITLE + _GAP) + _GAP
    sheet = Image.new("RGB", (_WIDTH, height + strip_height), "white")
    for left, rows in ((6, words), (half + 6, alive)):
        for index, row in enumerate(rows):
            _put(sheet, (left, _GAP + index * (_CELL + _TITLE + _GAP)), row, _CELL, _CELL)
    for index, row in enumerate(strips):
        at = (6, height + index * (strip_cell * 96 // 160 + _TITLE + _GAP))
        _put(sheet, at, row, strip_cell, strip_cell * 96 // 160)
    return sheet


def _put(sheet: Any, at: tuple[int, int], row: _Row, width: int, height: int) -> None:
    """Put a title and pictures below it; pictures of another shape are fitted in."""
    left, top = at
    ImageDraw.Draw(sheet).text((left, top + 2), row.title, fill="black", font_size=12)
    for column, pixels in enumerate(row.pictures):
        picture = Image.fromarray(pixels)
        scale = min(width / picture.width, height / picture.height)
        shown = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
        x = left + column * (width + 2) + (width - shown.width) // 2
        sheet.paste(shown, (x, top + _TITLE + (height - shown.height) // 2))


if __name__ == "__main__":
    main()
