"""One picture as a JPEG file's bytes, by the encoder that PyAV brings."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from .sink import require_encoder

_ENCODER = "mjpeg"
_FULL_RANGE = 2


def jpeg_bytes(picture: NDArray[np.uint8], quality: int = 3) -> bytes:
    """Return a JPEG file of a picture, uint8 [H, W, 3], RGB; sides that are odd lose a row or column.

    quality: FFmpeg's scale, 2 (best) to 31. Raises OutputError where PyAV was built without the encoder.
    """
    require_encoder(_ENCODER, "JPEG")
    height, width = (side - side % 2 for side in picture.shape[:2])
    encoder = av.CodecContext.create(_ENCODER, "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 1)
    encoder.qmin = encoder.qmax = quality
    encoder.color_range = _FULL_RANGE
    encoder.thread_count = 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
    whole = frame.reformat(format="yuvj420p", dst_colorspace="ITU601", src_color_range="JPEG", dst_color_range="JPEG")
    whole.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(whole), *encoder.encode(None)])
