"""Run in a process of its own: the graphs of a bundle as the `cuda` engine runs them for a clip, with marks in the log.

    run_wan.py REEL WIDTH HEIGHT FRAMES COMPUTE STEPS LATENT_FRAMES

Prints one JSON object: what is counted and what is planned for each component, in bytes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgereel.bundle.geometry import latent_shape
from edgereel.bundle.reader import open_bundle
from edgereel.engines import ENGINES, EngineOptions, Tensor
from edgereel.runtime.memory.shapes import input_shapes
from edgereel.runtime.memory.sizes import GPU_ACTIVATION_MARGIN, clip_sizes


def mark(text: str) -> None:
    with Path(os.environ["STAND_IN_LOG"]).open("a") as file:
        file.write(f"mark\t{text}\n")


def main(reel: str, width: int, height: int, frames: int, compute: Any, steps: int, latent_frames: int) -> None:
    bundle = open_bundle(Path(reel))
    latents = latent_shape(bundle.manifest.latent, width, height, frames)
    engine = ENGINES["cuda"]()
    options = EngineOptions(compute=compute, keep=False)
    sizes = clip_sizes(bundle, width, height, frames, engine, options)
    planned = {
        name: {
            "planned": part.weights + part.activations,
            "counted": part.weights + int(part.activations / GPU_ACTIVATION_MARGIN),
        }
        for name, part in sizes.components.items()
    }

    def opened(name: str, pictures: bool) -> Any:
        shapes = input_shapes(bundle.manifest, name, latents)
        path = bundle.path(bundle.manifest.roles.graphs()[name].file)
        asked = EngineOptions(compute=compute, keep=False, shapes=tuple(sorted(shapes.items())), pictures=pictures)
        return engine.open(path, asked), shapes

    denoiser, shapes = opened("denoiser", False)
    given = {name: Tensor.from_numpy(np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    for step in range(steps):
        mark(f"step {step}")
        denoiser.run(given)["prediction"].numpy()
    mark("closed")
    denoiser.close()
    del denoiser
    first, shapes = opened("decoder_first", True)
    after, _ = opened("decoder_next", True)
    latent = Tensor.from_numpy(np.zeros(shapes["latent"], np.float32))
    state: dict[str, Any] = {}
    for index in range(latent_frames):
        mark(f"latent frame {index}")
        made = (first if index == 0 else after).run({"latent": latent, **state})
        made["pictures"].numpy()
        state = {name.removesuffix("_next"): each for name, each in made.items() if name.startswith("state")}
        del made
    print(json.dumps(planned))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], *map(int, sys.argv[6:8]))  # type: ignore[arg-type]
