"""What may be asked of a job, as plain data: names, types and bounds, checked where it comes in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..core.errors import UsageError

LONGEST_PROMPT = 4000
"""Characters; models take far fewer words."""
_LONGEST_NAME = 100
_MOST_FRAMES = 2**14
_MOST_STEPS = 1000
_LARGEST_SEED = 2**32 - 1
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_FORMAT = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


class SettingError(UsageError):
    """A setting that cannot be used. param: its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class JobSettings:
    """The settings of one clip; None leaves one to the bundle.

    size: "WIDTHxHEIGHT" or the name of a format. seconds: the length, to the nearest that the model can do, instead of
    num_frames. picture: whether the clip begins with a picture that lies beside it.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    size: str | None = None
    seconds: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    recipe: str | None = None
    decoder: str | None = None
    fit: str | None = None
    picture: bool = False

    @staticmethod
    def of(given: Mapping[str, Any], *, picture: bool = False) -> JobSettings:
        """Return the settings of fields as a form or JSON gives them, numbers as text too. Raises SettingError."""
        known = dict(given)
        width, height = (known.pop(name, None) for name in ("width", "height"))
        if width is not None or height is not None:
            if width is None or height is None:
                raise SettingError("width" if width is None else "height", "give width and height, or neither")
            if known.get("size") is not None:
                raise SettingError("size", "give size, or width and height, not both")
            sides = [_whole(name, side, 1, 99999) for name, side in (("width", width), ("height", height))]
            known["size"] = f"{sides[0]}x{sides[1]}"
        allowed = {field.name for field in fields(JobSettings)} - {"picture"}
        if unknown := sorted(set(known) - allowed):
            raise SettingError(unknown[0][:60], f"there is no setting {unknown[0][:60]!r}")
        if "prompt" not in known or known["prompt"] is None:
            raise SettingError("prompt", "prompt is missing")
        values = {name: _CHECKS[name](name, value) for name, value in known.items() if value is not None}
        if values.get("seconds") is not None and values.get("num_frames") is not None:
            raise SettingError("seconds", "give seconds or num_frames, not both")
        if values.get("fit") is not None and not picture:
            raise SettingError("fit", "fit is for a picture, and none is given: leave it out")
        return JobSettings(**values, picture=picture)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> JobSettings:
        """Return what `to_json` gave."""
        return JobSettings(**data)

    def to_json(self) -> dict[str, Any]:
        """Return the settings that are not left open, as plain data."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}

    def again(self, prompt: str) -> JobSettings:
        """Return the settings with another prompt. Raises SettingError."""
        return replace(self, prompt=_prompt("prompt", prompt))


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str):
        raise SettingError(name, f"{name} must be text")
    if len(value) > longest:
        raise SettingError(name, f"{name} has {len(value)} characters, more than {longest}")
    if "\0" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise SettingError(name, f"{name} has characters that are none")
    return value


def _prompt(name: str, value: Any) -> str:
    text = _text(name, value, LONGEST_PROMPT)
    if not text.strip():
        raise SettingError(name, f"{name} is empty")
    return text


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError(name, f"{name} must be a whole number")
    if not least <= value <= most:
        raise SettingError(name, f"{name} must be from {least} to {most}")
    return value


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(float(value)):
        raise SettingError(name, f"{name} must be a number")
    if not least <= value <= most:
        raise SettingError(name, f"{name} must be from {least:g} to {most:g}")
    return float(value)


def _size(name: str, value: Any) -> str:
    text = _text(name, value, _LONGEST_NAME)
    if _SIZE.fullmatch(text) is None and _FORMAT.fullmatch(text) is None:
        raise SettingError(name, f"{name} must be WIDTHxHEIGHT, for example 64x64, or the name of a format")
    return text


def _choice(name: str, value: Any) -> str:
    text = _text(name, value, _LONGEST_NAME)
    if name == "fit" and text not in ("crop", "pad"):
        raise SettingError(name, "fit must be crop or pad")
    return text


_CHECKS: dict[str, Any] = {
    "prompt": _prompt,
    "negative_prompt": lambda name, value: _text(name, value, LONGEST_PROMPT),
    "seed": lambda name, value: _whole(name, value, 0, _LARGEST_SEED),
    "size": _size,
    "seconds": lambda name, value: _number(name, value, 0.001, 3600),
    "num_frames": lambda name, value: _whole(name, value, 1, _MOST_FRAMES),
    "fps": lambda name, value: _number(name, value, 1, 240),
    "num_inference_steps": lambda name, value: _whole(name, value, 1, _MOST_STEPS),
    "guidance_scale": lambda name, value: _number(name, value, 0, 100),
    "recipe": _choice,
    "decoder": _choice,
    "fit": _choice,
}


def parse_size(size: str) -> tuple[int, int] | str:
    """Return (width, height) of a size that was checked, or the name of a format as it is."""
    match = _SIZE.fullmatch(size)
    return size if match is None else (int(match[1]), int(match[2]))
