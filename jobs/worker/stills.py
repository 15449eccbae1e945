"""Pictures that stand for a clip: a thumbnail and a sheet, taken from the finished file, marks and all."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from ...core.errors import OutputError, one_line
from ...core.files import whole_file
from ...runtime.pictures.fit import fit_picture
from ...runtime.video.jpeg import jpeg_bytes

_LARGEST_SIDE = 320
_COLUMNS, _ROWS = 4, 4


def write_stills(video: Path, count: int, thumbnail: Path, sheet: Path) -> None:
    """Write a JPEG of the clip's first picture, and one of 16 spread over it, 4 by 4. count: of its pictures.

    Raises OutputError where the clip cannot be read, or they cannot be written.
    """
    places = [round(index * (count - 1) / (_COLUMNS * _ROWS - 1)) for index in range(_COLUMNS * _ROWS)]
    wanted, found = set(places), dict[int, NDArray[np.uint8]]()
    try:
        with av.open(str(video), "r") as container:
            assert isinstance(container, InputContainer)
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = _small(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    except av.FFmpegError as error:
        raise OutputError(f"{one_line(video)}: cannot be read again: {one_line(error)[:200]}") from error
    if not found:
        raise OutputError(f"{one_line(video)}: has no pictures in it")
    last = max(found)
    tiles = [found.get(place, found[last]) for place in places]
    rows = [np.concatenate(tiles[start : start + _COLUMNS], axis=1) for start in range(0, len(tiles), _COLUMNS)]
    for path, picture in ((thumbnail, tiles[0]), (sheet, np.concatenate(rows, axis=0))):
        with whole_file(path) as temporary:
            temporary.write_bytes(jpeg_bytes(picture))


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = min(1.0, _LARGEST_SIDE / max(height, width))
    if scale == 1.0:
        return picture
    sides = [max(2, round(side * scale / 2) * 2) for side in (width, height)]
    return fit_picture(picture, sides[0], sides[1])
