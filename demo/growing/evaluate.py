"""`python -m edgereel.demo.growing.evaluate --run RUN`: the grown model's tables, measured in torch on held-out captions."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch

from ..evaluate import held_out_captions
from ..gauges import TABLES, Figures, table_rows
from ..training.run_folder import RunFolder
from .candidate import Candidate, autoencoder, candidate
from .latents import to_uint8
from .presets import GROWTHS

_TABLES = ("autoencoder", *TABLES)


def measure(
    made: Candidate, run: RunFolder, table: str, size: tuple[int, int], count: int, chunks: int
) -> dict[str, Figures]:
    """Return the rows of one table for one candidate and format, by title."""
    if table == "autoencoder":
        return {"": autoencoder(made, run, size, count)}
    return table_rows(table, made, made.tiny(run) if table == "tiny" else None, size, count, chunks)


def sheet(made: Candidate, size: tuple[int, int], path: Path, chunks: int, rows: int = 6) -> None:
    """Write a PNG of films, one a row, every fifth picture; the prompt changes after each third of the chunks."""
    from PIL import Image

    captions = [caption for _, caption in held_out_captions(3 * rows)]
    prompts = [captions[rows * (3 * index // chunks) :][:rows] for index in range(chunks)]
    films = to_uint8(made.decode(made.roller().roll(prompts, list(range(rows)), size)))
    strip = np.concatenate([np.concatenate(list(film[::5]), axis=1) for film in films], axis=0)
    Image.fromarray(strip).save(path, optimize=True)


def main() -> None:
    """Print a line of figures for each table, candidate and format, or with --json all of them."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.growing.evaluate", description=__doc__)
    parser.add_argument("--preset", choices=sorted(GROWTHS), default="cpu")
    parser.add_argument("--run", type=Path, required=True, help="the training's run folder")
    parser.add_argument("--models", nargs="+", default=["student:4", "student:2", "student:1", "teacher:16"])
    parser.add_argument("--tables", nargs="+", choices=_TABLES, default=list(_TABLES))
    parser.add_argument("--formats", type=int, nargs="+", default=[0, 1, 2], help="indices of the preset's formats")
    parser.add_argument("--clips", type=int, default=230)
    parser.add_argument("--streams", type=int, default=30)
    parser.add_argument("--chunks", type=int, default=21, help="length of a stream; 21 chunks have 20 hand-overs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of films (PNG) and measure nothing")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    growth, run = GROWTHS[arguments.preset], RunFolder(arguments.run)
    results = []
    for name in arguments.models:
        made = candidate(growth, run, name)
        for index in arguments.formats:
            size = growth.formats[index]
            if arguments.sheet:
                sheet(made, size, arguments.sheet.with_stem(f"{arguments.sheet.stem}-{index}"), 6)
                continue
            for table in arguments.tables:
                count = arguments.streams if table in ("streams", "prompts") else arguments.clips
                for title, figures in measure(made, run, table, size, count, arguments.chunks).items():
                    row = {"table": table, "model": name, "size": f"{size[0]}x{size[1]}", "way": title, "count": count}
                    results.append({**row, **{key: round(value, 4) for key, value in figures.items()}})
                    if not arguments.json:
                        print(
                            "  ".join(f"{key} {value}" for key, value in results[-1].items() if value != ""), flush=True
                        )
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
