"""`python -m edgereel.demo.few_steps`: how good is the few-step student beside the teacher that it was distilled from?

Both make the same held-out captions from the same seeds, at several numbers of steps. Beside what the scorer reads off
the clips stand two things that few-step models are known to lose: spread, how far apart the clips of one caption with
different seeds are, and displacement, how far things move. Needs `edgereel[export]`, with which it exports the teacher.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..export import export_checkpoint
from ..runtime.reel import Reel, load
from .evaluate import generate_clips, held_out_captions, true_clips
from .scorer import ATTRIBUTES, displacement, read, score_readings

STUDENT_STEPS = (1, 2, 4, 8)
TEACHER_STEPS = (10, 30)
_SHEET_STEPS = {"student": (1, 2, 4), "teacher": (30,)}
_SPREAD_CAPTIONS = 12
_SPREAD_SEEDS = 4
_STDERR = Console(stderr=True)


@dataclass(frozen=True)
class Row:
    """One model at one number of steps.

    shown: fraction of clips that show their caption, by attribute. spread: root mean square difference (0 to 255) of a
    caption's clips from their mean. displacement: mean movement by frame (see `scorer.displacement`); for `moving_clips`.
    seconds: mean time of sampling one clip.
    """

    model: str
    steps: int
    shown: dict[str, float]
    spread: float
    displacement: float
    seconds: float


@contextmanager
def teacher_reel(checkpoint: Path, threads: int | None) -> Iterator[Reel]:
    """Give the teacher, exported for the time of the block."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "teacher.reel"
        export_checkpoint(checkpoint, bundle)
        with load(bundle, threads=threads) as reel:
            yield reel


def seed_spread(reel: Reel, steps: int) -> float:
    """Return how much seeds matter: the root mean square difference of a caption's clips from their mean, 0 to 255."""
    variances = []
    for _, caption in held_out_captions(_SPREAD_CAPTIONS):
        clips = [np.stack(list(reel.generate(caption, seed=seed, steps=steps))) for seed in range(_SPREAD_SEEDS)]
        variances.append(np.var(np.stack(clips).astype(np.float32), axis=0, ddof=1).mean())
    return float(np.sqrt(np.mean(variances)))


def measure(reel: Reel, model: str, steps: int, clips: int) -> Row:
    """Return a row of the table."""
    before = reel.timings.get("denoise", 0.0)
    readings = [(read(clip), subject) for clip, subject in generate_clips(reel, clips, steps=steps)]
    seconds = (reel.timings["denoise"] - before) / clips
    moved = float(np.mean([displacement(reading) for reading, _ in readings]))
    return Row(model, steps, score_readings(readings), seed_spread(reel, steps), moved, seconds)


def contact_sheet(reels: dict[str, Reel], path: Path, captions: int = 6, columns: int = 5) -> None:
    """Write a PNG of two columns of captions, for each the student at few steps above the teacher, same seeds."""
    from PIL import Image, ImageDraw

    blocks = []
    for seed, (_, caption) in enumerate(held_out_captions(captions)):
        rows = [
            (f"{model} {steps}", np.stack(list(reels[model].generate(caption, seed=seed, steps=steps))))
            for model, numbers in _SHEET_STEPS.items()
            for steps in numbers
        ]
        blocks.append((caption, rows))
    height, width = blocks[0][1][0][1].shape[1:3]
    scale, label, title = 64 / height, 100, 18
    cell = (round(width * scale), round(height * scale))
    block_size = (label + columns * cell[0] + 12, title + len(blocks[0][1]) * cell[1] + 10)
    sheet = Image.new("RGB", (2 * block_size[0], -(-len(blocks) // 2) * block_size[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, rows) in enumerate(blocks):
        left, top = index % 2 * block_size[0], index // 2 * block_size[1]
        draw.text((left + label, top + 3), caption, fill="black")
        for row, (name, clip) in enumerate(rows):
            y = top + title + row * cell[1]
            draw.text(
                (left + 4, y + cell[1] // 2 - 6), name + (" steps" if not name.endswith(" 1") else " step"), "black"
            )
            for column, frame in enumerate(np.linspace(0, len(clip) - 1, columns).round().astype(int)):
                picture = Image.fromarray(clip[frame]).resize(cell, Image.Resampling.LANCZOS)
                sheet.paste(picture, (left + label + column * cell[0], y))
    sheet.quantize(256).save(path, optimize=True)


def evaluate(
    student: Path | None, checkpoint: Path, clips: int, threads: int | None, sheet: Path | None
) -> dict[str, Any]:
    """Return every figure of the table as plain data; see the module's docstring."""
    with (
        Progress(console=_STDERR, disable=not _STDERR.is_terminal) as progress,
        load(student, threads=threads) as student_reel,
        teacher_reel(checkpoint, threads) as teacher,
    ):
        reels = {"student": student_reel, "teacher": teacher}
        wanted = [("student", steps) for steps in STUDENT_STEPS] + [("teacher", steps) for steps in TEACHER_STEPS]
        bar = progress.add_task("sampling", total=len(wanted))
        rows = []
        for model, steps in wanted:
            rows.append(measure(reels[model], model, steps, clips))
            progress.advance(bar)
        if sheet is not None:
            contact_sheet(reels, sheet)
        defaults = student_reel.bundle.manifest.defaults
    truth = [
        (read(clip), subject) for clip, subject in true_clips(clips, defaults.frames, defaults.height, defaults.width)
    ]
    return {
        "clips": clips,
        "rows": [asdict(row) for row in rows],
        "true": {
            "shown": score_readings(truth),
            "displacement": float(np.mean([displacement(reading) for reading, _ in truth])),
        },
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, spread relative to the last teacher's, displacement to true clips'."""
    reference, true = result["rows"][-1], result["true"]
    lines = [
        "| | steps | " + " | ".join(ATTRIBUTES) + " | seed spread | displacement | sampling |",
        "|---|---|" + "---|" * (len(ATTRIBUTES) + 3),
    ]
    for row in result["rows"]:
        shown = " | ".join(f"{100 * row['shown'][name]:.1f}%" for name in ATTRIBUTES)
        spread, moved = row["spread"] / reference["spread"], row["displacement"] / true["displacement"]
        lines.append(
            f"| {row['model']} | {row['steps']} | {shown} | {100 * spread:.0f}% | {100 * moved:.0f}% "
            f"| {1000 * row['seconds']:.0f} ms |"
        )
    shown = " | ".join(f"{100 * true['shown'][name]:.1f}%" for name in ATTRIBUTES)
    lines.append(f"| true clips | | {shown} | | 100% | |")
    return "\n".join(lines)


def record_quality(student: Path, checkpoint: Path, result: dict[str, Any]) -> None:
    """Write the student's figures at its default steps into its `edgereel.json`, from where export takes them."""
    path = student / "edgereel.json"
    labels = json.loads(path.read_text())
    steps = labels["recipes"][0]["steps"]
    row = next(row for row in result["rows"] if (row["model"], row["steps"]) == ("student", steps))
    quality = {f"{name}_shown": round(share, 4) for name, share in row["shown"].items()}
    quality |= {
        "steps": steps,
        "held_out_clips": result["clips"],
        "seed_spread_of_teacher": round(row["spread"] / result["rows"][-1]["spread"], 3),
        "displacement_of_true_clips": round(row["displacement"] / result["true"]["displacement"], 3),
        "autoencoder_psnr_db": json.loads((checkpoint / "edgereel.json").read_text())["quality"]["autoencoder_psnr_db"],
    }
    path.write_text(json.dumps({**labels, "quality": quality}, indent=2) + "\n")


def main() -> None:
    """Print the table, or with --json the figures."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.few_steps", description=__doc__)
    parser.add_argument("--student", type=Path, help="the student's .reel folder; the built-in demo if left out")
    parser.add_argument("--teacher", type=Path, default=here / "checkpoint", help="the teacher's checkpoint folder")
    parser.add_argument("--clips", type=int, default=230)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    parser.add_argument(
        "--record", type=Path, metavar="FOLDER", help="write the figures into the student's edgereel.json"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = evaluate(arguments.student, arguments.teacher, arguments.clips, arguments.threads, arguments.sheet)
    if arguments.record:
        record_quality(arguments.record, arguments.teacher, result)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


if __name__ == "__main__":
    main()
