"""Stories, and the files that lie beside them."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from edgereel.story.script.source import read_source
from edgereel.story.script.story import StoryFile, read_story


def write_wav(path: Path, seconds: float, hertz: float = 440.0, rate: int = 16_000, level: float = 0.5) -> Path:
    """Write a tone, 16 bits, one channel."""
    times = np.arange(round(seconds * rate)) / rate
    samples = (np.sin(2 * np.pi * hertz * times) * level * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def write_story(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def story_file(path: Path, text: str) -> StoryFile:
    return read_story(read_source(write_story(path, text)))
