"""Sound, captions and chapters in an MP4, written beside its frames as those come."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer

from ...media.sound import BLOCK, RATE
from ...media.tracks import Tracks
from .sink import require_encoder

_MILLISECONDS = Fraction(1, 1000)
_SOUND_BITS = 160_000

# What FFmpeg's encoder of mov_text makes the track's style of; it does not open without.
_HEADER = b"""[Script Info]\r
ScriptType: v4.00+\r
PlayResX: 384\r
PlayResY: 288\r
\r
[V4+ Styles]\r
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r
Style: Default,Sans,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\r
\r
[Events]\r
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r
"""


class TracksWriter:
    """Writes what goes beside the frames into a container that nothing was written to yet.

    The sound is AAC, stereo, 48 kHz. Captions are timed text (mov_text), which players offer as subtitles.
    """

    def __init__(self, container: OutputContainer, tracks: Tracks) -> None:
        self._container, self._tracks = container, tracks
        self._written = 0
        self._captions = list(reversed(tracks.captions))
        self._sound = self._text = None
        if tracks.sound:
            require_encoder("aac", "AAC")
            self._sound = container.add_stream("aac", rate=RATE, layout="stereo")
            self._sound.bit_rate = _SOUND_BITS
            self._blocks = tracks.sound.blocks()
        if tracks.captions:
            require_encoder("mov_text", "caption")
            self._text = container.add_stream("mov_text")
            self._text.time_base = self._text.codec_context.time_base = _MILLISECONDS
            self._text.codec_context.subtitle_header = _HEADER
            self._text.metadata["language"] = tracks.language
        if tracks.chapters:
            container.set_chapters(
                [
                    {
                        "id": number,
                        "start": chapter.start,
                        "end": chapter.end,
                        "time_base": _MILLISECONDS,
                        "metadata": {"title": chapter.title},
                    }
                    for number, chapter in enumerate(tracks.chapters, start=1)
                ]
            )

    def write(self, until: Fraction) -> None:
        """Write what belongs to the time until then, in seconds."""
        while self._captions and self._captions[-1].start < until * 1000:
            self._write_caption()
        while self._sound is not None and self._written + BLOCK <= until * RATE and self._write_sound():
            pass

    def finish(self) -> None:
        """Write the rest of the sound."""
        if self._sound is not None:
            while self._write_sound():
                pass
            self._container.mux(self._sound.encode())

    def _write_sound(self) -> bool:
        """Write the next block, and return whether there was one."""
        assert self._sound is not None
        block = next(self._blocks, None)
        if block is None:
            return False
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._written, Fraction(1, RATE)
        self._container.mux(self._sound.encode(frame))
        self._written += block.shape[1]
        return True

    def _write_caption(self) -> None:
        assert self._text is not None
        caption = self._captions.pop()
        text = caption.text.encode("utf-8")
        packet = av.Packet(struct.pack(">H", len(text)) + text)  # 3GPP TS 26.245: a length and the text
        packet.stream = self._text
        packet.pts = packet.dts = caption.start
        packet.duration, packet.time_base = caption.end - caption.start, _MILLISECONDS
        self._container.mux(packet)
