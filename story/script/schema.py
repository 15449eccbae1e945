"""The JSON schemas of what people write, published in docs/."""

from __future__ import annotations

from typing import Any

from .story import Story

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def story_schema() -> dict[str, Any]:
    """Return the schema of a story file."""
    return {"$schema": _DIALECT, **Story.model_json_schema()}


def campaign_schema() -> dict[str, Any]:
    """Return the schema of a campaign."""
    from ..campaign.sheet import Campaign

    return {"$schema": _DIALECT, **Campaign.model_json_schema()}
