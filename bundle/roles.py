"""The graphs of a bundle by the part they play, as `reel.json` lists them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count, islice, takewhile
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from .bounds import Count, Extent, PlainFileName, Scale, ShortText, Sigma
from .record import Record

FULL = "full"
"""What a bundle's only decoder is called."""
TINY = "tiny"
"""What a decoder is called that is there to be fast: previews are decoded by it."""
DecoderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,31}$")]
DECODER_ROLES = ("decoder_first", "decoder_next", "decoder")
_OF_A_DECODER = re.compile(rf"(?:([a-z][a-z0-9]{{0,31}})_)?({'|'.join(DECODER_ROLES)})")
CONTEXT, STATE = "context_", "state_"
"""What the names of tensors begin with that stay on the device between calls, and so may be float16."""
_CONTEXT_POSITIONS = "context_positions"
_NEXT, _NEW = "_next", "_new"


class TensorSpec(Record):
    """One graph input or output. A dimension is a size or, where it may vary, a name.

    float16 is for what stays on the device between calls, `state_NN` and `context_NN`.
    """

    dtype: Literal["float32", "int64", "float16"]
    shape: Annotated[list[Extent | ShortText], Field(max_length=16)]


TensorSpecs = Annotated[dict[ShortText, TensorSpec], Field(max_length=1024)]
"""Tensors by name."""


class Quantization(Record):
    """How a graph's linears (matrix products with a weight) were quantized.

    linears: their number by the type their weights are stored in. activations: what those quantized are multiplied with:
    float32, or 8-bit numbers scaled at each run (`dynamic`) or as was measured beforehand (`static`).
    balanced: number of linears whose inputs are divided, and weights multiplied, by a factor for each channel.
    kept: names of the linears that were not quantized.
    """

    linears: Annotated[dict[ShortText, Count], Field(max_length=16)]
    activations: Literal["float", "dynamic", "static"]
    balanced: Count = 0
    kept: Annotated[list[ShortText], Field(max_length=10_000)] = Field(default_factory=list)


class Graph(Record):
    """One ONNX graph, the file its weights are in, and the tensors that are its interface.

    activations: `dynamic` where the engine is to quantize what meets a quantized weight at each run; the graph alone says
    only what its weights are. quantization: None where nothing is quantized.
    """

    file: PlainFileName
    data: PlainFileName
    inputs: TensorSpecs
    outputs: TensorSpecs
    activations: Literal["dynamic"] | None = None
    quantization: Quantization | None = None

    @field_validator("inputs", "outputs")
    @classmethod
    def _half_precision_stays_on_the_device(cls, specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
        wrong = [
            name for name, spec in specs.items() if spec.dtype == "float16" and not name.startswith((CONTEXT, STATE))
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} is float16: only state_ and context_ tensors may be")
        return specs

    @model_serializer(mode="wrap")
    def _without_what_is_not_quantized(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        new = ("activations", "quantization")
        return {key: value for key, value in to_data(self).items() if value is not None or key not in new}


class Denoiser(Graph):
    """A denoiser and the noise levels it is responsible for: sigma_low <= sigma < sigma_high (or = 1 at the top).

    guidance: goes before a recipe's `guidance`, but not before its `expert_guidance`.
    """

    prediction: Literal["velocity"] = "velocity"
    sigma_low: Sigma = 0.0
    sigma_high: Sigma = 1.0
    guidance: Scale | None = None

    @property
    def timestep_of_each_frame(self) -> bool:
        """Whether the timestep is [B, F], each latent frame's own, instead of [B]."""
        spec = self.inputs.get("timestep")
        return spec is not None and len(spec.shape) == 2

    @property
    def context(self) -> list[str]:
        """The names of the inputs that hold what earlier frames left: `context_00`, … ; none where it takes no context."""
        return sorted(name for name in self.inputs if name.startswith(CONTEXT) and name != _CONTEXT_POSITIONS)

    @model_validator(mode="after")
    def _context_is_whole(self) -> Denoiser:
        missing = [
            f"input {name}" for name in ("positions", _CONTEXT_POSITIONS) if self.context and name not in self.inputs
        ]
        missing += [f"output {name}{_NEW}" for name in self.context if f"{name}{_NEW}" not in self.outputs]
        if missing:
            raise ValueError(f"a denoiser with {self.context[0]} needs the {missing[0]}")
        return self


class ImageEncoder(Graph):
    """A graph that tells a denoiser what a picture shows, and the pixels it takes: [B, 3, size, size].

    They are the picture, cropped and scaled, as (x / 255 - mean) / std, each of three colours.
    """

    size: Annotated[int, Field(gt=0, le=4096)]
    mean: Annotated[list[Scale], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1e6)]], Field(min_length=3, max_length=3)]


class DecoderGraphs(Record):
    """The graphs of one decoder: `decoder_first` with `decoder_next`, or `decoder` where it is not causal."""

    decoder_first: Graph | None = None
    decoder_next: Graph | None = None
    decoder: Graph | None = None

    @property
    def streams(self) -> bool:
        """Whether it decodes one latent frame after the other."""
        return self.decoder is None

    @model_validator(mode="after")
    def _one_form(self) -> DecoderGraphs:
        _check_decoder(self)
        return self

    @model_serializer(mode="wrap")
    def _without_graphs_that_are_not_there(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in to_data(self).items() if value is not None or key not in DECODER_ROLES}


def _check_decoder(graphs: DecoderGraphs | Roles) -> None:
    there = [name for name in DECODER_ROLES if getattr(graphs, name) is not None]
    if there not in (["decoder_first", "decoder_next"], ["decoder"]):
        raise ValueError(
            f"a decoder is decoder_first and decoder_next, or decoder alone, not {', '.join(there) or 'nothing'}"
        )


class Roles(Record):
    """The graphs by the part they play. Several denoisers split the noise levels among them.

    A bundle has one decoder, `decoder_first` with `decoder_next` or `decoder`, which is called `full`; or `decoders` has
    several by name.
    """

    text_encoder: Graph
    denoiser: Annotated[list[Denoiser], Field(min_length=1, max_length=8)]
    encoder_first: Graph | None = None
    encoder_next: Graph | None = None
    image_encoder: ImageEncoder | None = None
    decoder_first: Graph | None = None
    decoder_next: Graph | None = None
    decoder: Graph | None = None
    decoders: Annotated[dict[DecoderName, DecoderGraphs], Field(min_length=1, max_length=8)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Roles:
        if self.decoders is None:
            _check_decoder(self)
        elif any(getattr(self, name) is not None for name in DECODER_ROLES):
            raise ValueError("decoders has every decoder by name: there is none beside it")
        if (self.encoder_first is None) != (self.encoder_next is None):
            raise ValueError("encoder_first and encoder_next belong together")
        return self

    @property
    def decoders_by_name(self) -> dict[str, DecoderGraphs]:
        """The decoders by name; the only one is called `full`."""
        if self.decoders is not None:
            return self.decoders
        graphs = {name: getattr(self, name) for name in DECODER_ROLES}
        return {FULL: DecoderGraphs.model_construct(**graphs)}

    @classmethod
    def of(cls, graphs: Mapping[str, Mapping[str, Any]]) -> Roles:
        """Return the roles of what the manifest says about graphs, by name as `graphs` has it: a new role is a new field.

        Graphs of a decoder beside the full one have its name in front: `tiny_decoder_first`.
        Raises ValueError for a name that no role has, and (as ValidationError) where a role has no graph.
        """
        roles: dict[str, Any] = {}
        left = dict(graphs)
        decoders: dict[str, dict[str, Any]] = {}
        for name in graphs:
            if (found := _OF_A_DECODER.fullmatch(name)) is not None:
                decoders.setdefault(found[1] or FULL, {})[found[2]] = left[name]
        if set(decoders) - {FULL}:
            roles["decoders"] = decoders
            left = {name: graph for name, graph in left.items() if _OF_A_DECODER.fullmatch(name) is None}
        for role, field in cls.model_fields.items():
            if not _holds_list(field):
                if role != "decoders" and role in left:
                    roles[role] = left.pop(role)
                continue
            names = list(takewhile(left.__contains__, _numbered(role)))
            roles[role] = [left.pop(name) for name in names]
        if left:
            raise ValueError(f"no role has a graph of the name {', '.join(left)}")
        return cls.model_validate(roles)

    def graphs(self) -> dict[str, Graph]:
        """Return every graph by a unique name: the role, where several have it numbered from the second on."""
        named: dict[str, Graph] = {}
        for role in type(self).model_fields:
            held = getattr(self, role)
            if isinstance(held, list):
                named |= zip(_numbered(role), held, strict=False)
            elif isinstance(held, dict):
                for name in held:
                    named |= {graph: getattr(held[name], key) for key, graph in self.decoder_names(name).items()}
            elif held is not None:
                named[role] = held
        return named

    def decoder_names(self, name: str) -> dict[str, str]:
        """Return the names among the graphs of one decoder's, by role: `decoder_first` and `decoder_next`, or `decoder`."""
        decoder = self.decoders_by_name[name]
        before = "" if name == FULL else f"{name}_"
        return {role: f"{before}{role}" for role in DECODER_ROLES if getattr(decoder, role) is not None}

    def denoiser_names(self) -> list[str]:
        """Return the names of the denoisers among the graphs."""
        return list(islice(_numbered("denoiser"), len(self.denoiser)))

    @model_serializer(mode="wrap")
    def _without_roles_that_nothing_has(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        known = type(self).model_fields
        return {role: held for role, held in to_data(self).items() if held is not None or role not in known}


def _numbered(role: str) -> Iterator[str]:
    """Yield the names of the graphs that share a role."""
    yield role
    for number in count(2):
        yield f"{role}_{number}"


def _holds_list(field: FieldInfo) -> bool:
    kinds = (field.annotation, *get_args(field.annotation))
    return any(get_origin(kind) is list for kind in kinds)
