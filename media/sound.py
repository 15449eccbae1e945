"""A film's sound: spoken words where they belong, and music below them that gives way; mixed as it is written.

Sound is float32 [2, samples] at 48 kHz, about -1 to 1. Files are WAV and nothing else; they are read as they are needed, so
that memory does not grow with a film.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError, one_line

RATE = 48_000
BLOCK = 1024
"""Samples that a frame of AAC has."""
Samples = NDArray[np.float32]
_BEFORE, _AFTER = 0.3, 0.6
"""Seconds in which music gives way before words, and comes back after them."""
_END = 1.0
"""Seconds in which music ends with a film."""
_SLOWEST = 1000
"""Samples a second: of a file of fewer, nothing may be left to hear."""
_LONGEST = 12 * 3600


@dataclass(frozen=True)
class Speech:
    """A WAV file that is heard from `start` on, in seconds. seconds: how long it is, see wav_seconds. volume: 0 to 4."""

    path: Path
    start: float
    seconds: float
    volume: float = 1.0


@dataclass(frozen=True)
class Music:
    """A WAV file that is heard all the time, again and again. ducked: what its volume becomes while words are spoken."""

    path: Path
    volume: float = 0.6
    ducked: float = 0.25


@dataclass(frozen=True)
class Mix:
    """All that is heard in a film of so many seconds."""

    seconds: Fraction = Fraction(0)
    speeches: tuple[Speech, ...] = ()
    music: Music | None = None

    def __bool__(self) -> bool:
        return bool(self.speeches) or self.music is not None

    def blocks(self) -> Iterator[Samples]:
        """Yield the film's sound in blocks of BLOCK samples, the last one shorter. Raises UsageError for a bad file."""
        samples = round(self.seconds * RATE)
        music = None if self.music is None else _Loop(self.music.path)
        waiting = sorted(self.speeches, key=lambda speech: speech.start, reverse=True)
        heard: list[tuple[_Reader, float]] = []
        times, gains = self._gains(float(self.seconds))
        for at in range(0, samples, BLOCK):
            count = min(BLOCK, samples - at)
            block = np.zeros((2, count), np.float32)
            if music is not None:
                where = (at + np.arange(count)) / RATE
                block += music.read(count) * np.interp(where, times, gains).astype(np.float32)
            for reader, volume in heard:
                part = reader.read(count)
                block[:, : part.shape[1]] += part * np.float32(volume)
            heard = [(reader, volume) for reader, volume in heard if not reader.ended]
            while waiting and round(waiting[-1].start * RATE) < at + count:
                speech = waiting.pop()
                first = max(0, round(speech.start * RATE) - at)
                reader = _Reader(speech.path)
                part = reader.read(count - first)
                block[:, first : first + part.shape[1]] += part * np.float32(speech.volume)
                heard.append((reader, speech.volume))
            yield np.clip(block, -1, 1)

    def _gains(self, seconds: float) -> tuple[Sequence[float], Sequence[float]]:
        """Return the music's volume as points in time and what it is there; between them it changes evenly."""
        if self.music is None:
            return [0.0], [0.0]
        full, low = self.music.volume, self.music.volume * min(1.0, self.music.ducked)
        spans: list[list[float]] = []
        for speech in sorted(self.speeches, key=lambda speech: speech.start):
            start, end = speech.start, speech.start + speech.seconds
            if spans and start - _BEFORE <= spans[-1][1] + _AFTER:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([start, end])
        times, gains = [-_BEFORE - 1.0], [full]
        for start, end in spans:
            times += [start - _BEFORE, start, end, end + _AFTER]
            gains += [full, low, low, full]
        closing = max(0.0, seconds - _END)
        level = float(np.interp(closing, times, gains))
        kept = [index for index, time in enumerate(times) if time < closing]
        return [*(times[index] for index in kept), closing, seconds], [*(gains[index] for index in kept), level, 0.0]


def wav_seconds(path: Path) -> float:
    """Return how long the sound of a WAV file is, after making sure that it can be read. Raises UsageError."""
    with _opened(path) as container:
        stream = container.streams.audio[0]
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not 0 < seconds <= _LONGEST:
            raise UsageError(f"{path}: holds {seconds:g} s of sound: it must be above 0 and at most 12 hours")
        if (rate := stream.codec_context.sample_rate) < _SLOWEST:
            raise UsageError(f"{path}: has {rate} samples a second: {_SLOWEST} at least")
        with _errors(path):
            next(container.decode(stream))
    return seconds


class _Reader:
    """Reads one file from its beginning to its end. ended: there is no more."""

    def __init__(self, path: Path) -> None:
        import av

        self.ended = False
        self._exhausted = False
        self._path = path
        self._container = _opened(path)
        self._frames = self._container.decode(self._container.streams.audio[0])
        # One channel is heard at its own level on both sides: FFmpeg would take 3 dB away.
        channels = self._container.streams.audio[0].codec_context.channels
        self._resampler = av.AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=RATE)
        self._left: Samples = np.zeros((2, 0), np.float32)

    def read(self, count: int) -> Samples:
        """Return the next samples, fewer than `count` at the end."""
        parts, have = [self._left], self._left.shape[1]
        with _errors(self._path):
            while have < count and not self._exhausted:
                frame = next(self._frames, None)
                self._exhausted = frame is None
                for made in self._resampler.resample(frame):
                    sound = np.asarray(made.to_ndarray(), np.float32)
                    parts.append(np.broadcast_to(sound, (2, sound.shape[1])))
                    have += parts[-1].shape[1]
        if self._exhausted:
            self._container.close()
        sound = np.concatenate(parts, axis=1)
        self._left = sound[:, count:]
        self.ended = self._exhausted and not self._left.shape[1]
        return sound[:, :count]


class _Loop:
    """Reads one file again and again."""

    def __init__(self, path: Path) -> None:
        self._path, self._reader = path, _Reader(path)

    def read(self, count: int) -> Samples:
        """Return the next `count` samples."""
        parts: list[Samples] = []
        while (have := sum(part.shape[1] for part in parts)) < count:
            part = self._reader.read(count - have)
            if not part.shape[1]:
                self._reader = _Reader(self._path)
                part = self._reader.read(count - have)
                if not part.shape[1]:
                    raise UsageError(f"{self._path}: holds no sound")
            parts.append(part)
        return np.concatenate(parts, axis=1)


def _opened(path: Path) -> Any:
    import av

    if not path.is_file():
        missing = "is no file" if path.exists() else "there is no such file"
        raise UsageError(f"{path}: {missing}: name a .wav file")
    with _errors(path):
        container = av.open(str(path), format="wav")
        if not container.streams.audio or not container.streams.audio[0].codec_context.name.startswith("pcm"):
            container.close()
            raise UsageError(f"{path}: holds no plain sound (PCM): save it as an ordinary WAV file")
        return container


class _errors:  # noqa: N801
    """Say in one line that a file of sound cannot be read, where the block meets an error of FFmpeg's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import av

        if isinstance(error, av.FFmpegError | StopIteration):
            raise UsageError(
                f"{self._path}: is no WAV file that can be read: {one_line(error) or 'it is empty'}"
            ) from error
