"""What a campaign's file says: its types, which are also the published schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from ..script.story import FileName, Name, Part, Pictures, Seconds, Seed, Text

MOST_ROWS = 5000
SETTINGS = ("seed", "format", "recipe", "decoder", "negative", "pictures", "seconds")
"""Axes and columns of these names are not words of the prompt but settings of the row."""
Word = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)] | int | float
_LENGTH = Field(min_length=1, max_length=1000)
Values = Annotated[list[Word], _LENGTH] | Annotated[dict[Name, Word], _LENGTH]
Combination = Annotated[dict[Name, Word], Field(min_length=1, max_length=32)]


class Campaign(Part):
    """A campaign's file.

    prompt: with {NAME} for each axis and column. axes: the values of each, a list, or a map of short names to what they stand
    for; every combination is a row. rows: a .csv or .json file of rows, in the place of axes or multiplied by them. exclude:
    combinations that are left out. include: rows beside those. name: of each row's file, with {NAME} too. pairs: the axis whose
    values are compared, all else being equal.
    """

    title: Text = "Campaign"
    model: Text | None = None
    prompt: Text
    look: Text | None = None
    words: Annotated[dict[Name, Text], Field(max_length=500)] = Field(default_factory=dict)
    axes: Annotated[dict[Name, Values], Field(max_length=16)] = Field(default_factory=dict)
    rows: FileName | None = None
    exclude: Annotated[list[Combination], Field(max_length=1000)] = Field(default_factory=list)
    include: Annotated[list[Combination], Field(max_length=1000)] = Field(default_factory=list)
    name: Text | None = None
    pairs: Name | None = None
    suffix: Literal[".mp4", ".gif", ".webp"] = ".mp4"
    format: Text | None = None
    fps: Annotated[float, Field(ge=1, le=240)] | None = None
    seed: Seed = 0
    recipe: Text | None = None
    decoder: Text | None = None
    negative: Text | None = None
    seconds: Seconds | None = None
    pictures: Pictures | None = None

    @model_validator(mode="after")
    def _rows_somewhere(self) -> Campaign:
        if not self.axes and self.rows is None and not self.include:
            raise ValueError("give axes, or a file of rows")
        if self.seconds is not None and self.pictures is not None:
            raise ValueError("give seconds or pictures, not both")
        return self

    def values(self, axis: str) -> list[tuple[str, Any]]:
        """Return the values of an axis: (short name, what it stands for)."""
        values = self.axes[axis]
        return list(values.items()) if isinstance(values, dict) else [(str(value), value) for value in values]
