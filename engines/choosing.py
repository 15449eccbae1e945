"""What `auto` picks: the fastest engine that can run on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .base import Engine

BEST_FIRST = ("rtx", "tensorrt", "cuda", "cpu")
"""Engines from the fastest on: those that build for one GPU, then ready-made kernels, then the processor."""


@dataclass(frozen=True)
class Choice:
    """name: of the engine. why: one sentence that says what was picked, and why each better one was not."""

    name: str
    why: str


def choose_engine(engines: Mapping[str, Engine]) -> Choice:
    """Return the best of these engines that can run here; the last one, which says what it needs, where none can.

    Engines that BEST_FIRST does not name are not picked.
    """
    reasons: dict[str, str | None] = {}
    for name in BEST_FIRST:
        if name in engines:
            reasons[name] = engines[name].unavailable()
            if reasons[name] is None:
                break
    return choose(reasons)


def choose(reasons: Mapping[str, str | None]) -> Choice:
    """Return the best of these engines. reasons: why each cannot run, None where it can. At least one of BEST_FIRST is there."""
    ranked = [name for name in BEST_FIRST if name in reasons]
    picked = next((name for name in ranked if reasons[name] is None), None)
    rejected = ranked if picked is None else ranked[: ranked.index(picked)]
    by_reason: dict[str, list[str]] = {}
    for name in rejected:
        by_reason.setdefault(str(reasons[name]), []).append(name)
    whys = "; ".join(f"{' and '.join(names)} cannot run: {reason}" for reason, names in by_reason.items())
    if picked is None:
        return Choice(ranked[-1], f"none can run: {whys}")
    return Choice(picked, f"{picked}, since {whys}" if whys else f"{picked}, the best there is")
