from typing import NamedTuple


class Tile(NamedTuple):
    height: int
    width: int
    overlap: int


def decode_tiled(*a):
    raise NotImplementedError
