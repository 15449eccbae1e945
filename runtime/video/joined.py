"""One MP4 of pieces that were encoded apart: their packets are copied, and nothing is encoded again but what goes beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from ...core.errors import OutputError
from ...core.files import remove, replace_file, temporary_beside
from ...media.spatial import Spatial
from ...media.tracks import Tracks
from .frame_rate import FrameRate
from .mp4 import end_mp4, open_mp4
from .sink import writing_errors
from .tracks import TracksWriter

_DELAY = 2
"""Pictures that x264 holds back for its B-frames, with the settings of Mp4Sink: a packet is decoded so many before its turn."""
_SEI = 6
"""The H.264 unit that says what encoder and settings a stream is of: one of them is enough."""


def join_pieces(
    target: Path,
    pieces: Iterable[Path],
    fps: FrameRate,
    metadata: Mapping[str, str],
    tracks: Tracks | None = None,
    spatial: Spatial | None = None,
    seal: Callable[[Path], None] | None = None,
) -> int:
    """Write the film of pieces, each an MP4 of Mp4Sink's with the same size, speed and crf; return how many pictures it has.

    pieces: each is read before the next one is asked for. seal: see write_frames. The film is complete, or what was there before
    still is. Raises OutputError where writing fails or a piece was encoded in another way; what `pieces` raises passes through.
    """
    temporary = temporary_beside(target)
    joint = _Joint(temporary, Fraction(fps), metadata, tracks, spatial)
    try:
        try:
            for piece in pieces:
                with writing_errors(target):
                    joint.add(piece)
            with writing_errors(target):
                joint.finish()
        finally:
            joint.close()
        if seal is not None:
            seal(temporary)
        with writing_errors(target):
            replace_file(temporary, target)
    except BaseException:
        remove(temporary)
        raise
    return joint.count


class _Joint:
    """The film as it grows. count: pictures so far."""

    def __init__(
        self, path: Path, fps: Fraction, metadata: Mapping[str, str], tracks: Tracks | None, spatial: Spatial | None
    ) -> None:
        self.count = 0
        self._path, self._fps, self._metadata, self._tracks, self._spatial = path, fps, metadata, tracks, spatial
        self._container: OutputContainer | None = None
        self._stream: VideoStream
        self._header: bytes | None = None
        self._beside: TracksWriter | None = None

    def add(self, path: Path) -> None:
        """Copy a piece's packets behind those that are there."""
        with av.open(str(path), format="mp4") as piece:
            source = piece.streams.video[0]
            if self._container is None:
                self._begin(source)
            elif source.codec_context.extradata != self._header:
                raise OutputError(f"{path}: was encoded with other settings than the pieces before it: remove it")
            assert self._container is not None
            first, number = self.count, 0
            for packet in piece.demux(source):
                if packet.size == 0 or packet.pts is None or packet.time_base is None:
                    continue
                at = round(packet.pts * packet.time_base * self._fps)
                copied = packet if first == 0 else _without_settings(packet)
                copied.stream, copied.time_base, copied.duration = self._stream, 1 / self._fps, 1
                # Shorter pieces than the delay say another one of themselves.
                copied.pts, copied.dts = first + at, first + number - _DELAY
                self._container.mux(copied)
                number += 1
                if self._beside is not None:
                    self._beside.write((first + number) / self._fps)
            self.count += number

    def finish(self) -> None:
        """Write what comes after the last piece."""
        assert self._container is not None, "a film has pieces"
        if self._beside is not None:
            self._beside.finish()
        end_mp4(self._container, self._path, self._spatial)

    def close(self) -> None:
        """Let go of the file, finished or not."""
        if self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()

    def _begin(self, source: VideoStream) -> None:
        self._container = open_mp4(self._path, self._metadata)
        self._header = source.codec_context.extradata
        self._stream = self._container.add_stream_from_template(source)
        self._stream.time_base = 1 / self._fps
        if self._tracks is not None:
            self._beside = TracksWriter(self._container, self._tracks)


def _without_settings(packet: av.Packet[Any]) -> av.Packet[Any]:
    """Return a packet, units with their length before each, without those that only tell of settings."""
    data, kept, at, dropped = bytes(packet), [], 0, False
    while at + 5 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4] & 31 == _SEI:
            dropped = True
        else:
            kept.append(data[at:end])
        at = end
    if not dropped:
        return packet
    shorter = av.Packet(b"".join(kept))
    shorter.is_keyframe = packet.is_keyframe
    return shorter
