"""Make clips of several prompts, show how far each is, and stop in time.

python examples/several.py --seconds 60 clips "a red ball rises in the snow" "a blue star falls in the desert"
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import edgereel
from edgereel.core.errors import Cancelled


def main() -> None:
    """Make as many of the clips as the time allows, with one opened reel."""
    parser = argparse.ArgumentParser(description="Make clips of several prompts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after so long")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end: float = time.monotonic() + arguments.seconds

    def on_progress(stage: str, done: int, total: int) -> bool:
        print(f"\r{stage:>8} {done:3} of {total:3}", end="", file=sys.stderr, flush=True)
        return time.monotonic() < end  # False cancels before the next step

    with edgereel.load() as reel:
        for prompt in arguments.prompts:
            reel.check_prompt(prompt)  # a mistake in the last prompt is told before the first clip is made
        for number, prompt in enumerate(arguments.prompts, start=1):
            try:
                video = reel.generate(prompt, seed=number, on_progress=on_progress)
                path = video.save(arguments.folder / f"{number:03}.mp4", on_progress=on_progress)
            except Cancelled:
                print(f"\nout of time: {number - 1} of {len(arguments.prompts)} clips were made")
                break
            print(f"\n{path}: {prompt}")


if __name__ == "__main__":
    main()
