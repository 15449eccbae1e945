"""What a configuration may say: every key is implemented, known not to matter, or refused by name.

A setting that diffusers obeys and edgereel ignored would give other clips without a word. So a table says of each class
what its keys are; a key that no table has is refused too, since nobody knows what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, one_line

STORED_WITH_COMPONENTS = frozenset(
    ("architectures", "torch_dtype", "dtype", "transformers_version", "quantization_config")
)
"""Of how weights were stored, by any library; the files themselves say it."""


@dataclass(frozen=True)
class Settings:
    """The keys of one class's configuration. `_` in front of a key marks a note of diffusers', which is none.

    obeyed: implemented, whatever their value. idle: without effect. fixed: by key the values that are implemented; the
    first is what the class takes where the key is missing.
    """

    name: str
    obeyed: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    needed: Mapping[str, Any] = field(default_factory=dict)
    """By key what it has to be where the class's own default, which holds where the key is missing, is something else."""

    def check(self, path: Path, config: Mapping[str, Any], way_out: str) -> None:
        """Raise CheckpointError for a key that is unknown or has a value that is not implemented. path: of the file."""
        for key, value in config.items():
            if key.startswith("_") or key in self.obeyed or key in self.idle:
                continue
            allowed = (self.needed[key],) if key in self.needed else self.fixed.get(key)
            if allowed is None:
                raise CheckpointError(
                    f"{path}: {one_line(key)} is no setting of {self.name} that edgereel knows, so what it does is "
                    f"unknown; {way_out}"
                )
            if not any(_same(value, implemented) for implemented in allowed):
                raise CheckpointError(
                    f"{path}: {key} is {_shown(value)}; edgereel implements {' or '.join(map(_shown, allowed))}; {way_out}"
                )
        for key, wanted in self.needed.items():
            if key not in config:
                raise CheckpointError(
                    f"{path}: {key} is missing, and without it {self.name} is not {_shown(wanted)}, which is what edgereel "
                    f"implements; {way_out}"
                )

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration without the keys that do not matter, which the classes would warn of."""
        return {key: value for key, value in config.items() if key not in self.idle}


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool) or wanted is None:
        return value is wanted
    return bool(value == wanted)


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return one_line(value)[:60]
