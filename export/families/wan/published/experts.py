"""Which denoisers a Wan checkpoint has, and which noise levels each is responsible for."""

from __future__ import annotations

from typing import Any, NamedTuple

from .....core.errors import CheckpointError
from ....checkpoint import Checkpoint
from ....layout import INDEX_NAME

FIRST, SECOND = "transformer", "transformer_2"
PUBLISHED = "0.875 is Wan 2.2 T2V's, 0.9 I2V's"


class Expert(NamedTuple):
    """A denoiser: its component, its place among diffusers' two (what `@2` means), its range of sigma ({} for all)."""

    component: str
    place: int
    levels: dict[str, Any]


def experts_of(checkpoint: Checkpoint) -> list[Expert]:
    """Return the denoisers, that of the high noise levels first. Raises CheckpointError for contradictions.

    `boundary_ratio` 1 is the second one alone, 0 the first, as diffusers runs them.
    """
    path = checkpoint.folder / INDEX_NAME
    boundary = checkpoint.index.get("boundary_ratio")
    has_first, has_second = checkpoint.has(FIRST), checkpoint.has(SECOND)
    if boundary is None:
        if has_second or (checkpoint.folder / SECOND / "config.json").is_file():
            raise CheckpointError(
                f"{path}: {SECOND} is there and boundary_ratio is not, which says where its noise levels begin; "
                f"set it ({PUBLISHED}; 1.0 for {SECOND} alone), or take {SECOND} away"
            )
        return [Expert(FIRST, 1, {})]
    if isinstance(boundary, bool) or not isinstance(boundary, int | float) or not 0 <= boundary <= 1:
        raise CheckpointError(f"{path}: boundary_ratio is {boundary!r}, not between 0 and 1; {PUBLISHED}")
    if boundary == 1:
        if has_first and has_second:
            checkpoint.notes.append(
                f"{path}: boundary_ratio is 1, so {SECOND} alone is exported; {FIRST} is never used"
            )
        return [Expert(SECOND, 2, {})]
    if boundary == 0:
        checkpoint.notes.append(f"{path}: boundary_ratio is 0, so {FIRST} alone is exported")
        return [Expert(FIRST, 1, {})]
    if not has_first:
        raise CheckpointError(
            f"{path}: there is no {FIRST} for the noise levels above boundary_ratio {boundary:g}; "
            f"set it to 1.0 to export {SECOND} alone"
        )
    return [
        Expert(FIRST, 1, {"sigma_low": float(boundary), "sigma_high": 1.0}),
        Expert(SECOND, 2, {"sigma_low": 0.0, "sigma_high": float(boundary)}),
    ]
