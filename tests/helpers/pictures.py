"""Frames to write as GIF, WebP and PNGs, and the way back from such files."""

from __future__ import annotations

import numpy as np
from PIL import Image

from edgereel.runtime.video.mp4 import Mp4Sink
from edgereel.runtime.video.output import Output
from edgereel.runtime.video.sink import write_frames

NAMES = ["clip.gif", "clip.webp", "clip"]
SETTINGS = '{"ai_generated": true, "prompt": "a r\u00e9d ball \u2603 <&> \U0001f388", "text": "' + "word " * 200 + '"}'
METADATA = {"title": "a réd ball ☃ <&>", "description": "AI-generated video", "comment": SETTINGS}


def clip(count=5, height=48, width=64):
    """Smooth moving colours, uint8 [H, W, 3] each."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    for index in range(count):
        red = 127 + 120 * np.sin(4 * x + index / 5)
        green = 127 + 120 * np.sin(4 * y + 2)
        blue = 127 + 120 * np.cos(2.5 * (x + y) - index / 7)
        yield np.stack([red, green, blue], -1).astype(np.uint8)


def read_back(path):
    """Return the frames of an output as uint8 [F, H, W, 3] and how long each is shown in ms (None for PNGs)."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())]), None
    frames, durations = [], []
    with Image.open(path) as image:
        assert image.info.get("loop") == 0
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


def contents(path):
    """Return what is at a path, a folder's files by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else path.read_bytes()


def signal_to_noise(ours, theirs):
    return 10 * np.log10(255**2 / max(1e-9, ((ours.astype(float) - theirs) ** 2).mean()))


def write_old(path):
    """Write an earlier output and return what it is."""
    write_output(path, clip(2, 8, 8), 4, {"title": "old"})
    return contents(path)


def write_output(path, frames, fps, metadata, count=None):
    """Write frames in the format that the path's name asks for, and return how many there were."""
    return Output.check(path).at(fps).write(frames, metadata, count).frames


def write_mp4(path, frames, fps, metadata, crf=18):
    """Write frames to an MP4 of a quality, and return how many there were."""
    sink = Mp4Sink(fps, metadata, crf)
    return write_frames(Output.check(path).path, frames, sink)
