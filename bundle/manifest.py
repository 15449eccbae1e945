"""The schema of `reel.json`: what a bundle says about itself.

Models are pydantic classes in strict mode: a wrong type is an error, never a conversion. Keys this version does not
know are kept, so that a manifest read and written again loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from .bounds import (
    Count,
    LongText,
    Pixels,
    PlainFileName,
    Sha256,
    ShortText,
    TokenId,
)
from .conditioning import Condition, Held, Stream
from .recipes import RCM_MOST_STEPS, Recipe, SecondStage, TokenShift
from .record import Record
from .roles import TINY, DecoderGraphs, DecoderName, Denoiser, Graph, ImageEncoder, Quantization, Roles, TensorSpec
from .vocabulary import Examples, Vocabulary, WordGroup

__all__ = [
    "FORMAT_NAME",
    "MANIFEST_NAME",
    "RCM_MOST_STEPS",
    "SCHEMA_RELEASES",
    "SCHEMA_VERSION",
    "Condition",
    "DecoderGraphs",
    "Defaults",
    "Denoiser",
    "EmbeddingTable",
    "FileRecord",
    "FusedLora",
    "Graph",
    "Held",
    "ImageEncoder",
    "LatentGeometry",
    "Manifest",
    "Parity",
    "Precision",
    "Quantization",
    "Recipe",
    "Record",
    "Roles",
    "SecondStage",
    "Stream",
    "TensorSpec",
    "TextRules",
    "TokenShift",
    "Vocabulary",
    "WordGroup",
    "digest_of",
    "is_plain_file_name",
]

SCHEMA_RELEASES = {1: "0.1.0", 2: "0.2.0"}
"""The first release that reads each schema. A bundle says it, so that an older release can name it when it refuses."""
SCHEMA_VERSION = max(SCHEMA_RELEASES)
MANIFEST_NAME = "reel.json"


class EmbeddingTable(Record):
    """Token embeddings outside the text encoder's graph: a file of rows x columns numbers, little-endian, row by row."""

    file: PlainFileName
    dtype: Literal["float32", "float16", "bfloat16"]
    rows: Annotated[int, Field(gt=0, le=2**24)]
    columns: Annotated[int, Field(gt=0, le=2**16)]


class TextRules(Record):
    """How a prompt becomes token ids, or embeddings of them.

    cleaning: rules applied in order before tokenizing: `fix_text` (ftfy), `html_unescape` (twice),
        `collapse_whitespace`.
    max_tokens: length that ids are padded to. It matters: families whose cross-attention is unmasked see the padding.
    unknown_token_id: where set, a prompt that produces this id is refused and its unknown words are named.
    embedding_table: where set, the text encoder takes `token_embeds`, rows of this table, in the place of `input_ids`.
    trim: whether the denoiser gets the embeddings of the prompt's tokens alone, without those of the padding.
    """

    tokenizer: PlainFileName = "tokenizer.json"
    max_tokens: Annotated[int, Field(gt=0, le=65536)]
    pad_token_id: TokenId
    unknown_token_id: TokenId | None = None
    cleaning: Annotated[list[Literal["fix_text", "html_unescape", "collapse_whitespace"]], Field(max_length=8)] = Field(
        default_factory=list
    )
    embedding_table: EmbeddingTable | None = None
    trim: bool = False

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        new = ("embedding_table", "trim")
        return {key: value for key, value in to_data(self).items() if value or key not in new}


class LatentGeometry(Record):
    """How pixels and frames relate to latents.

    A clip of `frames` pictures of width x height has latents [B, channels, 1 + (frames - 1) / temporal_scale,
    height / spatial_scale, width / spatial_scale]; the three latent extents must be multiples of `patch`, and their
    number of patches at most `max_patches` per axis.
    """

    channels: Annotated[int, Field(gt=0, le=2**12)]
    temporal_scale: Annotated[int, Field(gt=0, le=64)]
    spatial_scale: Annotated[int, Field(gt=0, le=256)]
    patch: Annotated[list[Annotated[int, Field(gt=0, le=64)]], Field(min_length=3, max_length=3)]
    max_patches: Annotated[int, Field(gt=0, le=2**16)] = 1024


class Precision(Record):
    """compute: the type the graphs calculate in, but for quantized linears. weights: what most weights are stored in.

    `mixed` weights are int8 where that was found not to matter. Each graph's `quantization` says the details.
    """

    compute: Literal["fp32", "fp16"]
    weights: ShortText


FORMAT_NAME = "[a-z][a-z0-9-]{0,31}"
"""Of a picture size. No number comes first, so that it is told from 64x64."""
FormatName = Annotated[str, StringConstraints(pattern=f"^{FORMAT_NAME}$")]


class Defaults(Record):
    """Picture size in pixels, number of frames and frames per second when the user asks for nothing else.

    formats: other (width, height) that the model was made for, by name.
    """

    width: Pixels
    height: Pixels
    frames: Annotated[int, Field(gt=0, le=2**14)]
    fps: Annotated[int, Field(ge=1, le=240)]
    formats: Annotated[
        dict[FormatName, Annotated[list[Pixels], Field(min_length=2, max_length=2)]], Field(max_length=64)
    ] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_formats_where_there_are_none(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in to_data(self).items() if key != "formats" or value}

    def complete(self, size: tuple[int, int] | None, frames: int | None) -> tuple[int, int, int]:
        """Return (width, height, frames) with what the caller left open filled in."""
        return (*(size or (self.width, self.height)), self.frames if frames is None else frames)


class FileRecord(Record):
    """Size in bytes and content hash of a file in the bundle."""

    size: Annotated[int, Field(ge=0, le=2**44)]
    sha256: Sha256


class Parity(Record):
    """Relative difference ||a - b|| / ||b|| of a graph to its torch module, the worst over outputs and shapes tried."""

    relative: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    shapes: Annotated[list[ShortText], Field(max_length=64)]


class FusedLora(Record):
    """A LoRA that was fused into the weights: its file's name and hash, its scale, and the graph it is in.

    strength: where its alpha was found, "" where that was not recorded. left_out: number of the file's tensors that did not
    fit; left_out_keys: their names, the first thousand.
    """

    name: Annotated[str, Field(min_length=1, max_length=255)]
    sha256: Sha256
    scale: Annotated[float, Field(allow_inf_nan=False)]
    denoiser: ShortText
    strength: ShortText = ""
    left_out: Count = 0
    left_out_keys: Annotated[list[ShortText], Field(max_length=1000)] = Field(default_factory=list)

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        new = ("strength", "left_out", "left_out_keys")
        return {key: value for key, value in to_data(self).items() if value or key not in new}

    def notes(self) -> list[str]:
        """Return what people should know of it, a line each."""
        notes = []
        if "no alpha found" in self.strength:
            notes.append(f"{self.name}: {self.strength}")
        if self.left_out:
            more = self.left_out - len(self.left_out_keys)
            listed = ", ".join(self.left_out_keys) + (f" and {more} more" if more else "")
            notes.append(
                f"{self.name}: left out, since it does not fit this model: {self.left_out} of its tensors, {listed}"
            )
        return notes


class Manifest(Record):
    """The whole of `reel.json`.

    quality: figures about the model's clips; `to_source` compares them with those of the bundle it was quantized from,
    whose digest is `quantized_from`. held, condition, stream: how clips begin with pictures and go on, None where they do
    not in that way. default_decoder: the one of several that is used where nobody asks for another.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, populate_by_name=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = Field(SCHEMA_VERSION, alias="schema")
    read_by: ShortText = SCHEMA_RELEASES[SCHEMA_VERSION]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    license: LongText
    origin: LongText
    roles: Roles
    text: TextRules
    latent: LatentGeometry
    recipes: Annotated[list[Recipe], Field(min_length=1, max_length=64)]
    precision: Precision
    defaults: Defaults
    files: Annotated[dict[PlainFileName, FileRecord], Field(max_length=256)]
    written_by: Annotated[dict[ShortText, ShortText], Field(max_length=64)]
    parity: Annotated[dict[ShortText, Parity], Field(max_length=64)] = Field(default_factory=dict)
    quality: Annotated[dict[ShortText, Any], Field(max_length=256)] = Field(default_factory=dict)
    loras: Annotated[list[FusedLora], Field(max_length=64)] = Field(default_factory=list)
    quantized_from: Sha256 | None = None
    held: Held | None = None
    condition: Condition | None = None
    stream: Stream | None = None
    default_decoder: DecoderName | None = None
    vocabulary: Vocabulary | None = None
    examples: Examples = Field(default_factory=list)
    digest: Sha256 | Literal[""] = ""

    @field_validator("recipes")
    @classmethod
    def _unique_names(cls, recipes: list[Recipe]) -> list[Recipe]:
        names = [recipe.name for recipe in recipes]
        if len(set(names)) != len(names):
            raise ValueError(f"recipe names are not unique: {names}")
        return recipes

    @field_validator("quality")
    @classmethod
    def _figures_of_others_are_named(cls, quality: dict[str, Any]) -> dict[str, Any]:
        for key in ("to_source", "of_source"):
            if not isinstance(quality.get(key, {}), dict):
                raise ValueError(f"{key} must hold figures by name")
        return quality

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        wanted = {self.text.tokenizer}
        if self.text.embedding_table is not None:
            wanted.add(self.text.embedding_table.file)
        for graph in self.roles.graphs().values():
            wanted |= {graph.file, graph.data}
        if missing := sorted(wanted - set(self.files)):
            raise ValueError(f"used but not listed under files: {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _recipes_fit_the_denoisers(self) -> Manifest:
        count = len(self.roles.denoiser)
        for recipe in self.recipes:
            if recipe.expert_guidance is not None and len(recipe.expert_guidance) != count:
                raise ValueError(
                    f"recipe {recipe.name} has guidance for {len(recipe.expert_guidance)} of {count} denoisers"
                )
            if recipe.boundary is not None and count != 2:
                raise ValueError(f"recipe {recipe.name} has a boundary between two denoisers, but there are {count}")
        return self

    @model_validator(mode="after")
    def _graphs_take_what_is_said(self) -> Manifest:
        experts, encodes = self.roles.denoiser, self.roles.encoder_first is not None
        for expert in experts:
            if (self.condition is not None) != ("condition" in expert.inputs):
                raise ValueError("condition must be told for denoisers that have this input, and for no others")
            if ("image_embeds" in expert.inputs) != (self.roles.image_encoder is not None):
                raise ValueError("an image_encoder must be there for denoisers with image_embeds, and for no others")
            if (self.stream is not None) != bool(expert.context):
                raise ValueError("stream must be told for denoisers that take a context, and for no others")
            if self.held is not None and not expert.timestep_of_each_frame:
                raise ValueError("held needs denoisers whose timestep is [batch, frames]")
        if self.stream is not None and (len(experts) > 1 or self.latent.patch[0] > 1):
            raise ValueError("stream needs one denoiser, and patches of one latent frame")
        if self.stream is not None and any(recipe.second is not None for recipe in self.recipes):
            raise ValueError("a stream is sampled at one size: no recipe may have a second stage")
        if self.stream is not None and self.condition is not None:
            raise ValueError("a stream has no end that a condition of pictures could be made for")
        if (self.held is not None or self.condition is not None) and not encodes:
            raise ValueError("held and condition need an encoder: encoder_first and encoder_next")
        return self

    @model_validator(mode="after")
    def _condition_has_its_channels(self) -> Manifest:
        if self.condition is None:
            return self
        latent = self.latent
        needed = self.condition.channels(latent.channels, latent.temporal_scale, latent.spatial_scale)
        for expert in self.roles.denoiser:
            shape = expert.inputs["condition"].shape
            if len(shape) != 5 or shape[1] != needed:
                raise ValueError(f"the layout of condition makes {needed} channels, but the graph takes {shape}")
        return self

    @model_validator(mode="after")
    def _default_decoder_is_there(self) -> Manifest:
        names = list(self.roles.decoders_by_name)
        if self.default_decoder is None and len(names) > 1:
            raise ValueError(f"default_decoder must say which of {', '.join(names)}")
        if self.default_decoder not in (None, *names):
            raise ValueError(f"default_decoder is {self.default_decoder}, which is none of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _schema_is_new_enough(self) -> Manifest:
        if self.schema_version < self.least_schema:
            raise ValueError(f"uses what schema {self.schema_version} does not have")
        return self

    @property
    def least_schema(self) -> int:
        """The oldest schema that has all that this manifest uses."""
        roles = self.roles
        newer = (self.held, self.condition, self.stream, self.default_decoder, roles.encoder_first, roles.image_encoder)
        specs = (
            spec for graph in roles.graphs().values() for spec in (*graph.inputs.values(), *graph.outputs.values())
        )
        uses = (
            any(part is not None for part in (*newer, roles.decoder, roles.decoders)),
            bool(self.defaults.formats),
            self.text.trim,
            any(recipe.shift_by_tokens is not None or recipe.second is not None for recipe in self.recipes),
            any(expert.timestep_of_each_frame for expert in roles.denoiser),
            any(spec.dtype == "float16" for spec in specs),
        )
        return 2 if any(uses) else 1

    def decoder_name(self, asked: str | None = None) -> str | None:
        """Return the decoder of that name, the default one for None; None where there is no such decoder."""
        names = list(self.roles.decoders_by_name)
        name = asked or self.default_decoder or names[0]
        return name if name in names else None

    @property
    def preview_decoder(self) -> str | None:
        """The decoder that clips are shown with before they are done: the tiny one where there is one."""
        return self.decoder_name(TINY) or self.decoder_name()

    def recipe(self, name: str | None = None) -> Recipe | None:
        """Return the recipe of that name, the first (the default) for None, None where there is no such recipe."""
        if name is None:
            return self.recipes[0]
        return next((recipe for recipe in self.recipes if recipe.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON data, keys as they stand in the file."""
        # Bundles older than these keys are shown as they are.
        absent = {key for key in ("loras", "quantized_from") if key not in self.model_fields_set}
        optional = ("held", "condition", "stream", "default_decoder", "vocabulary")
        absent |= {key for key in optional if getattr(self, key) is None}
        absent |= set() if self.examples else {"examples"}
        return self.model_dump(mode="json", by_alias=True, exclude=absent)


def digest_of(data: dict[str, Any]) -> str:
    """Return a bundle's identity: sha256 of its canonical JSON without the `digest` field.

    Canonical: UTF-8, keys sorted, no spaces, no NaN.
    """
    rest = {key: value for key, value in data.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_plain_file_name(name: str) -> bool:
    """Tell whether a name is one the bundle may use: a bare file name with no path in it."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}", name) is not None
