"""Use pictures while the clip still decodes: python examples/frames.py "a green square falls in the forest"

Nothing is written. Each picture is a numpy array; this program tells how bright it is and how much has moved.
"""

from __future__ import annotations

import sys

import numpy as np

import edgereel


def main(prompt: str) -> None:
    """Print a line for each picture, as soon as it is there."""
    with edgereel.load() as reel:
        video = reel.generate(prompt, seed=3)
        height, width = video.request.height, video.request.width
        print(f"{len(video)} pictures of {width}x{height}, {video.request.fps} a second")
        before = None
        for number, picture in enumerate(video, start=1):  # uint8 [height, width, 3]
            moved = 0.0 if before is None else np.abs(picture.astype(np.int16) - before).mean()
            print(f"picture {number:2}: brightness {picture.mean():5.1f}, change {moved:4.1f}")
            before = picture.astype(np.int16)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "a red ball bounces over the ocean")
