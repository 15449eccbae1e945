"""Ways through a story."""

from __future__ import annotations

from helpers.causal_bundle import write_causal_bundle
from helpers.story_files import write_story
from hypothesis import given
from hypothesis import strategies as some

from edgereel.runtime.reel import load
from edgereel.story.film.film import load_story
from edgereel.story.film.plan import plan_film
from edgereel.story.script.path import always_before
from edgereel.story.script.source import Source
from edgereel.story.script.story import Story, StoryFile

SCENE = some.one_of(some.just([]), some.none(), some.lists(some.integers(0, 6), min_size=1, max_size=3))
"""Where a scene leads: nowhere, on, or by choices to those."""


@given(some.lists(SCENE, min_size=7, max_size=7))
def test_scenes_before_on_every_way_are_those_without_which_no_way_leads_there(ways):
    scenes = []
    for number, way in enumerate(ways):
        choices = [{"text": "a", "goto": f"s{target}"} for target in way or ()]
        scenes.append({"name": f"s{number}", "card": "x", "choices": choices, "ends": way == []})
    story = Story.model_validate({"title": "x", "scenes": scenes})
    found = always_before(StoryFile(story, Source(None, {}, {})))  # type: ignore[arg-type]

    def reached(without: int | None) -> set[int]:
        seen: set[int] = set()
        waiting = [] if without == 0 else [0]
        while waiting:
            at = waiting.pop()
            if at not in seen:
                seen.add(at)
                way = ways[at]
                targets = [at + 1] * (at < 6) if way is None else way
                waiting += [target for target in targets if target != without]
        return seen

    anywhere = reached(None)
    assert set(found) == anywhere
    for at in anywhere:
        wanted = {other for other in anywhere if at not in reached(other)}
        assert {other for other in range(7) if found[at] >> other & 1} == wanted


BRANCHING = """
title: A stream
scenes:
  - {name: a, prompt: a red ball, pictures: 9, choices: [{text: b, goto: b}, {text: c, goto: c}]}
  - {name: b, prompt: the green ball, from: previous, seconds: 2, goto: d}
  - {name: c, prompt: a square bounces, seconds: 1}
  - {name: d, prompt: a ball, from: previous, seconds: 1, choices: [{text: again, goto: b}, {text: end, goto: e}]}
  - {name: e, prompt: a ball, from: {scene: a}, seconds: 1}
"""


def test_a_scene_goes_on_from_whichever_was_before_it(tmp_path):
    bundle = write_causal_bundle(tmp_path / "small.reel")
    file, _ = load_story(write_story(tmp_path / "film.yaml", BRANCHING))
    with load(bundle, "cpu", threads=1) as reel:
        one, other = (plan_film(file, reel, choices=choices) for choices in ((1, 2), (2, 1, 2)))
    assert [(scene.name, scene.origin) for scene in one.scenes] == [("a", None), ("b", 0), ("d", 1), ("e", 0)]
    assert [scene.name for scene in other.scenes] == ["a", "c", "d", "b", "d", "e"]
    assert [scene.origin for scene in other.scenes] == [None, None, 1, 2, 3, 0]
    assert one.scenes[0].key == other.scenes[0].key
    assert one.scenes[3].key == other.scenes[5].key
    assert len({scene.key for scene in (one.scenes[2], other.scenes[2], other.scenes[4])}) == 3
