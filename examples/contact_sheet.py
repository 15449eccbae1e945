"""See what a prompt gives with different seeds: python examples/contact_sheet.py "a cyan ring grows" sheet.png

One row for each seed, five pictures of its clip in each. Choose a seed from it, then make the clip.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

import edgereel


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write one picture, uint8 [H, W, 3]."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as file:
        stream: Any = file.add_stream("png", rate=1)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "rgb24"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())


def main() -> None:
    """Make a clip of each seed and put pictures of all of them on one sheet."""
    parser = argparse.ArgumentParser(description="Make a sheet of one prompt's clips.")
    parser.add_argument("prompt")
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--columns", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        parser.error(f"the folder {arguments.output.parent} does not exist")
    rows = []
    with edgereel.load() as reel:
        for seed in range(arguments.seeds):
            pictures = list(reel.generate(arguments.prompt, seed=seed))
            chosen = np.linspace(0, len(pictures) - 1, arguments.columns).round().astype(int)
            rows.append(np.concatenate([pictures[index] for index in chosen], axis=1))
    write_png(arguments.output, np.concatenate(rows))
    print(f"{arguments.output}: seeds 0 to {arguments.seeds - 1} from top to bottom")


if __name__ == "__main__":
    main()
