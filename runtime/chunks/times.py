"""How long films last, and when their prompts change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...bundle.manifest import Manifest
from ...core.errors import UsageError
from ..request import OpenRequest

LONGEST = 10**7
"""Seconds, four months: where somebody asks for more, it is a mistake."""


def check_seconds(value: object) -> None:
    """Raise UsageError for what is no time that a film can last."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST:
        raise UsageError(f"{str(value)[:40]!r} is no time in seconds: choose from above 0 to {LONGEST}")


def film_times(
    manifest: Manifest, asked: OpenRequest, seconds: float | None, then: Sequence[tuple[float, str]]
) -> tuple[float | None, list[tuple[float, str]]]:
    """Return a film's seconds, None without end, and the (seconds, prompt) of its changes, checked. Raises UsageError."""
    if manifest.stream is None:
        raise UsageError(
            f"the bundle {manifest.name} makes clips, not streams: a bundle of a causal model does (edgereel inspect tells)"
        )
    for name in ("frames", "latents"):
        if getattr(asked, name) is not None:
            raise UsageError(f"{name} is not for streams: leave it out")
    for value in (*(() if seconds is None else (seconds,)), *(at for at, _ in then)):
        check_seconds(value)
    times = [float(at) for at, _ in then]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise UsageError("the times at which the prompt changes must rise")
    if seconds is not None and times and times[-1] >= seconds:
        raise UsageError(f"the prompt changes at {times[-1]:g} s, and the film is over at {seconds:g} s")
    return None if seconds is None else float(seconds), [(float(at), text) for at, text in then]
