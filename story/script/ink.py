"""A tale written in Ink becomes a story that branches: the JSON that inklecate and inkjs compile.

What a compiled tale is made of: https://github.com/inkle/ink/blob/master/Documentation/ink_JSON_runtime_format.md. Its plain part
is run here, without a player: text, choices, diverts, gathers and tags. What depends on how the tale went before is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ...core.errors import UsageError, one_line, require_packages
from ...core.files import read_plain
from .source import LARGEST
from .tale import MOST, Passage, plain, written_tale

_VERSIONS = range(19, 22)
_MOST_STEPS = 200_000
_MOST_LETTERS = 2**22
"""Steps and letters of a whole tale, those of the paths that it goes too, which its file's size does not bound."""
_LONGEST_NAME = 500
_RETURN = "$r"
"""The compiler's own name for where a choice's text, which is said twice, goes on."""
_CONDITION, _ITSELF = 1, 8
_REFUSED = {
    "VAR=": "a variable",
    "VAR?": "a variable",
    "^var": "a variable",
    "CNT?": "a count of visits",
    "f()": "a function",
    "x()": "a function of the player's",
    "->t->": "a tunnel",
    "->->": "a tunnel",
    "~ret": "a function",
    "thread": "a thread",
    "visit": "a count of visits",
    "seq": "text that changes",
    "turns": "a count of turns",
    "choiceCnt": "a count of choices",
    "out": "a calculation",
}


@dataclass(eq=False)
class _Container:
    """A part of a tale: what follows one another in it, what is named in it, and where it stands itself."""

    name: str
    parent: _Container | None = None
    at: int | None = None
    content: list[Any] = field(default_factory=list)
    named: dict[str, _Container] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Return the names of all that it is in, and its own."""
        names, at = [], self
        while at.parent is not None:
            names.append(at.name)
            at = at.parent
        return ".".join(reversed(names))


_Pointer = tuple[_Container, int]


def story_of_ink(path: Path) -> str:
    """Return the text of a story file. Raises UsageError, MissingExtraError.

    A scene is what is told up to choices, to a knot or a gather, or to the end. A line `= a red ball rises` is its prompt, the
    rest its caption; without one it is a card. A choice that Ink offers once is offered each time.
    """
    require_packages(["yaml"], "story", "a tale")
    try:
        tale = json.loads(read_plain(path, LARGEST, follow_links=True).decode("utf-8-sig"))
        version = tale["inkVersion"]
        if version not in _VERSIONS:
            raise UsageError(f"{path}: is of Ink's format {one_line(version)[:20]}: 19 to 21 are read")
        root = _container(tale["root"], _Container(""))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as a tale that Ink compiled: {one_line(error)[:100]}") from error
    return written_tale(path, path.stem, _Tale(path, root).passages())


def _container(data: Any, container: _Container) -> _Container:
    """Fill a container with what an array of the file says. Raises TypeError, RecursionError."""
    if not isinstance(data, list) or not data or not (data[-1] is None or isinstance(data[-1], dict)):
        raise TypeError("a container is an array that ends with names or null")

    def inner(name: str, data: Any, at: int | None) -> _Container:
        return _container(data, _Container(name, container, at))

    for at, each in enumerate(data[:-1]):
        if isinstance(each, list):
            last = each[-1] if each and isinstance(each[-1], dict) else {}
            name = last.get("#n")
            each = inner(name if isinstance(name, str) else str(at), each, at)
            if isinstance(name, str):
                _check_name(name)
                container.named[name] = each
        container.content.append(each)
    for name, each in (data[-1] or {}).items():
        if name not in ("#f", "#n"):
            _check_name(name)
            container.named[name] = inner(name, each, None)
    return container


def _check_name(name: str) -> None:
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"a name has {len(name)} letters: {_LONGEST_NAME} at most")


class _Tale:
    """Runs a tale from each place that a choice or a divert leads to, and notes what is told there."""

    def __init__(self, path: Path, root: _Container) -> None:
        self._path, self._root = path, root
        self._left, self._letters = _MOST_STEPS, _MOST_LETTERS

    def passages(self) -> list[Passage]:
        """Return what is told: first what the tale begins with. Raises UsageError."""
        passages: dict[str, Passage] = {}
        waiting = [self._begin((self._root, 0))]
        while waiting:
            pointer = waiting.pop()
            if (name := _name(pointer)) in passages:
                continue
            beat = self._run(pointer)
            links = [(text, self._begin(target)) for text, target in beat.choices]
            goto = None if beat.goto is None else self._begin(beat.goto)
            if goto is not None and self._run(goto).is_empty:
                goto = None  # nothing is told there any more
            following = [target for _, target in links] + [goto] * (goto is not None)
            passages[name] = Passage(
                name,
                beat.lines or ("…",),
                tuple((text, _name(target)) for text, target in links),
                None if goto is None else _name(goto),
            )
            waiting += [each for each in reversed(following) if each is not None]
            if len(passages) > MOST:
                raise UsageError(f"{self._path}: has more than {MOST} passages")
        return list(passages.values())

    def _run(self, pointer: _Pointer) -> _Beat:
        beat = _Beat(self, pointer)
        beat.run()
        return beat

    def _begin(self, pointer: _Pointer) -> _Pointer:
        """Return where a tale really goes on: before anything is told a place may lead somewhere else."""
        seen = set()
        while (name := _name(pointer)) not in seen:
            seen.add(name)
            beat = self._run(pointer)
            if beat.goto is None or beat.lines:
                return pointer
            pointer = beat.goto
        self.refuse(pointer, "leads to itself before anything is told")

    def found(self, at: _Pointer, path: Any) -> _Pointer:
        """Return where a path leads, as it is written in the part of the tale at a pointer. Raises UsageError."""
        here: Any = self._root
        self.step(at, len(path) if isinstance(path, str) else 0)
        parts = path.split(".") if isinstance(path, str) else []
        if parts and not parts[0]:
            parts = parts[1:]
            here, parts = at[0], parts[1:] if parts[:1] == ["^"] else ["?"]
        for number, part in enumerate(parts):
            if not isinstance(here, _Container):
                break
            if part == "^":
                here = here.parent
            elif part in here.named:
                here = here.named[part]
            elif part.isascii() and part.isdigit() and len(part) < 7 and int(part) < len(here.content):
                if number == len(parts) - 1 and not isinstance(here.content[int(part)], _Container):
                    return here, int(part)
                here = here.content[int(part)]
            else:
                break
        else:
            if isinstance(here, _Container) and parts:
                return here, 0
        self.refuse(at, f"leads to {one_line(path)[:60]!r}, which is not there")

    def step(self, at: _Pointer, letters: int = 0) -> None:
        """Count a step, and letters that are told in it. Raises UsageError after too many."""
        self._left -= 1
        self._letters -= letters
        if self._left < 0 or self._letters < 0:
            self.refuse(at, "tells too much without a choice: it goes in a circle")

    def refuse(self, at: _Pointer, what: str) -> NoReturn:
        """Raise UsageError that says where in the tale something is wrong."""
        raise UsageError(f"{self._path}: {one_line(_name(at))[:60]} {what}")


class _Beat:
    """What is told from one place on. choices, goto: where it leads; the tale ends where there is neither."""

    def __init__(self, tale: _Tale, start: _Pointer) -> None:
        self.choices: list[tuple[str, _Pointer]] = []
        self.goto: _Pointer | None = None
        self._tale, self._start = tale, start
        self._at: _Pointer | None = start
        self._texts: list[list[str]] = [[]]
        self._stack: list[Any] = []
        self._back: _Pointer | None = None
        self._calculates = self._tags = False

    @property
    def lines(self) -> tuple[str, ...]:
        """What was told, in lines."""
        return tuple(line for line in map(plain, "".join(self._texts[0]).split("\n")) if line)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is told and nothing follows."""
        return not (self.lines or self.choices or self.goto)

    def run(self) -> None:
        """Go on to the end of what is told. Raises UsageError."""
        while self._at is not None:
            self._tale.step(self._at)
            container, index = self._at
            if index >= len(container.content):
                self._at = (
                    None if container.at is None or container.parent is None else (container.parent, container.at + 1)
                )
                continue
            here, each = self._at, container.content[index]
            self._at = (container, index + 1)
            if isinstance(each, _Container):
                if self._is_gather(each):
                    self._lead((each, 0))
                else:
                    self._at = (each, 0)
            elif isinstance(each, str):
                self._word(here, each)
            elif isinstance(each, dict):
                self._object(here, each)
            else:
                self._tale.refuse(here, "has a calculation: text, choices and diverts alone become a story")
        offered = [choice for choice in self.choices if choice[0]]
        if len(offered) < len(self.choices):
            if len(self.choices) > 1:
                self._tale.refuse(self._start, "has a choice that is taken where no other is left: give each its words")
            self.goto, self.choices = self.choices[0][1], []

    def _word(self, here: _Pointer, word: str) -> None:
        if word.startswith("^") or word == "\n":
            self._tale.step(here, len(word))
            if not self._tags:
                self._texts[-1].append(word.removeprefix("^"))
        elif word in ("ev", "/ev"):
            self._calculates = word == "ev"
        elif word == "str":
            self._texts.append([])
        elif word == "/str" and len(self._texts) > 1:
            self._stack.append("".join(self._texts.pop()))
        elif word in ("#", "/#"):
            self._tags = word == "#"
        elif word == "<>":  # glue: no line ends here
            while self._texts[-1] and self._texts[-1][-1] == "\n":
                self._texts[-1].pop()
        elif word == "end":
            self._at, self.choices = None, []
        elif word == "done":
            self._at = None
        elif word not in ("nop", "pop"):
            self._refuse(here, word)

    def _object(self, here: _Pointer, each: dict[str, Any]) -> None:
        if each.get("c"):
            self._tale.refuse(here, "has a condition: text, choices and diverts alone become a story")
        if "->" in each and "var" in each:
            if each["->"] != _RETURN or self._back is None:
                self._refuse(here, "VAR?")
            self._at = self._back
        elif "->" in each:
            target = self._tale.found(here, each["->"])
            if self._is_said_twice(target[0]) or len(self._texts) > 1:
                self._at = target
            else:
                self._lead(target)
        elif "*" in each:
            self._choice(here, each)
        elif "^->" in each:
            self._stack.append(self._tale.found(here, each["^->"]))
        elif each.get("temp=") == _RETURN and self._stack and isinstance(self._stack[-1], tuple):
            self._back = self._stack.pop()
        elif "#" not in each:  # a tag
            self._refuse(here, next((key for key in _REFUSED if key in each), "VAR="))

    def _choice(self, here: _Pointer, each: dict[str, Any]) -> None:
        flags = each.get("flg", 0)
        if not isinstance(flags, int) or flags & _CONDITION:
            self._tale.refuse(here, "has a choice with a condition: text, choices and diverts alone become a story")
        said = [self._stack.pop() for flag in (4, 2) if flags & flag and self._stack]
        words = (
            "" if flags & _ITSELF else plain("".join(reversed([each for each in said if isinstance(each, str)]))) or "…"
        )
        self.choices.append((words, self._tale.found(here, each["*"])))

    def _lead(self, target: _Pointer) -> None:
        """End what is told here, since it goes on elsewhere; after choices it is what is told with them."""
        if self.choices:
            self._at = target
        else:
            self._at, self.goto = None, target

    def _refuse(self, here: _Pointer, what: str) -> NoReturn:
        told = _REFUSED.get(what, "a calculation")
        self._tale.refuse(here, f"has {told}: text, choices and diverts alone become a story")

    @staticmethod
    def _is_said_twice(container: _Container) -> bool:
        last = container.content[-1] if container.content else None
        return isinstance(last, dict) and last.get("->") == _RETURN

    @staticmethod
    def _is_gather(container: _Container) -> bool:
        return not container.name.isdigit() and not container.name.startswith("$")


def _name(pointer: _Pointer) -> str:
    """Return what a place in a tale is called: its path."""
    container, index = pointer
    path = container.path or "beginning"
    return path if index == 0 else f"{path}.{index}"
