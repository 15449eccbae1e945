"""Engines around another one: all that Engine and Session have passes through, whatever is added to them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from edgereel.engines import Engine, EngineOptions, EngineReport, GraphSpecs, Session
from edgereel.engines.wrapped import ObservedEngine, WrappedEngine, WrappedSession

pytestmark = pytest.mark.lean

PATH, OPTIONS = Path("a.onnx"), EngineOptions(threads=3)


def attributes(kind):
    return [name for name in kind.__annotations__ if not name.startswith("_")]


def methods(kind):
    found = inspect.getmembers(kind, inspect.isfunction)
    return [
        name for name, function in found if not name.startswith("_") and function.__qualname__.startswith(kind.__name__)
    ]


class Telling:
    """Answers every call with its name and what it was given, and every other attribute with words of its own."""

    def __init__(self, kind):
        self.__dict__.update((name, f"the {name}") for name in attributes(kind))

    def __getattr__(self, name):
        return lambda *arguments: (name, arguments)


def arguments(function):
    return [object() for _ in list(inspect.signature(function).parameters)[1:]]


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [(Engine, WrappedEngine), (Engine, lambda inner: ObservedEngine(inner, None)), (Session, WrappedSession)],
)
def test_everything_passes_through(kind, wrapped):
    outer = wrapped(Telling(kind))
    assert len(attributes(kind)) + len(methods(kind)) >= 5
    for name in attributes(kind):
        assert getattr(outer, name) == f"the {name}"
    for name in methods(kind):
        if isinstance(outer, ObservedEngine) and name == "open":
            continue  # which is what it changes
        if kind is Engine and name == "for_decoder":
            continue  # another engine is wrapped alike: see test_auto_cpu.py
        given = arguments(getattr(kind, name))
        answer = getattr(outer, name)(*given)
        assert answer in ((name, tuple(given)), None)
        if inspect.signature(getattr(kind, name)).return_annotation not in ("None", None):
            assert answer is not None


@pytest.mark.parametrize(("kind", "wrapped"), [(Engine, WrappedEngine), (Session, WrappedSession)])
def test_a_method_that_is_added_must_be_passed_on(kind, wrapped):
    """What a wrapper does not have of its own would be answered by the interface's default, for a CPU in float32."""
    assert set(methods(kind)) <= set(vars(wrapped))


def test_a_report_is_that_of_the_moment():
    """A streamed session learns of its segments as they are opened."""

    class Growing(Session):
        specs = GraphSpecs({}, {})
        report = EngineReport("a", "b", "c", "d", 1)

        def run(self, inputs):
            self.report = EngineReport("a", "b", "c", "d", 2)
            return {}

        def close(self):
            pass

    inner = Growing()
    outer = WrappedSession(inner)
    assert outer.report.threads == 1
    outer.run({})
    assert outer.report.threads == 2
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        outer.nothing_of_the_kind  # noqa: B018


def test_the_observer_sees_every_run():
    seen = []

    class Doubling(Session):
        def run(self, inputs):
            return {"out": inputs["in"] * 2}

        def close(self):
            pass

    class One(Engine):
        name = "one"

        def open(self, graph_path, options):
            return Doubling()

    with ObservedEngine(One(), lambda *run: seen.append(run)).open(PATH, OPTIONS) as session:
        assert session.run({"in": 2}) == {"out": 4}
    assert seen == [("a", {"in": 2}, {"out": 4})]
