"""The last pictures of a video file that nobody vouches for, with memory for no more than those."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from ...core.errors import UsageError, one_line
from ..video.frame_rate import FrameRate, frame_rate
from .file import MOST_PIXELS
from .fit import Picture

_MOST_HELD = 2**30
"""Bytes of pictures that are held at once."""
# FFmpeg also reads lists, which name other files and addresses: a file that somebody sent is itself and nothing else.
_ONE_FILE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,apng,h264,hevc,ivf,nut,wav,mp3,flac,aac",
}


@dataclass(frozen=True)
class VideoEnd:
    """pictures: the last ones, uint8 [H, W, 3], in order. fps: the file's."""

    pictures: list[Picture]
    fps: FrameRate


def last_pictures(path: Path, count: int) -> VideoEnd:
    """Return at most the last `count` pictures of a video. Raises UsageError where there are none."""
    name = one_line(path)
    if not path.is_file():
        raise UsageError(f"{name}: {'is not a file' if path.exists() else 'there is no such file'}")
    try:
        with av.open(str(path), "r", options=_ONE_FILE) as container:
            if not isinstance(container, InputContainer) or not container.streams.video:
                raise UsageError(f"{name}: has no pictures in it")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            if rate is None:
                raise UsageError(f"{name}: does not tell its pictures a second")
            _check_size(name, stream.width, stream.height, count)
            pictures = _last(container, stream, rate, count, name)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise UsageError(f"{name}: is not a video that can be read: {one_line(error)[:200]}") from error
    if not pictures:
        raise UsageError(f"{name}: has no pictures in it")
    return VideoEnd(pictures, frame_rate(Fraction(rate).limit_denominator(100_000)))


def _check_size(name: str, width: int, height: int, count: int) -> None:
    if width * height > MOST_PIXELS or 3 * width * height * count > _MOST_HELD:
        raise UsageError(f"{name}: {count} pictures of {width}x{height} are too large: scale the clip down")


def _last(container: InputContainer, stream: VideoStream, rate: Fraction, count: int, name: str) -> list[Picture]:
    """Return the last pictures: from a little before the end where the file can be entered there, else from its beginning."""
    stream.thread_type = "AUTO"
    if stream.duration and stream.time_base:
        start = (stream.start_time or 0) + stream.duration - int((2 * count + 16) / rate / stream.time_base)
        if start > (stream.start_time or 0):
            try:
                container.seek(start, stream=stream, backward=True)
                found = _decode(container, stream, count, name)
                if len(found) == count:
                    return found
            except av.FFmpegError:
                pass
            container.seek(stream.start_time or 0, stream=stream, backward=True)
    return _decode(container, stream, count, name)


def _decode(container: InputContainer, stream: VideoStream, count: int, name: str) -> list[Picture]:
    kept: deque[av.VideoFrame] = deque(maxlen=count)
    for frame in container.decode(stream):
        if (frame.width, frame.height) != (stream.width, stream.height):
            raise UsageError(f"{name}: has pictures of several sizes")
        kept.append(frame)
    return [_upright(frame) for frame in kept]


def _upright(frame: av.VideoFrame) -> Picture:
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns))
