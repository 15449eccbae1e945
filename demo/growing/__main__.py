"""`python -m edgereel.demo.growing --run FOLDER`: grow the trained demo, stage by stage, or go on where it was stopped.

With --stage it trains that stage alone; with --deliver it writes what was reached so far.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..training.run_folder import RunFolder
from .autoencoder import train_autoencoder
from .checkpoint import write_grown
from .decoders import train_full_decoder, train_tiny_decoder
from .presets import GROWTHS, Growth
from .student import train_student
from .teacher import train_teacher

_STAGES: dict[str, Callable[[Growth, RunFolder], bool]] = {
    "autoencoder": train_autoencoder,
    "teacher": train_teacher,
    "student": train_student,
    "tiny_decoder": train_tiny_decoder,
    "decoder": train_full_decoder,
}


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.growing", description=__doc__)
    parser.add_argument("--preset", choices=sorted(GROWTHS), default="cpu")
    parser.add_argument("--run", type=Path, required=True, help="folder for resumable state and curves")
    parser.add_argument("--checkpoint", type=Path, help="what is grown; the built-in model's if left out")
    parser.add_argument("--stage", choices=list(_STAGES), help="this stage alone; all, in order, if left out")
    parser.add_argument("--steps", type=int, help="train the stage to so many steps, not the preset's")
    parser.add_argument(
        "--deliver", type=Path, metavar="FOLDER", help="write the models into this folder, train nothing"
    )
    parser.add_argument("--max-minutes", type=float, help="stop after this long; the same command goes on from there")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = RunFolder(arguments.run, None if arguments.max_minutes is None else 60 * arguments.max_minutes)
    run.stop_on_signals()
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    growth = GROWTHS[arguments.preset]
    if arguments.checkpoint is not None:
        growth = replace(growth, checkpoint=arguments.checkpoint)
    if arguments.steps is not None:
        if arguments.stage is None:
            parser.error("--steps needs --stage")
        growth = replace(growth, **{f"{arguments.stage}_steps": arguments.steps})
    if arguments.deliver:
        write_grown(growth, run, arguments.deliver)
        print(arguments.deliver)
        return
    for name in [arguments.stage] if arguments.stage else _STAGES:
        if not _STAGES[name](growth, run):
            print(f"stopped in {name}: run the same command to go on")
            return
    print("done")


main()
