"""How large what a manifest says may be: numbers, texts and lists of numbers.

Every one is bounded by what uses it, so that no manifest can ask for work or memory without end. The bounds are some way
above what any known model needs.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

PlainFileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Extent = Annotated[int, Field(ge=0, le=2**40)]
"""Of a tensor's axis."""
Count = Annotated[int, Field(ge=0, le=2**20)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Pixels = Annotated[int, Field(gt=0, le=2**14)]
ShortText = Annotated[str, StringConstraints(max_length=200)]
LongText = Annotated[str, StringConstraints(max_length=10_000)]
Scale = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Shift = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Guidance = Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]
SigmaList = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=1000)]
TimestepList = Annotated[
    list[Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]], Field(min_length=1, max_length=1000)
]
