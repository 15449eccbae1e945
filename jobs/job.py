"""One job: what was asked for, and what became of it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

QUEUED, IN_PROGRESS, COMPLETED, FAILED = "queued", "in_progress", "completed", "failed"
STATES = (QUEUED, IN_PROGRESS, COMPLETED, FAILED)
FINISHED = (COMPLETED, FAILED)
CANCELLED = "cancelled"
"""The code of a job that failed since somebody asked for that: clients of this shape know no other state."""
MOST_STARTS = 3
"""A job that was begun so often and never ended is not begun again."""

_ID = re.compile("video_[0-9a-f]{32}")


@dataclass(frozen=True)
class Job:
    """One row of the record.

    number: its place in the queue, rising. request: the settings, as `JobSettings.to_json` gives them. facts: what the clip is
    once that is known: width, height, num_frames, fps, and what became of its marks. starts: how often it was begun. created_at,
    completed_at: Unix time, for people alone. finished_tick: seconds that servers had run on this record when it ended. bytes: of
    its files.
    """

    id: str
    number: int
    status: str
    model: str
    request: dict[str, Any]
    created_at: int
    facts: dict[str, Any] = field(default_factory=dict)
    completed_at: int | None = None
    finished_tick: float | None = None
    starts: int = 0
    error_code: str | None = None
    error_message: str | None = None
    remixed_from: str | None = None
    bytes: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in FINISHED


def new_id() -> str:
    """Return a name that cannot be guessed: 128 random bits."""
    return f"video_{secrets.token_hex(16)}"


def is_id(text: str) -> bool:
    """Tell whether text is such a name; nothing else becomes part of a path."""
    return _ID.fullmatch(text) is not None
