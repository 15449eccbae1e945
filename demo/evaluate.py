"""`python -m edgereel.demo.evaluate`: does the model show what it is asked for, on captions it never saw?

Generates held-out subjects with a bundle, reads the clips with `scorer.py` and prints the share of clips, by attribute,
that show their caption; beside it, what the scorer says of true clips and of true clips against the wrong captions. With
`edgereel[export]` installed it also measures how well the checkpoint's autoencoder reproduces true clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ..runtime.reel import Reel, load
from .clips import Subject, render, split
from .scorer import ATTRIBUTES, Reading, read, score, score_readings

_STDERR = Console(stderr=True)

Clip = NDArray[np.uint8]
Pair = tuple[Clip, Subject]


def held_out_captions(count: int) -> list[tuple[Subject, str]]:
    """Return `count` held-out subjects, each with one of its phrasings, in a fixed order that covers all of them first."""
    _, held_out = split()
    rng = np.random.RandomState(7)
    order = [held_out[index % len(held_out)] for index in range(count)]
    return [(subject, rng.choice(subject.captions())) for subject in order]


def generate_clips(reel: Reel, count: int, **settings: Any) -> Iterator[Pair]:
    """Yield a generated clip of each held-out caption, seeds counting up from 0."""
    for seed, (subject, caption) in enumerate(held_out_captions(count)):
        video = reel.generate(caption, seed=seed, **settings)
        yield np.stack(list(video)), subject


def true_clips(count: int, frames: int, height: int, width: int) -> list[Pair]:
    """Return rendered clips of the same subjects: the best any model can do under this scorer."""
    rng = np.random.RandomState(8)
    return [
        (render(subject, rng, frames=frames, height=height, width=width), subject)
        for subject, _ in held_out_captions(count)
    ]


def shuffled(pairs: list[tuple[Reading, Subject]]) -> list[tuple[Reading, Subject]]:
    """Return the readings with each other's subjects: what guessing scores."""
    order = np.random.RandomState(9).permutation(len(pairs))
    return [(reading, pairs[index][1]) for (reading, _), index in zip(pairs, order, strict=True)]


def contact_sheet(pairs: list[Pair], path: Path, columns: int = 6, scale: int = 2) -> None:
    """Write a PNG with one clip per row, `columns` frames of it from first to last."""
    from PIL import Image

    rows = []
    for clip, _ in pairs:
        chosen = clip[np.linspace(0, len(clip) - 1, columns).round().astype(int)]
        rows.append(np.concatenate(list(chosen), axis=1))
    sheet = np.concatenate(rows, axis=0).repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(sheet).save(path, optimize=True)


def evaluate(
    bundle: Path | None, clips: int, threads: int | None, sheet: Path | None, checkpoint: Path | None, **settings: Any
) -> dict[str, Any]:
    """Return every figure of this gauge as plain data; see the module's docstring."""
    with load(bundle, threads=threads, cache=False) as reel:
        defaults = reel.bundle.manifest.defaults
        generated = []
        for pair in track(generate_clips(reel, clips, **settings), "generating", clips, console=_STDERR):
            generated.append(pair)
    truth = true_clips(clips, defaults.frames, defaults.height, defaults.width)
    readings = [(read(clip), subject) for clip, subject in truth]
    if sheet is not None:
        contact_sheet(generated[:8], sheet)
    result = {
        "clips": clips,
        "generated": score(generated),
        "true": score_readings(readings),
        "shuffled": score_readings(shuffled(readings)),
        "chance": {"colour": 1 / 8, "scene": 1 / 6, "motion": 1 / 8, "shape": 1 / 6},
    }
    if checkpoint is not None:
        from .training.reconstruction import reconstruction_psnr

        result["autoencoder_psnr_db"] = reconstruction_psnr(checkpoint, truth)
    return result


def record_quality(checkpoint: Path, result: dict[str, Any]) -> None:
    """Write the model's figures into the checkpoint's `edgereel.json`, from where export takes them into the manifest."""
    path = checkpoint / "edgereel.json"
    labels = json.loads(path.read_text())
    quality = {f"{name}_shown": round(share, 4) for name, share in result["generated"].items()}
    quality |= {"held_out_clips": result["clips"], "autoencoder_psnr_db": round(result["autoencoder_psnr_db"], 2)}
    path.write_text(json.dumps({**labels, "quality": quality}, indent=2) + "\n")


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    rows = ["| clips | " + " | ".join(ATTRIBUTES) + " |", "|---|" + "---|" * len(ATTRIBUTES)]
    for title, key in (
        (f"generated, {result['clips']} held-out captions", "generated"),
        ("true clips", "true"),
        ("true clips, captions shuffled", "shuffled"),
        ("chance", "chance"),
    ):
        rows.append(f"| {title} | " + " | ".join(f"{100 * result[key][name]:.1f}%" for name in ATTRIBUTES) + " |")
    if "autoencoder_psnr_db" in result:
        rows.append(f"\nautoencoder: {result['autoencoder_psnr_db']:.1f} dB PSNR on held-out clips")
    return "\n".join(rows)


def main() -> None:
    """Print the table, or with --json the figures."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.evaluate", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="the .reel folder; the built-in demo if left out")
    parser.add_argument("--clips", type=int, default=230)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--sampler")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    parser.add_argument(
        "--checkpoint", type=Path, help="measure this checkpoint's autoencoder too (needs edgereel[export])"
    )
    parser.add_argument("--record", action="store_true", help="write the figures into the checkpoint's edgereel.json")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.record and arguments.checkpoint is None:
        parser.error("--record needs --checkpoint")
    result = evaluate(
        arguments.bundle,
        arguments.clips,
        arguments.threads,
        arguments.sheet,
        arguments.checkpoint,
        steps=arguments.steps,
        guidance=arguments.guidance,
        sampler=arguments.sampler,
    )
    if arguments.record:
        record_quality(arguments.checkpoint, result)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


if __name__ == "__main__":
    main()
