"""The words that a model's prompts are made of: what a page offers to people who cannot know them.

A bundle says it in `reel.json`, if its makers know. A model without a vocabulary takes free text, and may have examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from .record import Record

if TYPE_CHECKING:
    from .manifest import Manifest

ARTICLE = "a"
"""The place in a template that is `a` or `an`, as the word behind it wants."""
_PLACE = re.compile(r"\{([^{}]*)\}")

GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f{}]{1,60}$")]
Template = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,300}$")]
Example = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,500}$")]
Examples = Annotated[list[Example], Field(max_length=32)]


class WordGroup(Record):
    """Words of which a prompt has one: colours, say. optional: whether a prompt may do without."""

    name: GroupName
    words: Annotated[list[Word], Field(min_length=1, max_length=64)]
    optional: bool = False

    @model_validator(mode="after")
    def _each_word_once(self) -> WordGroup:
        if len(set(self.words)) != len(self.words):
            raise ValueError(f"the group {self.name} has a word twice")
        return self

    @model_serializer(mode="wrap")
    def _optional_where_it_is(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in to_data(self).items() if key != "optional" or value}


class Vocabulary(Record):
    """The words of a model's prompts, and how they become sentences.

    groups: in the order in which a page shows them. templates: sentences with a group's name in braces for its word and
    `{a}` for `a` or `an`; the first one is what a page makes.
    """

    groups: Annotated[list[WordGroup], Field(min_length=1, max_length=16)]
    templates: Annotated[list[Template], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _templates_name_the_groups(self) -> Vocabulary:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names) or ARTICLE in names:
            raise ValueError(f"names of groups are not unique, or one is {ARTICLE}: {', '.join(names)}")
        for template in self.templates:
            places = _PLACE.findall(template)
            if unknown := sorted(set(places) - {ARTICLE, *names}):
                raise ValueError(f"the template {template!r} has no group for {', '.join(unknown)}")
            if re.search("[{}]", _PLACE.sub("", template)):
                raise ValueError(f"the template {template!r} has a brace that stands alone")
            missing = [group.name for group in self.groups if not group.optional and group.name not in places]
            if missing:
                raise ValueError(f"the template {template!r} leaves out {', '.join(missing)}")
        return self

    def sentence(self, chosen: Mapping[str, str], template: str | None = None) -> str:
        """Return the prompt of chosen words, by the name of their group; an optional group may be left out.

        Raises KeyError where the word of another group is missing.
        """
        optional = {group.name: "" for group in self.groups if group.optional}
        words = {ARTICLE: f"{{{ARTICLE}}}", **optional, **chosen}
        text = " ".join(_PLACE.sub(lambda place: words[place[1]], template or self.templates[0]).split())
        return re.sub(rf"\{{{ARTICLE}\}} ?(?=(.?))", lambda found: "an " if found[1].lower() in "aeiou" else "a ", text)


def prompt_words(manifest: Manifest) -> dict[str, Any]:
    """Return `vocabulary` (None where the model has none) and `examples` of a bundle, as plain JSON data.

    This is what the server tells a page under `GET /v1/models`.
    """
    vocabulary = manifest.vocabulary
    return {
        "vocabulary": None if vocabulary is None else vocabulary.model_dump(mode="json"),
        "examples": list(manifest.examples),
    }
