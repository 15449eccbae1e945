"""What all parts of the manifest have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all parts of the manifest: strict types, unknown keys kept."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
