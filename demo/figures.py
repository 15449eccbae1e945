"""`python -m edgereel.demo.figures`: what a bundle of the demo does on held-out captions, use by use and format by format.

Words shown, a picture come alive, twenty hand-overs beside clips chained by their last picture, a changed prompt, the tiny
decoder: measured through the runtime, read by `scorer.py` and `film_scorer.py`. What a bundle cannot do is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from ..bundle.manifest import Manifest
from ..runtime.reel import Reel, load
from . import gauges
from .bundle_films import BundleFilms
from .gauges import Figures

TABLES = ("text", "picture", "streams", "prompts", "tiny")


def tables_of(manifest: Manifest) -> list[str]:
    """Return the tables that a bundle can be measured for."""
    takes_pictures = manifest.roles.encoder_first is not None
    can = {
        "text": True,
        "picture": takes_pictures,
        "streams": manifest.stream is not None and takes_pictures,
        "prompts": manifest.stream is not None,
        "tiny": "tiny" in (manifest.roles.decoders or {}),
    }
    return [table for table in TABLES if can[table]]


def formats_of(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Return the (width, height) that a bundle was made for, by name."""
    defaults = manifest.defaults
    if not defaults.formats:
        return {"default": (defaults.width, defaults.height)}
    return {name: (width, height) for name, (width, height) in defaults.formats.items()}


def rows(reel: Reel, table: str, size: tuple[int, int], steps: int, count: int, chunks: int) -> Iterator[Figures]:
    """Yield the rows of one table: of streams two, by context and by the last picture."""
    maker = BundleFilms(reel, steps=steps)
    if table == "text":
        shown = gauges.text_to_video(maker, size, count)
        yield {**shown, "displacement": shown["displacement"] / gauges.true_displacement(size, count)}
    elif table == "picture":
        yield gauges.picture_to_video(maker, size, count)
    elif table == "streams":
        yield gauges.hand_overs(maker, size, count, chunks)
        yield gauges.hand_overs(maker, size, count, chunks, chained=True)
    elif table == "prompts":
        yield gauges.changed_prompt(maker, size, count)
    else:
        full, tiny = (BundleFilms(reel, steps=steps, decoder=name) for name in ("full", "tiny"))
        yield gauges.another_decoder(full, tiny, size, count)


def main() -> None:
    """Print a line of figures for each table, format and number of steps, or with --json all of them."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.figures", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="the .reel folder; the built-in demo if left out")
    parser.add_argument("--tables", nargs="+", choices=TABLES, help="all that the bundle can do if left out")
    parser.add_argument("--formats", nargs="+", help="the bundle's formats by name; all if left out")
    parser.add_argument("--steps", type=int, nargs="+", default=[4])
    parser.add_argument("--clips", type=int, default=230, help="of the tables text, picture and tiny")
    parser.add_argument("--streams", type=int, default=30, help="of the tables streams and prompts")
    parser.add_argument("--chunks", type=int, default=21, help="length of a stream; 21 chunks have 20 hand-overs")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with load(arguments.bundle, threads=arguments.threads) as reel:
        formats = formats_of(reel.bundle.manifest)
        for table in arguments.tables or tables_of(reel.bundle.manifest):
            count = arguments.streams if table in ("streams", "prompts") else arguments.clips
            for name in arguments.formats or formats:
                for steps in arguments.steps:
                    for figures in rows(
                        reel, table, (formats[name][0], formats[name][1]), steps, count, arguments.chunks
                    ):
                        row = {"table": table, "format": name, "steps": steps, "count": count}
                        results.append({**row, **{key: round(value, 4) for key, value in figures.items()}})
                        if not arguments.json:
                            print("  ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
