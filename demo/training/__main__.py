"""`python -m edgereel.demo.training --preset cpu --run FOLDER`: train the demo, or go on where it was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .checkpoint import write_checkpoint
from .curves import plot_curves
from .denoiser import cache_latents, train_denoiser
from .presets import PRESETS
from .run_folder import RunFolder
from .vae import train_decoder, train_vae


def main() -> None:
    """Train all stages in order; with --max-minutes, stop in time and say that there is more to do."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.demo.training", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--run", type=Path, required=True, help="folder for resumable state and curves")
    parser.add_argument("--max-minutes", type=float, help="stop after this long; the same command goes on from there")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores if left out")
    parser.add_argument("--checkpoint", type=Path, help="write the finished checkpoint into this folder")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    preset = PRESETS[arguments.preset]
    run = RunFolder(arguments.run, None if arguments.max_minutes is None else 60 * arguments.max_minutes)
    run.stop_on_signals()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not train_vae(preset, run, device):
        print("stopped in the autoencoder's training: run the same command to go on")
        return
    cache_latents(preset, run, device)
    if not train_decoder(preset, run, device):
        print("stopped in the decoder's training: run the same command to go on")
        return
    if not train_denoiser(preset, run, device):
        print("stopped in the denoiser's training: run the same command to go on")
        return
    plot_curves(run, arguments.run / "curves.png")
    if arguments.checkpoint:
        write_checkpoint(preset, run, arguments.checkpoint)
        print(arguments.checkpoint)


main()
