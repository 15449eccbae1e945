"""Find the longest clip that fits into some memory, and make it: python examples/memory.py 300MiB clip.mp4

The plan is made from the sizes of the graphs. Nothing is sampled before it fits.
"""

from __future__ import annotations

import argparse
import sys

import edgereel

LENGTHS = (65, 33, 17, 9, 5, 1)
"""Numbers of frames to try, the longest first."""


def main() -> None:
    """Plan clips of falling length, show the first plan that fits, and follow it."""
    parser = argparse.ArgumentParser(description="Make the longest clip that fits.")
    parser.add_argument("memory", help="such as 300MiB or 6GiB")
    parser.add_argument("output")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("WIDTH", "HEIGHT"))
    arguments = parser.parse_args()
    width, height = arguments.size
    with edgereel.load(memory=arguments.memory) as reel:
        for frames in LENGTHS:
            try:
                plan = reel.plan(width, height, frames)
            except edgereel.EdgereelError as error:  # it names what would fit
                print(f"{frames} frames: {error}")
                continue
            parts = ", ".join(f"{name} {part.placement}" for name, part in plan.components.items())
            print(f"{frames} frames: {plan.peak / 2**20:.0f} MiB at most ({parts})")
            break
        else:
            sys.exit("no length fits: give more memory")
        video = reel.generate("a red ball bounces over the ocean", size=(width, height), frames=frames)
        print(video.save(arguments.output))


if __name__ == "__main__":
    main()
