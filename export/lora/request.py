"""What a user asks for with `--lora`: a file, how strongly, and into which denoiser. Needs no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError

SYNTAX = "FILE[:SCALE][@2]"


@dataclass(frozen=True)
class Lora:
    """A LoRA file to fuse at export. Raises UsageError where scale or expert cannot be meant.

    scale: what its change to the weights is multiplied by; 1 is what it was trained for, any finite number is allowed.
    expert: 1 for the first denoiser (diffusers' `transformer`, high noise where there are two), 2 for the second
        (`transformer_2`, what diffusers reaches with `load_into_transformer_2=True`). A file for both is given twice.
    """

    path: Path
    scale: float = 1.0
    expert: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise UsageError(f"{self.path}: LoRA scale {self.scale!r} is not a finite number; write {SYNTAX}")
        if self.expert not in (1, 2):
            raise UsageError(f"{self.path}: there is no denoiser {self.expert}; write @1 (the default) or @2")

    @classmethod
    def of(cls, given: Lora | Path | str) -> Lora:
        """Return what was given, text read as FILE[:SCALE][@EXPERT]. Raises UsageError.

        A text that is the name of an existing file is that file, colons and all.
        """
        if isinstance(given, Lora):
            return given
        if isinstance(given, Path) or Path(given).exists():
            return cls(Path(given))
        place = re.fullmatch(r"(?P<rest>.+)@(?P<expert>[0-9]{1,9})", given, re.DOTALL)
        rest, expert = (place["rest"], int(place["expert"])) if place else (given, 1)
        path, colon, scale = rest.rpartition(":")
        if not colon or re.search(r"[/\\]|\.safetensors$", scale):  # a drive's colon, not a scale's
            return cls(Path(rest), expert=expert)
        try:
            return cls(Path(path), float(scale), expert)
        except ValueError:
            raise UsageError(f"--lora {given}: scale {scale!r} is not a number; write {SYNTAX}") from None
