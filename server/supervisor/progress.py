"""How far the jobs are that run now: kept in memory, since it is worth nothing after a power cut."""

from __future__ import annotations

from dataclasses import dataclass

_BEGINS = {
    "open": 0,
    "check": 0,
    "fit": 1,
    "encode pictures": 3,
    "text": 2,
    "denoise": 5,
    "tiles": 75,
    "decode": 80,
    "stills": 98,
}
_ENDS = {
    "open": 1,
    "check": 1,
    "fit": 2,
    "encode pictures": 5,
    "text": 5,
    "denoise": 75,
    "tiles": 80,
    "decode": 98,
    "stills": 99,
}


@dataclass
class JobProgress:
    """stage, step, total: as the runtime tells them. percent: never falls. preview: a JPEG; previews: how many there were."""

    stage: str | None = None
    step: int | None = None
    total: int | None = None
    percent: int = 0
    preview: bytes | None = None
    previews: int = 0

    def move(self, stage: str, step: int, total: int) -> None:
        """Note how far it is."""
        self.stage, self.step, self.total = stage, step, total
        begin, end = _BEGINS.get(stage, 0), _ENDS.get(stage, 0)
        share = min(1.0, step / total) if total > 0 else 0.0
        self.percent = max(self.percent, int(begin + (end - begin) * share))
