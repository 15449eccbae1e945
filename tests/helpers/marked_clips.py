"""Small clips, written with marks as a reel writes them."""

from __future__ import annotations

import numpy as np

from edgereel.provenance.claim import Origin
from edgereel.runtime.video.output import Output


def pictures(width=192, height=144, count=8):
    """Return frames of a moving gradient with texture."""
    random = np.random.default_rng(9)
    texture = random.normal(0, 8, (height, width + 64, 1))
    ramp = np.linspace(30, 200, width + 64)[None, :, None]
    wide = np.clip(ramp + texture + np.array([0, 10, 20]), 0, 255).astype(np.uint8)
    return [np.ascontiguousarray(wide[:, 3 * index : 3 * index + width]) for index in range(count)]


def write_clip(path, marks=None, frames=None, fps=8):
    """Write a clip as a reel does, with marks; return what became of them."""
    frames = pictures() if frames is None else frames
    height, width = frames[0].shape[:2]
    output = Output.check(path).at(fps).marked(marks, None, width, height)
    metadata = {"title": "AI-generated video", "comment": '{"ai_generated": true, "edgereel": "0"}'}
    settings = {"prompt": "never told", "seed": 3, "width": width, "height": height, "bundle": "demo"}
    return output.write(iter(frames), metadata, len(frames), Origin(settings)).marks
