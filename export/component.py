"""One component of a checkpoint: its configuration and its weights, checked against each other before any is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]

from ..core.errors import CheckpointError, brief
from . import weights
from .settings import Settings
from .storage.files import open_safetensors, weight_files
from .storage.tensors import (
    Naming,
    Reading,
    Shape,
    StoredTensor,
    check_kind,
    is_marked,
    quantization_of,
    read_as,
    read_headers,
)
from .storage.values import check_equal, check_values

Config = dict[str, Any]


def own_name(parameter: str) -> str:
    """Return a parameter's name as it is."""
    return parameter


@dataclass(frozen=True)
class ComponentLayout:
    """How a family's component is published, as data.

    namings: from a parameter's name to what files call it. settings: what its configuration may say.
    converted: by the class name of another program's configuration, what makes diffusers' of it.
    described: what a single file's shapes say of the configuration, given a base and the shapes by the model's names.
    unused: patterns of tensors that files have and the model does not need. optional: beginnings of tensors that may be
    missing, all of a beginning at once. stand_ins: classes whose files have all that this component needs.
    model_type: what a transformers configuration calls the model.
    """

    namings: Sequence[Naming] = (own_name,)
    settings: Settings | None = None
    converted: Mapping[str, Callable[[Config], Config]] = field(default_factory=dict)
    described: Callable[[Config, Callable[[str], Shape | None]], Config] | None = None
    unused: Sequence[str] = ()
    optional: Sequence[str] = ()
    stand_ins: Sequence[str] = ()
    model_type: str | None = None


@dataclass(frozen=True)
class Component:
    """A folder with a `config.json` and safetensors, or a single safetensors file and a configuration for it.

    notes: what people should know of how it was read; filled as it is.
    """

    folder: Path
    config: Config
    layout: ComponentLayout = ComponentLayout()
    notes: list[str] = field(default_factory=list)
    _readings: list[Reading] = field(default_factory=list)
    _aliases: dict[str, str] = field(default_factory=dict)

    @property
    def config_path(self) -> Path:
        """The file that a wrong configuration is to be looked for in."""
        return self.folder / "config.json" if self.folder.is_dir() else self.folder

    def skeleton(self, build: Callable[[dict[str, Any]], Any]) -> Any:
        """Return the module that `build` makes of the configuration, parameters without memory."""
        try:
            with init_empty_weights(include_buffers=False):
                return build(self.config).eval()
        except Exception as error:  # model classes raise whatever their arithmetic stumbles on
            raise CheckpointError(
                f"{self.config_path}: cannot build the model from this configuration: {brief(error)}"
            ) from error

    def check(self, skeleton: Any, aliases: Mapping[str, str] | None = None) -> None:
        """Compare names and shapes in the safetensors headers with the skeleton's; raise CheckpointError.

        aliases: names that may be absent because they are tied to another.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        reading = self._read(expected)
        self._aliases.update(aliases or {})
        stored = {**reading.extra, **reading.tensors}
        absent = [name for name in expected if _source(name, stored, aliases or {}) is None]
        absent = [name for name in absent if not self._may_lack(name, reading)]
        self._check_names(expected, absent, skeleton, reading)
        for name, shape in expected.items():
            source = _source(name, stored, aliases or {})
            if source is None:
                continue
            tensor = stored[source]
            if tensor.shape != shape:
                raise CheckpointError(
                    f"{tensor.path}: tensor {tensor.key} has shape {list(tensor.shape)}, "
                    f"{self.config_path.name} asks for {list(shape)}"
                )
            check_kind(tensor.key, tensor)

    def check_alive(self) -> None:
        """Read every weight once: raise CheckpointError where one is not finite or all zeros, or two that are one differ.

        `check` comes first.
        """
        for reading in self._readings[:1]:
            for name, other in self._aliases.items():
                if name in reading.tensors and other in reading.tensors:
                    check_equal(reading.tensors[other], reading.tensors[name], "one table")
            tied = (reading.extra[name] for name in self._aliases.values() if name in reading.extra)
            check_values([*reading.tensors.values(), *tied])

    def lacks(self, beginning: str) -> bool:
        """Tell whether the files have no tensor whose name begins so, once `check` has read their headers."""
        return not any(name.startswith(beginning) for reading in self._readings for name in reading.tensors)

    def load(self, skeleton: Any, aliases: Mapping[str, str] | None = None) -> Any:
        """Fill the skeleton with the stored weights, which count as float32, and return it; `check` comes first.

        Large ones stay in their files until something is computed with them: see `StoredWeight`. What the layout lets
        be missing has no values.
        """
        reading = self._read({name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()})
        stored = {**reading.extra, **reading.tensors}
        sources = {name: _source(name, stored, aliases or {}) for name in skeleton.state_dict()}
        loaded: dict[str, torch.Tensor] = {}
        for source in sorted({source for source in sources.values() if source is not None}):
            loaded[source] = _load(stored[source])
        filled = {name: loaded[source] for name, source in sources.items() if source is not None}
        skeleton.load_state_dict(filled, assign=True, strict=not self.layout.optional)
        return skeleton.requires_grad_(False)

    def _read(self, expected: Mapping[str, Shape]) -> Reading:
        """Return the tensors by the model's names; headers are read once."""
        if not self._readings:
            files = weight_files(self.folder)
            reading = read_as(expected, read_headers(files.paths), self.layout.namings)
            self._readings.append(reading)
            if files.note is not None:
                self.notes.append(files.note)
            if reading.beginning:
                self.notes.append(f"{self.folder}: {reading.beginning!r} is taken off the names of tensors")
            unused = [name for name in reading.extra if is_marked(name, self.layout.unused)]
            if unused:
                self.notes.append(f"{self.folder}: {_counted(unused)} left out, the model does not use them")
            scaled = [tensor for tensor in reading.tensors.values() if not tensor.is_plain]
            if scaled:
                self.notes.append(
                    f"{self.folder}: {len(scaled)} of {len(reading.tensors)} tensors are stored in 8 bits "
                    f"({scaled[0].kind}) and were widened"
                )
        return self._readings[0]

    def _may_lack(self, name: str, reading: Reading) -> bool:
        """Tell whether a missing tensor is of a part that may be missing, and is missing whole."""
        for beginning in self.layout.optional:
            if name.startswith(beginning):
                return not any(stored.startswith(beginning) for stored in reading.tensors)
        return False

    def _check_names(self, expected: Mapping[str, Shape], absent: list[str], skeleton: Any, reading: Reading) -> None:
        """Raise CheckpointError where tensors are missing or too many, with the likeliest cause."""
        ignored = (*(getattr(skeleton, "_keys_to_ignore_on_load_unexpected", None) or ()), *self.layout.unused)
        tied = set(self._aliases.values())
        extra = [name for name in reading.extra if name not in tied and not is_marked(name, ignored)]
        if (kind := quantization_of(reading.extra)) is not None:
            raise CheckpointError(
                f"{self.folder}: its weights are quantized ({kind}: {_counted(list(reading.extra))}); "
                "export from F32, F16 or BF16 weights"
            )
        if len(absent) == len(expected):
            found = _counted(list(reading.extra)) if reading.extra else "no tensors"
            raise CheckpointError(
                f"{self.folder}: its tensors have names that are not understood ({found}; wanted are names such as "
                f"{next(iter(expected))}); is it another model's, or of a program that edgereel does not know?"
            )
        for names, problem in ((absent, "is missing"), (extra, "does not belong to this configuration")):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise CheckpointError(
                    f"{self.folder}: tensor {names[0]}{more} {problem}; is {self.config_path.name} the right one?"
                )


def _load(tensor: StoredTensor) -> torch.Tensor:
    if len(tensor.shape) > 1 and math.prod(tensor.shape) >= weights.STORED_SIZE:
        opener = open_safetensors if tensor.is_plain else tensor.reader()
        return weights.StoredWeight(opener, tensor.path, tensor.key, tensor.shape, torch.float32)
    return tensor.read().to(torch.float32)


def _source(name: str, stored: Mapping[str, Any], aliases: Mapping[str, str]) -> str | None:
    """Return the stored tensor that fills a parameter: its own or the one that it is tied to."""
    if name in stored:
        return name
    other = aliases.get(name) or next((alias for alias, target in aliases.items() if target == name), None)
    return other if other in stored else None


def _counted(names: Sequence[str]) -> str:
    return f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
