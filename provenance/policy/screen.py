"""A policy as its file says it, and what it makes of a prompt.

It reads words, not meaning: what is meant but not said passes, and a sentence that only mentions something is held to mean it.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import PromptError, UsageError, one_line
from ...core.toml import read_toml
from .classifier import FrameClassifier, FrameRule
from .normal_form import Word, forms, normal_phrase

ACTIONS = ("refuse", "flag", "replace")
SHIPPED = ("booth", "private")
_LARGEST = 2**20
_LONGEST_PROMPT = 20_000
_LOG = "edgereel.policy"


class PromptRefused(PromptError):
    """A policy does not let this prompt be made."""


@dataclass(frozen=True)
class Finding:
    """One rule that a prompt met. words: which of the prompt's own words, divided by spaces: first and last."""

    category: str
    action: str
    words: tuple[int, int]
    replacement: str = ""


@dataclass(frozen=True)
class Decision:
    """What becomes of a prompt. prompt: with replacements, None where it is refused. findings: the rules it met."""

    prompt: str | None
    findings: tuple[Finding, ...] = ()

    @property
    def categories(self) -> list[str]:
        """The categories that it met, each once."""
        return list(dict.fromkeys(finding.category for finding in self.findings))


@dataclass(frozen=True)
class Rule:
    """What is looked for in normal form. expression: any of the phrases and patterns; together: words that all must occur."""

    category: str
    action: str
    replacement: str
    expression: re.Pattern[str] | None
    together: tuple[tuple[re.Pattern[str], ...], ...] = ()
    exceptions: re.Pattern[str] | None = None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where in a text the rule is met."""
        if self.exceptions is not None:
            text = self.exceptions.sub(lambda found: "·" * len(found[0]), text)
        if self.expression is not None:
            for found in self.expression.finditer(text):
                yield found.span()
        for expressions in self.together:
            places = [expression.search(text) for expression in expressions]
            spans = [place.span() for place in places if place is not None]
            if len(spans) == len(expressions):
                yield min(span[0] for span in spans), max(span[1] for span in spans)


@dataclass(frozen=True)
class Policy:
    """Rules, names, and whether pictures may be brought along.

    people_action: what is done about real people's names, None for nothing. first_names, people: in normal form. allowed: names
    that may be used. uploads: whether visitors' own pictures are taken. frames: how pictures are judged before they are written.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    people_action: str | None = None
    people: re.Pattern[str] | None = None
    first_names: frozenset[str] = frozenset()
    allowed: re.Pattern[str] | None = None
    uploads: bool = True
    frames: FrameRule | None = None

    @staticmethod
    def read(name: str | Path) -> Policy:
        """Return the policy of a TOML file, or the shipped one of that name. Raises UsageError, naming what is wrong."""
        path = Path(__file__).with_name(f"{name}.toml") if str(name) in SHIPPED else Path(name)
        try:
            return _policy(read_toml(path, _LARGEST), path.parent)
        except UsageError as error:
            raise UsageError(f"policy {one_line(path)}: {error}") from error

    def screen(self, prompt: str) -> Decision:
        """Return what becomes of a prompt. What was decided is logged, the prompt is not."""
        decision = self._decide(prompt)
        for finding in decision.findings:
            logging.getLogger(_LOG).info("policy %s: %s, category %s", self.name, finding.action, finding.category)
        return decision

    def check(self, prompt: str) -> str:
        """Return the prompt to use. Raises PromptRefused, naming the category."""
        decision = self.screen(prompt)
        if decision.prompt is None:
            refused = next(finding for finding in decision.findings if finding.action == "refuse")
            raise PromptRefused(
                f"the policy {self.name!r} refuses this prompt (category: {refused.category}): say it in other words"
            )
        return decision.prompt

    def check_pictures(self, count: int) -> None:
        """Raise UsageError where pictures were brought along and are not taken."""
        if count and not self.uploads:
            raise UsageError(
                f"the policy {self.name!r} takes no pictures of visitors: its owner can set pictures.uploads"
            )

    def open_classifier(self) -> FrameClassifier | None:
        """Open what judges frames, None where the policy names nothing. Raises UsageError where it cannot be used."""
        return None if self.frames is None else self.frames.open(self.name)

    def _decide(self, prompt: str) -> Decision:
        if len(prompt) > _LONGEST_PROMPT:
            return Decision(None, (Finding("too long", "refuse", (0, 0)),))
        found: dict[tuple[str, int, int], Finding] = {}
        for words in forms(prompt):
            for finding in self._findings(words):
                found.setdefault((finding.category, *finding.words), finding)
        if self.people_action is not None:
            for finding in self._names(prompt.split()):
                found.setdefault((finding.category, *finding.words), finding)
        findings = tuple(found.values())
        if any(finding.action == "refuse" for finding in findings):
            return Decision(None, findings)
        return Decision(_replaced(prompt, findings), findings)

    def _findings(self, words: list[Word]) -> Iterator[Finding]:
        text = " ".join(word.text for word in words)
        for rule in self.rules:
            for span in rule.spans(text):
                yield Finding(rule.category, rule.action, _covered(words, span), rule.replacement)
        if self.people is not None and self.people_action is not None:
            kept = text if self.allowed is None else self.allowed.sub(lambda found: "·" * len(found[0]), text)
            for found in self.people.finditer(kept):
                yield Finding("real person", self.people_action, _covered(words, found.span()))

    def _names(self, own: list[str]) -> Iterator[Finding]:
        """Yield first names that a word with a capital follows: the prompt's own words tell, normal form has no capitals."""
        for index, (first, second) in enumerate(itertools.pairwise(own)):
            name, surname = first.strip("\"'“”‘’(["), second.strip("\"'“”‘’()[].,;:!?")
            if not (name[:1].isupper() and surname[:1].isupper() and surname.isalpha() and len(surname) > 1):
                continue
            if normal_phrase(name) not in self.first_names or first[-1:] in ".,;:!?":
                continue
            if self.allowed is None or self.allowed.search(normal_phrase(f"{name} {surname}")) is None:
                assert self.people_action is not None
                yield Finding("real person", self.people_action, (index, index + 1))


def _covered(words: list[Word], span: tuple[int, int]) -> tuple[int, int]:
    """Return which of the prompt's words a stretch of the joined text stands for."""
    position, inside = 0, []
    for word in words:
        if position < span[1] and position + len(word.text) > span[0]:
            inside.append(word)
        position += len(word.text) + 1
    return min(word.first for word in inside), max(word.last for word in inside)


def _replaced(prompt: str, findings: Iterable[Finding]) -> str:
    changes = {finding.words: finding.replacement for finding in findings if finding.action == "replace"}
    if not changes:
        return prompt
    own = prompt.split()
    for (first, last), replacement in sorted(changes.items(), reverse=True):
        own[first : last + 1] = [replacement, *[""] * (last - first)]
    return " ".join(filter(None, own))


_RULE_KEYS = {"category", "action", "phrases", "patterns", "together", "except", "replacement"}


def _policy(data: dict[str, Any], folder: Path) -> Policy:
    if unknown := sorted(set(data) - {"name", "rule", "people", "pictures", "frames"}):
        raise UsageError(f"unknown key {unknown[0]!r}: it has name, rule, people, pictures and frames")
    rules = data.get("rule", [])
    if not isinstance(rules, list):
        raise UsageError("a rule begins with [[rule]]")
    people = _table(data, "people", {"action", "names", "first_names", "allowed"})
    pictures = _table(data, "pictures", {"uploads"})
    frames = data.get("frames", {})
    if not isinstance(frames, dict):
        raise UsageError("frames is a table: [frames]")
    uploads = pictures.get("uploads", True)
    if not isinstance(uploads, bool):
        raise UsageError("pictures.uploads is true or false")
    return Policy(
        str(data.get("name", "unnamed")),
        tuple(_rule(rule, number) for number, rule in enumerate(rules, start=1)),
        _action(people, "people") if people else None,
        _any_of(_texts(people, "names", "people")),
        frozenset(normal_phrase(name) for name in _texts(people, "first_names", "people")),
        _any_of(_texts(people, "allowed", "people")),
        uploads,
        FrameRule.of(frames, folder) if frames else None,
    )


def _rule(rule: Any, number: int) -> Rule:
    where = f"rule {number}"
    if not isinstance(rule, dict):
        raise UsageError(f"{where}: a rule begins with [[rule]]")
    if unknown := sorted(set(rule) - _RULE_KEYS):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}: choose from {', '.join(sorted(_RULE_KEYS))}")
    category = rule.get("category")
    if not isinstance(category, str) or not category:
        raise UsageError(f"{where}: its category is missing")
    patterns = []
    for pattern in _texts(rule, "patterns", where):
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"{where}: {pattern!r} is no regular expression: {error}") from error
        patterns.append(f"(?:{pattern})")
    together = rule.get("together", [])
    if not isinstance(together, list) or not all(isinstance(each, list) and len(each) > 1 for each in together):
        raise UsageError(f"{where}: together is a list of lists of words that must all occur")
    groups = [tuple(_alternatives(word, where) for word in group) for group in together]
    expression = _any_of(_texts(rule, "phrases", where), patterns)
    if expression is None and not groups:
        raise UsageError(f"{where}: it has neither phrases nor patterns nor together")
    return Rule(
        category,
        _action(rule, where),
        str(rule.get("replacement", "")),
        expression,
        tuple(groups),
        _any_of(_texts(rule, "except", where)),
    )


def _alternatives(word: Any, where: str) -> re.Pattern[str]:
    if not isinstance(word, str) or (expression := _any_of(word.split("|"))) is None:
        raise UsageError(f"{where}: {word!r} in together is no word, or words divided by |")
    return expression


def _action(table: dict[str, Any], where: str) -> str:
    action = table.get("action", "refuse")
    if action not in ACTIONS:
        raise UsageError(f"{where}: unknown action {action!r}: choose from {', '.join(ACTIONS)}")
    return str(action)


def _table(data: dict[str, Any], name: str, keys: set[str]) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{name} is a table: [{name}]")
    if unknown := sorted(set(table) - keys):
        raise UsageError(f"{name}: unknown key {unknown[0]!r}: choose from {', '.join(sorted(keys))}")
    return table


def _texts(table: dict[str, Any], key: str, where: str) -> list[str]:
    texts = table.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"{where}: {key} is a list of texts")
    return texts


def _any_of(phrases: Iterable[str], patterns: Iterable[str] = ()) -> re.Pattern[str] | None:
    """Return what finds any of some phrases as whole words, their letters drawn out or not, what is between their words or
    not; a * at its end takes any ending."""
    parts = []
    for phrase in phrases:
        letters = ["[ ]?" if letter == " " else re.escape(letter) + "+" for letter in normal_phrase(phrase)]
        if letters:
            parts.append(rf"\b{''.join(letters)}{'[a-z]*' if phrase.rstrip().endswith('*') else ''}\b")
    parts += patterns
    return re.compile("|".join(parts)) if parts else None
