"""Make a video of a prompt: python examples/clip.py "a red ball bounces over the ocean" ball.mp4

The suffix says the format: .mp4, .gif, .webp, or no suffix for a folder of PNGs.
"""

from __future__ import annotations

import argparse
import sys

import edgereel


def main() -> None:
    """Make one clip and say where it is."""
    parser = argparse.ArgumentParser(description="Make a video of a prompt.")
    parser.add_argument("prompt")
    parser.add_argument("output")
    parser.add_argument("--bundle", help="a .reel folder; the built-in demo if left out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        with edgereel.load(arguments.bundle) as reel:
            video = reel.generate(arguments.prompt, seed=arguments.seed)
            print(video.save(arguments.output))
    except edgereel.EdgereelError as error:  # its message says what is wrong and what to do
        sys.exit(str(error))


if __name__ == "__main__":
    main()
