"""Tales that Ink compiled. No compiler is at hand: files here are written after the description of its format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.story_files import write_story
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from edgereel.core.errors import UsageError
from edgereel.story.film.film import load_story
from edgereel.story.script.beginning import write_beginning
from edgereel.story.script.ink import story_of_ink
from edgereel.story.script.source import read_source
from edgereel.story.script.story import read_story

IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def said_twice(text: str, number: int, place: str) -> tuple[list[Any], list[Any]]:
    """Return a choice whose words are told once it is chosen, `* text`, and the beginning of what follows it."""
    back, label = {"->": "$r", "var": True}, f"$r{number}"
    choice = [
        "ev",
        {"^->": f"{place}.{number}.{label}"},
        {"temp=": "$r"},
        "str",
        {"->": ".^.s"},
        [{"#n": label}],
        "/str",
    ]
    choice += ["/ev", {"*": f".^.^.c-{number}", "flg": 18}, {"s": [f"^{text}", back, None]}]
    after = [
        "ev",
        {"^->": f"{place}.c-{number}.$r2"},
        "/ev",
        {"temp=": "$r"},
        {"->": f".^.^.{number}.s"},
        [{"#n": "$r2"}],
    ]
    return choice, after


def tale(root: list[Any], version: int = 21) -> dict[str, Any]:
    return {"inkVersion": version, "root": root, "listDefs": {}}


FIRST, FIRST_BODY = said_twice("Go in.", 0, "gate.0")
TALE = tale(
    [
        [{"->": "gate"}, ["done", {"#n": "g-0"}], None],
        "done",
        {
            "gate": [
                [
                    FIRST,
                    "^= a red ball rises",
                    "\n",
                    "#",
                    "^loud",
                    "/#",
                    "^The gate {is} ",
                    "<>",
                    "\n",
                    "<>",
                    "^open. ",
                    {"#": "old tag"},
                    "\n",
                    *["ev", "str", "^Stay", "/str", "/ev", {"*": ".^.c-1", "flg": 20}],
                    {
                        "c-0": [*FIRST_BODY, "\n", {"->": "hall"}, {"#f": 5}],
                        "c-1": ["\n", "^It is cold.", "\n", {"->": ".^.^.g-0"}, {"#f": 5}],
                        "g-0": ["^Night falls.", "\n", {"->": "gate"}, {"#f": 5}],
                    },
                ],
                {"#f": 1},
            ],
            "hall": ["^The hall.", "\n", {"->": ".^.stairs"}, {"stairs": ["^= a blue star falls", "\n", "end", None]}],
        },
    ]
)


def made(folder: Path, data: object) -> str:
    path = folder / "tale.json"
    path.write_text("\ufeff" + (data if isinstance(data, str) else json.dumps(data)), encoding="utf-8")
    return story_of_ink(path)


def test_a_tale_becomes_a_story_that_branches(tmp_path):
    (tmp_path / "tale.json").write_text(json.dumps(TALE))
    story = load_story(write_beginning(tmp_path / "film.yaml", ink=tmp_path / "tale.json"))[0].story
    told = [
        (scene.name, scene.prompt or (scene.card and scene.card.text), scene.caption, scene.goto, scene.ends)
        for scene in story.scenes
    ]
    assert told == [
        ("gate", "a red ball rises", "The gate (is) open.", None, False),
        ("gate-0-c-0", "Go in.", None, "hall", False),
        ("hall", "The hall.", None, "hall-stairs", False),
        ("hall-stairs", "a blue star falls", None, None, True),
        ("gate-0-c-1", "It is cold.", None, "gate-0-g-0", False),
        ("gate-0-g-0", "Night falls.", None, "gate", False),
    ]
    assert [(each.text, each.goto) for each in story.scenes[0].choices] == [
        ("Go in.", "gate-0-c-0"),
        ("Stay", "gate-0-c-1"),
    ]


def test_only_one_source_is_taken(tmp_path):
    with pytest.raises(UsageError, match="give one of"):
        write_beginning(tmp_path / "film.yaml", tale=tmp_path / "a.json", ink=tmp_path / "b.json")


KNOT = "the knot"
REFUSED = {
    "a variable": [["ev", 1, "/ev", {"VAR=": "x", "re": True}], "calculation"],
    "a variable that is shown": [["ev", {"VAR?": "x"}, "out", "/ev"], "a variable"],
    "a condition": [["ev", {"CNT?": "x"}, "/ev", {"->": ".^.b", "c": True}], "a count of visits"],
    "a divert with a condition": [[{"->": ".^.b", "c": True}], "a condition"],
    "a divert by a variable": [[{"->": "x", "var": True}], "a variable"],
    "a choice with a condition": [
        ["ev", "str", "^a", "/str", "/ev", {"*": ".^.b", "flg": 21}],
        "a choice with a condition",
    ],
    "a function": [[{"f()": "x"}], "a function"],
    "an external function": [[{"x()": "x", "exArgs": 1}], "a function of the player's"],
    "a tunnel": [[{"->t->": "x"}], "a tunnel"],
    "the end of a tunnel": [["->->"], "a tunnel"],
    "a thread": [["thread", {"->": ".^.b"}], "a thread"],
    "a sequence": [["ev", "visit", 2, "seq", "/ev"], "a count of visits"],
    "a fallback beside choices": [
        ["ev", "str", "^a", "/str", "/ev", {"*": ".^.b", "flg": 20}, {"*": ".^.b", "flg": 24}],
        "where no other is left",
    ],
    "a way to nowhere": [[{"->": "nowhere"}], "'nowhere', which is not there"],
    "a way above the top": [[{"->": ".^.^.^.^.x"}], "which is not there"],
    "a circle": [[{"->": KNOT}], "leads to itself"],
    "a circle of choices' words": [["ev", "str", "^a", {"->": ".^.0"}], "goes in a circle"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_story_can_do_is_refused_by_name(tmp_path, name):
    content, said = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        made(tmp_path, tale([[{"->": KNOT}, None], "done", {KNOT: [*content, {"b": ["^b", None]}]}]))
    assert said in str(refused.value)
    assert KNOT in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"inkVersion": 18, "root": [null]}',
        '{"inkVersion": [], "root": [null]}',
        '{"inkVersion": 21, "root": {}}',
        '{"inkVersion": 21, "root": []}',
        '{"inkVersion": 21, "root": [[1], null]}',
        "[" * 100_000,
        '{"inkVersion": 21, "root": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_what_is_no_tale(tmp_path, content):
    with pytest.raises(UsageError, match=r"tale\.json: "):
        made(tmp_path, content)


def test_letters_and_steps_are_bounded(tmp_path):
    loop = ["ev", "str", "^" + "a" * 900_000, {"->": ".^.0"}, None]
    with pytest.raises(UsageError, match="in a circle"):
        made(tmp_path, tale([loop, None]))


@pytest.mark.parametrize("name", [".^." + "^." * 100_000 + "x", "k" * 100_000])
def test_names_and_paths_are_bounded(tmp_path, name):
    # Each choice would keep the whole name, and each step look for the whole path.
    turn = [{"->": ".^." + "0.^." * 100_000 + "0"}, {"->": "$r", "var": True}, None]
    data = tale([["^a", "\n", turn, {name: ["^b", None]}], None])
    with pytest.raises(UsageError, match=r"letters|circle"):
        made(tmp_path, data)


WORDS = some.sampled_from(["It rains.", "= a red ball", "éß", "Stop"])
KNOTS = some.lists(
    some.tuples(
        some.lists(WORDS, min_size=1, max_size=3),
        some.one_of(
            some.integers(0, 4),
            some.lists(some.tuples(WORDS, some.integers(0, 4), some.booleans()), max_size=4),
        ),
    ),
    min_size=5,
    max_size=5,
)
"""Five knots: what each tells, and the knot that it leads to, or choices: words, where they lead, and whether they are told."""


@IN_PLACE
@given(KNOTS)
def test_any_knots_become_their_scenes(tmp_path, knots):
    named: dict[str, Any] = {}
    for number, (lines, leads) in enumerate(knots):
        name = f"k{number}"
        content: list[Any] = []
        names: dict[str, Any] = {}
        if not isinstance(leads, int):
            for index, (words, target, twice) in enumerate(leads):
                choice, body = said_twice(words, index, f"{name}.0")
                plainly = ["ev", "str", f"^{words}", "/str", "/ev", {"*": f".^.^.c-{index}", "flg": 20}, None]
                content.append(choice if twice else plainly)
                names[f"c-{index}"] = [*(body if twice else []), "\n", {"->": f"k{target}"}, {"#f": 5}]
        text = [part for line in lines for part in (f"^{line}", "\n")]
        last: list[Any] = [{"->": f"k{leads}"}] if isinstance(leads, int) else [] if leads else ["end"]
        named[name] = [[*content, *text, *last, names or None], {"#f": 1}]
    text = made(tmp_path, tale([[{"->": "k0"}, None], "done", named]))
    path = tmp_path / "film.yaml"
    path.write_text(text, encoding="utf-8")
    scenes = {scene.name: scene for scene in read_story(read_source(path)).story.scenes}
    reached, waiting = set(), [0]
    while waiting:
        at = waiting.pop()
        if at not in reached:
            reached.add(at)
            leads = knots[at][1]
            waiting += [leads] if isinstance(leads, int) else [target for _, target, _ in leads]
    assert {f"k{number}" for number in reached} == {name for name in scenes if name and "-" not in name}
    for number in reached:
        lines, leads = knots[number]
        scene = scenes[f"k{number}"]
        prompts = [line[2:] for line in lines if line.startswith("=")]
        shown = " ".join(line for line in lines if not line.startswith("="))
        assert scene.prompt == (" ".join(prompts) or None)
        assert (scene.caption if prompts else scene.card and scene.card.text) == (shown or None)
        if isinstance(leads, int):
            assert scene.goto == f"k{leads}"
            continue
        assert scene.ends == (not leads)
        assert [choice.text for choice in scene.choices] == [words for words, _, _ in leads]
        for index, (words, target, twice) in enumerate(leads):
            led = scene.choices[index].goto
            if twice:  # its words are a scene, which leads on
                assert (led, scenes[led].goto) == (f"k{number}-0-c-{index}", f"k{target}")
                told = scenes[led].prompt or scenes[led].card.text
                assert told == words.removeprefix("= ")
            else:
                assert led == f"k{target}"


WORDS_OF_INK = [
    "^a",
    "\n",
    "ev",
    "/ev",
    "str",
    "/str",
    "done",
    "end",
    "nop",
    "<>",
    "#",
    "/#",
    1,
    None,
    True,
    [],
    "x",
    "pop",
]
OBJECTS_OF_INK = [
    *[{"->": ".^.0"}, {"->": "0.1"}, {"->": 3}, {"*": "0", "flg": 20}, {"*": ".^.n", "flg": "x"}, {"^->": "0"}],
    *[{"temp=": "$r"}, {"->": "$r", "var": True}, {"#n": "n"}, {}, {"n": ["^b", None]}, {"n": 3}],
]
PARTS = some.sampled_from([*WORDS_OF_INK, *OBJECTS_OF_INK])
ROOTS = some.recursive(PARTS, lambda inner: some.lists(inner, max_size=6), max_leaves=30)


@settings(max_examples=300)
@given(ROOTS)
def test_whatever_is_in_a_file_it_is_a_tale_or_one_line(tmp_path_factory, root):
    folder = tmp_path_factory.getbasetemp()
    try:
        told = made(folder, tale([root, None] if not isinstance(root, list) else root))
    except UsageError as refused:
        told = f"# From {refused}"
    assert told.startswith("# From")
    assert "\n" not in told or read_story(read_source(write_story(folder / "found.yaml", told)))
