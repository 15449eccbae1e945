"""What a story file says: its types, which are also the published schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ...core.errors import UsageError
from .source import Place, Source

MOST_SCENES = 5000
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True)]
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w-]{0,63}$")]
FileName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Colour = Annotated[str, StringConstraints(pattern="^#[0-9A-Fa-f]{6}$")]
Seconds = Annotated[float, Field(gt=0, le=36_000, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, le=36_000, allow_inf_nan=False)]
Volume = Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Pictures = Annotated[int, Field(ge=1, le=2**20)]


class Part(BaseModel):
    """A map of a story file: its keys and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


class Short(Part):
    """A map that may be written as one word or line, which stands for one of its keys."""

    @classmethod
    def _of_text(cls, text: str) -> dict[str, Any]:
        return {cls.short_key(): text}

    @classmethod
    def short_key(cls) -> str:
        """Return the key that a line alone stands for."""
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return cls._of_text(value) if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(schema))
        title = whole.get("title", cls.__name__)
        return {"title": title, "anyOf": [{"type": "string", "minLength": 1}, whole]}


class Origin(Short):
    """What a scene goes on from: `none`, `previous`, {scene: NAME} or {picture: FILE}."""

    kind: Literal["none", "previous", "scene", "picture"] = "none"
    scene: Name | None = None
    picture: FileName | None = None

    @classmethod
    def _of_text(cls, text: str) -> dict[str, Any]:
        if text not in ("none", "previous"):
            raise ValueError("write none, previous, {scene: NAME} or {picture: FILE}")
        return {"kind": text}

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and "kind" not in value:
            if len(value) != 1 or not set(value) <= {"scene", "picture"}:
                raise ValueError("write none, previous, {scene: NAME} or {picture: FILE}")
            return {"kind": next(iter(value)), **value}
        return value


class Transition(Short):
    """How a scene begins: `cut`, `fade` through black, or `dissolve`; how long that takes."""

    kind: Literal["cut", "fade", "dissolve"] = "cut"
    seconds: Annotated[float, Field(gt=0, le=30, allow_inf_nan=False)] = 0.5

    @classmethod
    def short_key(cls) -> str:
        """See Short."""
        return "kind"


class TimedCaption(Short):
    """A caption, and from when it is shown in its scene. seconds: how long; None is until the scene ends."""

    text: Text
    at: Moment = 0.0
    seconds: Seconds | None = None

    @classmethod
    def short_key(cls) -> str:
        """See Short."""
        return "text"


class Narration(Short):
    """Words that are spoken: as text, as a WAV file, or both. at: when they begin in the scene. caption: show the text too."""

    text: Text | None = None
    file: FileName | None = None
    at: Moment = 0.0
    volume: Volume = 1.0
    caption: bool = False

    @classmethod
    def short_key(cls) -> str:
        """See Short."""
        return "text"

    @model_validator(mode="after")
    def _something(self) -> Narration:
        if self.text is None and self.file is None:
            raise ValueError("give its text, or the file of a recording")
        return self


class MusicPart(Short):
    """A WAV file below the whole film. ducked: what is left of its volume while words are spoken."""

    file: FileName
    volume: Volume = 0.6
    ducked: Annotated[float, Field(ge=0, le=1)] = 0.25

    @classmethod
    def short_key(cls) -> str:
        """See Short."""
        return "file"


class SpatialPart(Part):
    """What the model's pictures are, where they are not flat ones of one eye; it is said in the file, nothing is changed."""

    stereo: Literal["top-bottom", "left-right"] | None = None
    projection: Literal["equirectangular"] | None = None


class CardPart(Short):
    """Text that is shown in the place of a picture. Colours are #rrggbb."""

    text: Text
    subtitle: Text | None = None
    background: Colour = "#101014"
    colour: Colour = "#f4f4f4"

    @classmethod
    def short_key(cls) -> str:
        """See Short."""
        return "text"


class Choice(Part):
    """What a viewer may choose at the end of a scene, and the scene that it leads to."""

    text: Text
    goto: Name


class Scene(Part):
    """One scene: of a prompt, or a card. What is left out is the story's, or the model's own.

    seconds, pictures: how long it is, at most one of them. from: what it goes on from. goto: the scene that follows, the next
    one in the file if left out. ends: nothing follows.
    """

    name: Name | None = None
    prompt: Text | None = None
    card: CardPart | None = None
    seconds: Seconds | None = None
    pictures: Pictures | None = None
    seed: Seed | None = None
    negative: Text | None = None
    look: bool = True
    origin: Annotated[Origin, Field(alias="from")] = Origin(kind="none")
    transition: Transition | None = None
    caption: Text | None = None
    captions: Annotated[list[TimedCaption], Field(max_length=1000)] = []
    narration: Narration | None = None
    chapter: Text | None = None
    choices: Annotated[list[Choice], Field(max_length=9)] = []
    goto: Name | None = None
    ends: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Scene:
        if (self.prompt is None) == (self.card is None):
            raise ValueError("give a prompt, or a card")
        if self.seconds is not None and self.pictures is not None:
            raise ValueError("give seconds or pictures, not both")
        if self.card is not None and (self.origin.kind != "none" or self.seed is not None or self.negative is not None):
            raise ValueError("a card has no seed, negative or from: leave them out")
        if self.caption is not None and self.captions:
            raise ValueError("give caption or captions, not both")
        if (len(self.choices) > 0) + (self.goto is not None) + self.ends > 1:
            raise ValueError("give one of choices, goto and ends")
        return self


class Story(Part):
    """A story file.

    model: the bundle's name or folder; the command's --bundle comes first. look: words at the end of every prompt. words: what
    {NAME} in prompts and texts stands for. format: one of the model's, a preset's name, or WIDTHxHEIGHT. fit: how pictures of
    another shape become the film's. continuity: what to do where a scene goes on from another and the model cannot: refuse the
    story (`needed`), or begin anew (`if-possible`). burn: draw captions into the pictures. spatial: for models of stereo or
    spheres.
    """

    title: Text
    model: Text | None = None
    language: Annotated[str, StringConstraints(pattern="^[a-z]{2,3}$")] = "en"
    look: Text | None = None
    words: Annotated[dict[Name, Text], Field(max_length=500)] = {}
    format: Text | None = None
    fit: Literal["crop", "pad"] = "crop"
    fps: Annotated[float, Field(ge=1, le=240)] | None = None
    seed: Seed = 0
    recipe: Text | None = None
    decoder: Text | None = None
    negative: Text | None = None
    continuity: Literal["needed", "if-possible"] = "needed"
    transition: Transition = Transition(kind="cut")
    music: MusicPart | None = None
    burn: bool = False
    spatial: SpatialPart | None = None
    scenes: Annotated[list[Scene], Field(min_length=1, max_length=MOST_SCENES)]

    def names(self) -> list[str]:
        """Return the name of each scene: its own, or scene-N."""
        return [scene.name or f"scene-{number}" for number, scene in enumerate(self.scenes, start=1)]


@dataclass(frozen=True)
class StoryFile:
    """A story and where it was read, so that what is wrong can be told by line.

    spoken: recordings of narrations that are text alone, by the number of the scene; see speech.spoken.
    """

    story: Story
    source: Source
    spoken: dict[int, Path] = field(default_factory=dict)


def read_story(source: Source) -> StoryFile:
    """Return what a file says. Raises SourceError for the first thing that is no story's."""
    return StoryFile(validated(source, Story), source)


Kind = TypeVar("Kind", bound=Part)


def validated(source: Source, kind: type[Kind]) -> Kind:
    """Return a source's data as what it is to be. Raises SourceError for the first thing in the file that is wrong."""
    if not isinstance(source.data, dict):
        raise source.error((), "is no map: begin with a line such as title: My film")
    try:
        return kind.model_validate(source.data)
    except ValidationError as error:
        wrong = [(place_of(source, each["loc"]), each) for each in error.errors(include_url=False)]
        place, first = min(wrong, key=lambda item: source.line(item[0]))
        raise source.error(place, f"{told_place(place)}{_message(first)}") from None
    except RecursionError:
        raise source.error((), "is nested too deep") from None


def place_of(source: Source, loc: tuple[str | int, ...]) -> Place:
    """Return the place in the file that pydantic's means: the part of it that is there, and the key that is missing."""
    place: list[str | int] = []
    value = source.data
    for part in loc:
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if not inside:
            # "[key]" is pydantic's own, as are the names of a union's members.
            return (*place, part) if isinstance(part, str) and part != "[key]" else tuple(place)
        place.append(part)
        value = value[part]
    return tuple(place)


def told_place(place: Place) -> str:
    """Return a place for people, with a colon behind it: `scene 3, captions 1: `."""
    words: list[str] = []
    for part in place:
        if isinstance(part, int):
            words[-1] = f"{words[-1].removesuffix('s')} {part + 1}"
        else:
            words.append(part)
    return f"{', '.join(words)}: " if words else ""


def _message(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_type":
        return f"must be text{': put it in quotes' if isinstance(error['input'], int | float) else ''}"
    if kind == "string_pattern_mismatch":
        wanted = {
            "#": "a colour as #rrggbb",
            "\\": "a name of letters, digits, _ and -, 64 at most",
            "[": "two or three small letters, such as en",
        }
        return f"must be {wanted.get(context['pattern'][1], 'of another form')}"
    if kind == "model_type" or kind == "dict_type":
        return "must be a map of keys and values"
    return str(error["msg"]).replace("Input should be", "must be").replace("List should", "should")


def placeholders(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield a text's parts: (text before, name in braces or None at the end). Raises UsageError for lone braces."""
    rest = text
    while True:
        before, brace, after = rest.partition("{")
        if "}" in before or (brace and "}" not in after):
            raise UsageError("has a lone brace: {name} stands for what words says of it")
        if not brace:
            yield before, None
            return
        name, _, rest = after.partition("}")
        yield before, name


def filled(text: str, words: dict[str, str]) -> str:
    """Return a text with what its {names} stand for. Raises UsageError for one that is not in `words`."""
    parts = []
    for before, name in placeholders(text):
        parts.append(before)
        if name is not None:
            if name not in words:
                known = (
                    f"there are {', '.join('{' + each + '}' for each in list(words)[:12])}"
                    if words
                    else "there are none"
                )
                raise UsageError(f"{{{name[:40]}}} is not in words: {known}")
            parts.append(words[name])
    return "".join(parts)
