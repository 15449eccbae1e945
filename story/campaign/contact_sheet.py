"""The contact sheet of a campaign: one picture of each video, from its middle, with its name below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, UsageError
from ...media.lettering import Lettering
from ...runtime.pictures.fit import fit_picture
from ..film.pictures import write_still

Picture = NDArray[np.uint8]
_TILE = 96
"""Pixels of a picture's longer side."""
_LETTERS = 18
"""Pixels for a name below it."""
_MOST_TILES = 600
_MOST_PACKETS = 500


def write_sheet(path: Path, videos: Sequence[tuple[str, Path]]) -> None:
    """Write the sheet of videos, (name, file): the first 600 of them. What cannot be read is dark red. Raises OutputError."""
    tiles = list(_tiles(videos[:_MOST_TILES]))
    if not tiles:
        return
    across = min(len(tiles), max(4, round(len(tiles) ** 0.5)))
    height, width = tiles[0].shape[:2]
    tiles += [np.full((height, width, 3), 16, np.uint8)] * (-len(tiles) % across)
    lines = [np.concatenate(tiles[at : at + across], axis=1) for at in range(0, len(tiles), across)]
    sheet = np.concatenate(lines, axis=0)
    write_still(path, np.ascontiguousarray(sheet))


def _tiles(videos: Sequence[tuple[str, Path]]) -> Iterator[Picture]:
    lettering = Lettering()
    for name, path in videos:
        tile = np.full((_TILE + _LETTERS, _TILE, 3), 16, np.uint8)
        try:
            tile[:_TILE] = fit_picture(_middle(path), _TILE, _TILE, "pad")
        except (OSError, ValueError, EngineError):
            tile[:_TILE] = (70, 20, 20)  # failed, or not made yet
        try:
            cover = lettering.draw(name.replace("-", " ").replace("_", " "), _TILE, _LETTERS, 9)
        except UsageError:
            cover = lettering.draw(name[:9], _TILE, _LETTERS, 9)
        tile[_TILE:] = np.maximum(tile[_TILE:], (cover * 255).astype(np.uint8)[..., None])
        yield tile


def _middle(path: Path) -> Picture:
    import av

    try:
        with av.open(str(path)) as container:
            count = sum(packet.size > 0 for packet in islice(container.demux(video=0), _MOST_PACKETS))
        with av.open(
            str(path)
        ) as container:  # once more: pictures that are kept until all are counted take much memory
            frame = None
            for each in islice(container.decode(video=0), count // 2 + 1):
                frame = each
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(str(error)) from error
    if frame is None:
        raise ValueError("no picture")
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
