"""YAML that came from anywhere, as plain data that knows its lines: no tags, no bombs, nothing surprising.

Only what people write in such files is read: maps with text as keys, lists, text, numbers, true, false and null. A word such as
`no` or `on` is text, and so is a time. Anchors and aliases are taken, within the bounds below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, brief, one_line, require_packages
from ...core.files import read_plain

LARGEST = 2**20
"""Bytes of a file."""
_DEEPEST = 32
_MOST_VALUES = 100_000
"""Values that a file may stand for, those behind aliases counted each time."""
_MOST_ALIASES = 1000

Place = tuple[str | int, ...]
"""Where a value is: keys and indices from the top."""


class SourceError(UsageError):
    """What is wrong in a file, with its name and line."""


@dataclass(frozen=True)
class Source:
    """A file's content. data: what it says. lines: where each value begins, by its place, counted from 1."""

    path: Path
    data: Any
    lines: dict[Place, int]

    def line(self, place: Iterable[str | int]) -> int:
        """Return the line of a value, or of what it would be in where it is not there."""
        parts = tuple(place)
        while parts not in self.lines:
            parts = parts[:-1]
        return self.lines[parts]

    def error(self, place: Iterable[str | int], message: str) -> SourceError:
        """Return an error that names the file and the line."""
        return error_at(self.path, self.line(place), message)


def error_at(path: Path, line: int, message: str) -> SourceError:
    """Return an error of a line of a file, in one line itself."""
    return SourceError(f"{path}:{line}: {one_line(message)}")


def read_source(path: Path) -> Source:
    """Read a file. Raises SourceError, UsageError where it cannot be read, MissingExtraError without pyyaml."""
    require_packages(["yaml"], "story", "a story")
    import yaml

    try:
        content = read_plain(path, LARGEST, follow_links=True)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise error_at(path, content[: error.start].count(b"\n") + 1, "is not UTF-8 text") from error
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(path, yaml.parse(text, Loader=loader))
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = brief(Exception(error.problem or error.context or "cannot be read"))
        raise error_at(
            path,
            1 if mark is None else mark.line + 1,
            f"is not YAML: {said}; text with a colon, a hash or braces stands in quotes",
        ) from error
    except yaml.YAMLError as error:  # a character that YAML does not take, with a place but without a line
        at = getattr(error, "position", 0)
        at = at if isinstance(at, int) else 0
        raise error_at(
            path, text.count("\n", 0, at) + 1, "is not YAML: it has a character that YAML does not allow"
        ) from error
    if node is None:
        raise error_at(path, 1, "is empty: edgereel story new writes one to begin with")
    reader = _Reader(path)
    return Source(path, reader.value(node, (), 0), reader.lines)


def _check_events(path: Path, events: Iterable[Any]) -> None:
    """Raise SourceError for what no story needs, before anything is built of it: this takes no memory and does not recurse."""
    import yaml

    depth = values = aliases = documents = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise error_at(path, line, "begins a second document (---): put each into a file of its own")
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > _MOST_ALIASES:
                raise error_at(path, line, f"has more than {_MOST_ALIASES} aliases")
        elif isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent):
            if event.tag is not None and event.tag != "!":
                raise error_at(path, line, f"has the tag {event.tag[:40]}: tags are not read, write the value alone")
            values += 1
            if values > _MOST_VALUES:
                raise error_at(path, line, f"has more than {_MOST_VALUES} values")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    raise error_at(path, line, f"is nested more than {_DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def written_yaml(data: Any) -> str:
    """Return YAML that read_source reads as the same data: text that would be a number, to it or to YAML 1.1, is in quotes."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        style = None if isinstance(_scalar(value), str) else "'"
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(data, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=110))


class _Reader:
    """Turns nodes into plain data, and notes lines."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[Place, int] = {}
        self._path = path
        self._left = _MOST_VALUES

    def value(self, node: Any, place: Place, depth: int) -> Any:
        """Return what a node says. Raises SourceError."""
        import yaml

        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        self._left -= 1
        if self._left < 0:
            raise error_at(self._path, line, f"stands for more than {_MOST_VALUES} values, with its aliases")
        if depth > _DEEPEST:
            raise error_at(self._path, line, f"is nested more than {_DEEPEST} deep, with its aliases")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, index), depth + 1) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                at = key_node.start_mark.line + 1
                if not isinstance(key_node, yaml.ScalarNode):
                    raise error_at(self._path, at, "has a key that is no text")
                key = key_node.value
                if key in result:
                    raise error_at(self._path, at, f"says {key[:40]!r} a second time")
                self.lines[(*place, key)] = at
                result[key] = self.value(value_node, (*place, key), depth + 1)
            return result
        plain = node.style in (None, "")  # as pure Python and as libyaml have it
        return _scalar(node.value) if plain else node.value


def _scalar(text: str) -> str | int | float | bool | None:
    """Return what a word without quotes means, by YAML 1.2's core schema without its octal and hexadecimal numbers."""
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[-+]?[0-9]{1,18}", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]{1,18}(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?", text, re.ASCII):
        return float(text)
    return text
