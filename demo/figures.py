"""`python -m edgereel.demo.figures`: what a bundle of the demo does on held-out captions, use by use and format by format.

Words shown, a picture come alive, twenty hand-overs beside clips chained by their last picture, a changed prompt, the tiny
decoder: measured through the runtime, read by `scorer.py` and `film_scorer.py`. What a bundle cannot do is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..bundle.manifest import Manifest
from ..runtime.reel import Reel, load
from .bundle_films import BundleFilms
from .gauges import TABLES, Figures, table_rows


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


def rows(reel: Reel, table: str, size: tuple[int, int], steps: int, count: int, chunks: int) -> dict[str, Figures]:
    """Return the rows of one table by way, see table_rows; the table `tiny` is beside the full decoder."""
    full, tiny = (BundleFilms(reel, steps=steps, decoder=name) for name in ("full", "tiny"))
    return table_rows(table, full if table == "tiny" else BundleFilms(reel, steps=steps), tiny, size, count, chunks)


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
                    made = rows(reel, table, formats[name], steps, count, arguments.chunks)
                    for way, figures in made.items():
                        row = {"table": table, "format": name, "steps": steps, "way": way, "count": count}
                        results.append({**row, **{key: round(value, 4) for key, value in figures.items()}})
                        if not arguments.json:
                            shown = "  ".join(f"{key} {value}" for key, value in results[-1].items() if value != "")
                            print(shown, flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
