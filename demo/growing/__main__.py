"""`python -m edgereel.demo.growing --run FOLDER --stage STAGE`: one stage of the growth, or go on where it was stopped."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch

from ..training.run_folder import RunFolder
from .autoencoder import train_autoencoder
from .decoders import train_full_decoder, train_tiny_decoder
from .presets import GROWTHS
from .student import train_student
from .teacher import train_teacher

_STAGES = {
    "autoencoder": train_autoencoder,
    "teacher": train_teacher,
    "decoder": train_full_decoder,
    "tiny_decoder": train_tiny_decoder,
    "student": train_student,
}


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.growing", description=__doc__)
    parser.add_argument("--preset", choices=sorted(GROWTHS), default="cpu")
    parser.add_argument("--run", type=Path, required=True, help="folder for resumable state and curves")
    parser.add_argument("--stage", choices=list(_STAGES), required=True)
    parser.add_argument("--max-minutes", type=float, help="stop after this long; the same command goes on from there")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = RunFolder(arguments.run, None if arguments.max_minutes is None else 60 * arguments.max_minutes)
    run.stop_on_signals()
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    done = _STAGES[arguments.stage](GROWTHS[arguments.preset], run)
    print("done" if done else "stopped: run the same command to go on")


main()
