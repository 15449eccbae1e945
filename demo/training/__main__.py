"""`python -m edgereel.demo.training --preset cpu --run FOLDER`: train the demo, or go on where it was stopped.

With --distill it trains the few-step student of a finished checkpoint instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .checkpoint import write_checkpoint, write_student
from .curves import plot_curves
from .denoiser import cache_latents, train_denoiser, velocity_of
from .distill import train_student
from .presets import PRESETS, Preset
from .run_folder import RunFolder
from .trajectories import cache_trajectories, load_teacher
from .vae import train_decoder, train_vae


def main() -> None:
    """Read the arguments and train or distil; with --max-minutes, stop in time and say that there is more to do."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.training", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--run", type=Path, required=True, help="folder for resumable state and curves")
    parser.add_argument("--max-minutes", type=float, help="stop after this long; the same command goes on from there")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores if left out")
    parser.add_argument("--checkpoint", type=Path, help="write the finished checkpoint (or student) into this folder")
    parser.add_argument("--distill", type=Path, metavar="CHECKPOINT", help="train this checkpoint's few-step student")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    preset = PRESETS[arguments.preset]
    run = RunFolder(arguments.run, None if arguments.max_minutes is None else 60 * arguments.max_minutes)
    run.stop_on_signals()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stopped_in = _distill(preset, run, device, arguments.distill) if arguments.distill else _train(preset, run, device)
    if stopped_in:
        print(f"stopped in {stopped_in}: run the same command to go on")
        return
    plot_curves(run, arguments.run / "curves.png")
    if arguments.checkpoint:
        write = write_student if arguments.distill else write_checkpoint
        write(preset, run, arguments.checkpoint)
        print(arguments.checkpoint)


def _train(preset: Preset, run: RunFolder, device: torch.device) -> str | None:
    """Train all stages in order; return the one that time ran out in, None where all are done."""
    if not train_vae(preset, run, device):
        return "the autoencoder's training"
    cache_latents(preset, run, device)
    if not train_decoder(preset, run, device):
        return "the decoder's training"
    return None if train_denoiser(preset, run, device) else "the denoiser's training"


def _distill(preset: Preset, run: RunFolder, device: torch.device, checkpoint: Path) -> str | None:
    """Run the teacher, then train the student; return what time ran out in, None where both are done."""
    teacher = load_teacher(checkpoint, device)
    velocity = torch.compile(velocity_of)
    if not cache_trajectories(preset, run, teacher, velocity, device):
        return "the teacher's sampling"
    return None if train_student(preset, run, teacher, velocity, device) else "the student's training"


main()
