"""`python -m edgereel.tools.pictures.stories docs/stories.png`: the stories of examples/stories, a row of pictures each."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..story_measurements import STORIES
from ..story_scores import decoded, run_edgereel

_COLUMNS, _CELL, _TITLE = 10, 72, 64
_WAYS = {"film": (), "tale": (1, 2), "lesson": (2,)}
"""The choices of each story's way."""


def main() -> None:
    """Make the stories and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {story: _spread(decoded(_made(folder, story, choices))) for story, choices in _WAYS.items()}
        rows["campaign"] = _campaign(folder)
    sheet = Image.new("RGB", (_TITLE + _COLUMNS * _CELL, len(rows) * _CELL), (16, 16, 20))
    pen = ImageDraw.Draw(sheet)
    for number, (story, pictures) in enumerate(rows.items()):
        middle = (_TITLE / 2, (number + 0.5) * _CELL)
        pen.text(middle, story, fill="white", anchor="mm", font_size=13)
        for column, pixels in enumerate(pictures):
            shown = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(shown, (_TITLE + column * _CELL, number * _CELL))
    sheet.quantize(256).save(arguments.path, optimize=True)


def _made(folder: Path, story: str, choices: tuple[int, ...]) -> Path:
    output = folder / f"{story}.mp4"
    choose = ["--choose", ",".join(map(str, choices))] if choices else []
    run_edgereel(folder, "story", "make", STORIES / f"{story}.yaml", "-o", output, *choose)
    return output


def _campaign(folder: Path) -> list[Any]:
    """Return a picture from the middle of rows that are spread over the campaign."""
    run_edgereel(folder, "matrix", STORIES / "campaign.yaml", "-o", folder / "campaign")
    rows = json.loads((folder / "campaign" / "manifest.json").read_text(encoding="utf-8"))["rows"]
    # Neighbours differ in one word alone: a prime stride shows all of them.
    chosen = [rows[(17 * number) % len(rows)] for number in range(_COLUMNS)]
    clips = [decoded(folder / "campaign" / row["file"]) for row in chosen]
    return [clip[len(clip) // 2] for clip in clips]


def _spread(pictures: Any) -> list[Any]:
    """Return pictures from the middles of as many equal parts as there are columns."""
    middles = (np.arange(_COLUMNS) + 0.5) / _COLUMNS * len(pictures)
    return [pictures[int(at)] for at in middles]


if __name__ == "__main__":
    main()
