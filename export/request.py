"""What is asked of an export: checked once, without torch, which takes seconds to import, and completed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..bundle.writer import check_new_bundle
from ..core.errors import CheckpointError, UsageError
from .catalogue import check_stream, family_of, published_recipe, published_recipes
from .hub import find_checkpoint
from .layout import (
    INDEX_NAME,
    PICKLE_SUFFIXES,
    check_checkpoint_folder,
    check_component_folder,
    pipeline_of,
    read_json,
)

LORA_SYNTAX = "FILE[:SCALE][:partial][@2]"
PARTIAL = "partial"
LIGHT = "lighttae"
"""What the names of LightX2V's tiny decoders begin with."""
_SCALED = {"scaled": True, "normalised": False}
MAX_TOKENS_LIMIT = 65_536
SHIFT_LIMIT = 1e6

Compute = Literal["fp32", "fp16"]
_COMPUTES: dict[str, Compute] = {"fp32": "fp32", "fp16": "fp16"}
FusedAs = Literal["fp32", "bf16"]
_FUSED_AS: dict[str, FusedAs] = {"fp32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Lora:
    """A LoRA file to fuse at export. Raises UsageError where scale or expert cannot be meant.

    scale: what its change to the weights is multiplied by; 1 is what it was trained for, any finite number is allowed.
    expert: 1 for the first denoiser (diffusers' `transformer`, high noise where there are two), 2 for the second
        (`transformer_2`, what diffusers reaches with `load_into_transformer_2=True`). A file for both is given twice;
        one whose tensors name their denoisers goes where they say.
    partial: leave out, and list, what does not fit the model, instead of refusing the file.
    """

    path: Path
    scale: float = 1.0
    expert: int = 1
    partial: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise UsageError(f"{self.path}: LoRA scale {self.scale!r} is not a finite number; write {LORA_SYNTAX}")
        if self.expert not in (1, 2):
            raise UsageError(f"{self.path}: there is no denoiser {self.expert}; write @1 (the default) or @2")

    @classmethod
    def of(cls, given: Lora | Path | str) -> Lora:
        """Return what was given, text read as FILE[:SCALE][:partial][@EXPERT]. Raises UsageError.

        A text that is the name of an existing file is that file, colons and all.
        """
        if isinstance(given, Lora):
            return given
        if isinstance(given, Path) or Path(given).exists():
            return cls(Path(given))
        place = re.fullmatch(r"(?P<rest>.+)@(?P<expert>[0-9]{1,9})", given, re.DOTALL)
        rest, expert = (place["rest"], int(place["expert"])) if place else (given, 1)
        whole, partial = rest.removesuffix(f":{PARTIAL}"), rest.endswith(f":{PARTIAL}")
        path, colon, scale = whole.rpartition(":")
        # A drive's colon, or one in the file's name, is not a scale's.
        if not colon or re.search(r"[/\\]|\.safetensors$", scale) or (partial and Path(whole).exists()):
            return cls(Path(whole), expert=expert, partial=partial)
        try:
            return cls(Path(path), float(scale), expert, partial)
        except ValueError:
            raise UsageError(f"--lora {given}: scale {scale!r} is not a number; write {LORA_SYNTAX}") from None

    def check_file(self) -> None:
        """Raise CheckpointError where the path cannot be a LoRA file."""
        if self.path.is_dir():
            raise CheckpointError(f"{self.path}: is a folder; give the LoRA's .safetensors file")
        if not self.path.exists():
            raise CheckpointError(f"{self.path}: no such LoRA file; write {LORA_SYNTAX}")
        if not self.path.is_file():  # a pipe would be waited for
            raise CheckpointError(f"{self.path}: is not a file; give the LoRA's .safetensors file")
        if self.path.suffix in PICKLE_SUFFIXES:
            raise CheckpointError(
                f"{self.path}: pickled weights can run code and are not read; convert them to safetensors"
            )


@dataclass(frozen=True)
class TinyDecoderFile:
    """A second decoder to put into the bundle, a .safetensors file or a folder with one.

    scaled: whether it takes latents as they were before normalising, as LightTAE's do; None goes by the file's name, as
    LightX2V does, since both kinds have the same tensors.
    """

    path: Path
    scaled: bool | None = None

    @property
    def takes_scaled(self) -> bool:
        """Whether latents are scaled back before they go in."""
        return self.path.name.lower().startswith(LIGHT) if self.scaled is None else self.scaled

    @classmethod
    def of(cls, given: TinyDecoderFile | Path | str) -> TinyDecoderFile:
        """Return what was given, text read as FILE[:scaled|:normalised]; a text that is the name of a file is that file."""
        if isinstance(given, TinyDecoderFile):
            return given
        if isinstance(given, Path) or Path(given).exists():
            return cls(Path(given))
        path, colon, kind = given.rpartition(":")
        return cls(Path(path), _SCALED[kind]) if colon and kind in _SCALED else cls(Path(given))


@dataclass(frozen=True)
class ExportRequest:
    """A checked export. replaced: denoisers by component name that come from elsewhere. labels: those given."""

    checkpoint: Path
    output: Path
    precision: Compute
    max_tokens: int | None
    recipe: str | None
    loras: tuple[Lora, ...]
    replaced: dict[str, Path]
    labels: dict[str, str]
    fused_as: FusedAs = "fp32"
    shift: float | None = None
    encoder: bool = False
    stream: str | None = None
    tiny_decoder: TinyDecoderFile | None = None


@dataclass(frozen=True)
class ExportOptions:
    """What may be said about an export; what is left open is the checkpoint's own or, without, the family's default.

    checkpoint, output: a folder in diffusers' layout, or a model's name on Hugging Face's hub (NAME/NAME[@REVISION]) that its
    cache holds, and the bundle to write, NAME.reel; the two that must be given.
    max_tokens: length prompts are padded to. recipe: name of a published recipe of the model family that becomes the
    bundle's default; the checkpoint's own ones follow. precision: what the graphs compute in, fp32 (the default) or fp16.
    loras: safetensors files to fuse into the denoisers in float32, one after another; text is
    FILE[:SCALE][:partial][@2]. fused_as: what weights that a LoRA changed are stored as, fp32 (the default) or bf16.
    transformer, transformer_2: folders or .safetensors files of denoisers to export instead of the checkpoint's own, as
    distilled models are published; what a folder's `edgereel.json` says goes before what the checkpoint's says.
    shift: of the noise levels, in place of the checkpoint's or the chosen recipe's.
    name, license, origin: of the weights.
    encoder: have an encoder of pictures, to go on from video files, even where the model itself takes no picture.
    stream: name of a published way to make clips chunk by chunk, for a denoiser that was trained so.
    tiny_decoder: a second, much smaller decoder beside the full one; text is FILE[:scaled|:normalised].
    """

    checkpoint: Path | str | None = None
    output: Path | str | None = None
    max_tokens: int | None = None
    recipe: str | None = None
    precision: str | None = None
    loras: Sequence[Lora | Path | str] | None = None
    fused_as: str | None = None
    shift: float | None = None
    transformer: Path | str | None = None
    transformer_2: Path | str | None = None
    name: str | None = None
    license: str | None = None
    origin: str | None = None
    encoder: bool | None = None
    stream: str | None = None
    tiny_decoder: TinyDecoderFile | Path | str | None = None

    def complete(self) -> ExportRequest:
        """Check everything that can be checked without torch. Raises UsageError, OutputError or CheckpointError."""
        if self.checkpoint is None or self.output is None:
            raise UsageError("an export needs a checkpoint folder and the name of the bundle to write")
        replaced = {"transformer": self.transformer, "transformer_2": self.transformer_2}
        labels = {"name": self.name, "license": self.license, "origin": self.origin}
        request = ExportRequest(
            checkpoint=find_checkpoint(Path(self.checkpoint)),
            output=Path(self.output),
            precision=_compute(self.precision),
            max_tokens=self.max_tokens,
            recipe=self.recipe,
            loras=tuple(Lora.of(lora) for lora in self.loras or ()),
            replaced={name: find_checkpoint(Path(folder)) for name, folder in replaced.items() if folder is not None},
            labels={key: label for key, label in labels.items() if label is not None},
            fused_as=_fused_as(self.fused_as),
            shift=self.shift,
            encoder=bool(self.encoder),
            stream=self.stream,
            tiny_decoder=None if self.tiny_decoder is None else TinyDecoderFile.of(self.tiny_decoder),
        )
        _check(request)
        return request


def _compute(given: str | None) -> Compute:
    precision = "fp32" if given is None else given
    if precision not in _COMPUTES:
        raise UsageError(f"precision {precision!r} is unknown: choose {' or '.join(_COMPUTES)}")
    return _COMPUTES[precision]


def _fused_as(given: str | None) -> FusedAs:
    stored = "fp32" if given is None else given
    if stored not in _FUSED_AS:
        raise UsageError(f"fused as {stored!r} is unknown: choose {' or '.join(_FUSED_AS)}")
    return _FUSED_AS[stored]


def _check(request: ExportRequest) -> None:
    if request.max_tokens is not None and not 0 < request.max_tokens <= MAX_TOKENS_LIMIT:
        raise UsageError(f"max tokens is {request.max_tokens}: choose 1 to {MAX_TOKENS_LIMIT}")
    if request.shift is not None and not 0 < request.shift <= SHIFT_LIMIT:
        raise UsageError(f"--shift {request.shift:g}: the shift is a number above 0, 3 or 5 for most models")
    check_new_bundle(request.output)
    check_checkpoint_folder(request.checkpoint)
    for name, folder in request.replaced.items():
        check_component_folder(name, folder)
    for lora in request.loras:
        lora.check_file()
    if request.tiny_decoder is not None:
        check_component_folder("tiny decoder", request.tiny_decoder.path)
    family = family_of(pipeline_of(read_json(request.checkpoint / INDEX_NAME)), request.checkpoint)
    if request.recipe is not None:
        published_recipe(request.recipe, published_recipes(family))
    if request.stream is not None:
        check_stream(request.stream, family)
