"""Make other files of a clip without sampling it again: python examples/decode_latents.py clip.safetensors a.gif pngs

The latents come from `edgereel generate … -o clip.mp4 --keep-latents`, which puts clip.safetensors beside
the video, or from `edgereel.write_latents`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgereel


def main() -> None:
    """Decode the latents once for each output."""
    parser = argparse.ArgumentParser(description="Make videos of latents that were kept.")
    parser.add_argument("latents", type=Path)
    parser.add_argument("outputs", nargs="+")
    parser.add_argument("--bundle", help="the bundle that sampled them; the built-in demo if left out")
    arguments = parser.parse_args()
    try:
        with edgereel.load(arguments.bundle) as reel:
            reel.only_decodes = True  # memory is planned for the decoder alone
            video = edgereel.read_video(arguments.latents, reel)
            print(f"{video.request.prompt!r}, seed {video.request.seed}: {len(video)} frames")
            for output in arguments.outputs:
                print(video.save(output))
    except edgereel.EdgereelError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
