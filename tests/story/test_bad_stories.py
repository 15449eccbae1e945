"""Stories that cannot be made: one line, with the file and the line, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story, write_wav

from edgereel.core.errors import UsageError
from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.reel import load
from edgereel.story.film.film import FilmOptions, load_story, make_film
from edgereel.story.film.plan import plan_film

TOP = "title: A film\nscenes:\n"
GOOD = f"{TOP}  - name: one\n    prompt: a red ball bounces over the ocean\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)

BAD = {
    "empty": ("", 1, "is empty"),
    "a list": ("- a\n", 1, "is no map"),
    "a word": ("film\n", 1, "is no map"),
    "no YAML": ("title: [\n", 2, "is not YAML"),
    "a tab": ("title: x\n\tscenes: y\n", 2, "is not YAML"),
    "a control character": ("title: x\nlook: a\x07b\n", 2, "is not YAML"),
    "two documents": (f"{GOOD}---\ntitle: y\n", 5, "second document"),
    "a tag": ("title: !!python/object/apply:os.system [ls]\n", 1, "has the tag"),
    "a tag of one's own": ("title: x\nscenes: !film []\n", 2, "has the tag"),
    "a bomb": (BOMB, 1, "stands for more than"),
    "many aliases": ("a: &a x\nb:\n" + "  - *a\n" * 1001, 1003, "aliases"),
    "an alias of itself": ("title: &a [*a]\n", 1, "nested"),
    "deep": ("title: " + "[" * 40 + "]" * 40 + "\n", 1, "nested"),
    "a key twice": (f"{GOOD}    prompt: a blue ball\n", 5, "a second time"),
    "a key that is a list": (f"{GOOD}    ? [a]\n    : b\n", 5, "no text"),
    "an unknown key": (f"{TOP}  - promt: a red ball\n", 3, "scene 1, promt: there is no such key"),
    "no title": ("scenes:\n  - prompt: a red ball\n", 1, "title: is missing"),
    "a number for a title": ("title: 3\nscenes:\n  - prompt: a\n", 1, "put it in quotes"),
    "no scenes": ("title: x\nscenes: []\n", 2, "at least 1"),
    "scenes that are no list": ("title: x\nscenes: many\n", 2, "list"),
    "too many scenes": (TOP + "  - prompt: a red ball\n" * 5001, 2, "at most 5000"),
    "neither prompt nor card": (f"{TOP}  - seconds: 2\n", 3, "give a prompt, or a card"),
    "prompt and card": (f"{TOP}  - prompt: a\n    card: b\n", 3, "give a prompt, or a card"),
    "zero seconds": (f"{GOOD}    seconds: 0\n", 5, "greater than 0"),
    "negative pictures": (f"{GOOD}    pictures: -4\n", 5, "greater than or equal to 1"),
    "seconds that are no number": (f"{GOOD}    seconds: 1:30\n", 5, "valid number"),
    "endless": (f"{GOOD}    seconds: .inf\n", 5, "valid number"),
    "seconds and pictures": (f"{GOOD}    seconds: 2\n    pictures: 17\n", 3, "not both"),
    "a seed that is too large": (f"{GOOD}    seed: 4294967296\n", 5, "4294967295"),
    "an unknown transition": (f"{GOOD}    transition: wipe\n", 5, "'cut', 'fade' or 'dissolve'"),
    "a bad name": (f"{TOP}  - name: a/b\n    prompt: a\n", 3, "a name of letters"),
    "a name twice": (f"{GOOD}  - name: one\n    prompt: a\n", 5, "called one too"),
    "a name in another script": (
        f"{TOP}  - name: сцена\n    prompt: a\n    from: {{scene: нет}}\n",
        5,
        "there is no scene 'нет'",
    ),
    "a name that turns text around": (f'{TOP}  - name: "a\\u202Eb"\n    prompt: a\n', 3, "a name of letters"),
    "from before the first": (f"{GOOD}    from: previous\n", 5, "nothing comes before"),
    "from something else": (f"{GOOD}    from: later\n", 5, "write none, previous"),
    "from a missing scene": (f"{GOOD}    from: {{scene: two}}\n", 5, "there is no scene 'two'"),
    "from itself": (f"{GOOD}    from: {{scene: one}}\n", 5, "goes on from itself"),
    "from each other": (
        f"{GOOD}    from: {{scene: two}}\n  - name: two\n    prompt: a\n    from: previous\n",
        5,
        "two does not come before it on every way",
    ),
    "from what one way passes by": (
        f"{GOOD}    choices: [{{text: a, goto: two}}, {{text: b, goto: end}}]\n  - name: two\n    prompt: a\n"
        "  - name: end\n    prompt: a\n    from: {scene: two}\n",
        10,
        "two does not come before it on every way",
    ),
    "from a card": (f"{TOP}  - {{name: c, card: x}}\n  - prompt: a\n    from: {{scene: c}}\n", 5, "is a card"),
    "goto nowhere": (f"{GOOD}    goto: two\n", 5, "there is no scene 'two'"),
    "goto itself": (f"{GOOD}    goto: one\n", 3, "would never end"),
    "a choice to nowhere": (f"{GOOD}    choices: [{{text: a, goto: two}}]\n", 5, "there is no scene 'two'"),
    "an unknown word in braces": (f"{TOP}  - prompt: the {{villain}} falls\n", 3, "{villain} is not in words"),
    "a lone brace": (f"{TOP}  - prompt: the }} falls\n", 3, "lone brace"),
    "a caption that is none": (f'{GOOD}    caption: "1 --> 2"\n', 5, "cannot hold -->"),
    "a missing WAV": (f"{GOOD}    narration: {{file: no.wav}}\n", 5, "no file 'no.wav'"),
    "a WAV that is none": (f"{GOOD}    narration: {{file: text.wav}}\n", 5, "no WAV file that can be read"),
    "words that are nowhere": (f"{GOOD}    narration: {{at: 1}}\n", 5, "give its text"),
    "a path out of the folder": (f"{GOOD}    narration: {{file: ../up.wav}}\n", 5, "not in the folder of"),
    "an absolute path": (f"{GOOD}    narration: {{file: /etc/passwd}}\n", 5, "not in the folder of"),
    "a link out of the folder": (f"{GOOD}    narration: {{file: link.wav}}\n", 5, "not in the folder of"),
    "missing music": (f"music: no.wav\n{GOOD}", 1, "no file 'no.wav'"),
    "letters that the font lacks": (f"{TOP}  - card: 永遠\n", 3, "has no '永遠'"),
    "a colour that is none": (f"{TOP}  - card: {{text: a, colour: red}}\n", 3, "#rrggbb"),
}
"""Each: the story, the line, and what is said of it."""

BAD_FOR_THE_MODEL = {
    "an unknown word": (f"{TOP}  - prompt: a red ball\n  - prompt: a red\n      zeppelin\n", 4, 'know: "zeppelin"'),
    "an unknown word of the look": (f"look: noir\n{GOOD}", 5, 'know: "noir"'),
    "a length that the model cannot do": (f"{GOOD}    pictures: 18\n", 5, "the nearest is 17"),
    "continuity": (f"{GOOD}  - prompt: a red ball\n    from: previous\n", 6, "no scene goes on from another"),
    "a picture": (f"{GOOD}    from: {{picture: a.png}}\n", 5, "takes no picture"),
    "a format": (f"format: round\n{GOOD}", 1, "there is no format"),
    "a long transition": (
        f"{GOOD}  - prompt: a red ball\n    transition: {{kind: dissolve, seconds: 3}}\n",
        6,
        "longer than",
    ),
    "a caption after the end": (f"{GOOD}    captions: [{{text: a, at: 5}}]\n", 5, "ends at 5 s"),
    "words after the end": (f"{GOOD}    narration: {{file: long.wav}}\n", 5, "words end at 3.00 s"),
    "a card that is too full": (f"{TOP}  - card: {'word ' * 60}\n", 3, "does not fit into"),
    "an unknown word on another way": (
        f"{GOOD}    ends: true\n  - prompt: a red zeppelin\n",
        6,
        'know: "zeppelin"',
    ),
    "a branch without a choice": (
        f"{GOOD}    choices: [{{text: a, goto: two}}]\n  - name: two\n    prompt: a red ball\n",
        5,
        "here the story branches",
    ),
}


ASIDE = (
    f"{GOOD}    choices: [{{text: a, goto: end}}, {{text: b, goto: aside}}]\n  - {{name: end, card: End, ends: true}}\n"
)
NOT_SHOWN = {
    "an unknown word": ("prompt: a red zeppelin", 0, 'know: "zeppelin"'),
    "a length that the model cannot do": ("prompt: a red ball\n    pictures: 18", 1, "(aside): "),
    "continuity": ("prompt: a red ball\n    from: previous", 1, "no scene goes on from another"),
    "continuity by name": ("prompt: a red ball\n    from: {scene: one}", 1, "no scene goes on from another"),
    "a picture": ("prompt: a red ball\n    from: {picture: a.png}", 1, "takes no picture"),
    "a long transition": (
        "prompt: a red ball\n    transition: {kind: dissolve, seconds: 20}",
        1,
        "longer than a scene beside it",
    ),
    "a caption after the end": (
        "prompt: a red ball\n    seconds: 1\n    captions: [{text: a, at: 9}]",
        2,
        "ends at 9 s",
    ),
    "words after the end": ("card: a\n    narration: {file: long.wav}", 1, "words end at 3.00 s"),
    "a card that is too full": (f"card: {'word ' * 60}", 0, "does not fit into"),
    "a card that is too full further on": (
        f"card: a\n    choices: [{{text: c, goto: end}}, {{text: d, goto: far}}]\n  - name: far\n    card: {'word ' * 60}",
        3,
        "does not fit into",
    ),
    "a step that a transition is too long for": (
        "card: a\n    pictures: 3\n    goto: far\n  - name: far\n    card: b\n    transition: {kind: fade, seconds: 1}",
        5,
        "a fade of 8 pictures is longer",
    ),
}
"""Each: what the scene says that the first choice passes by, the line of it from 0, and what is said."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories") / "here"
    folder.mkdir()
    write_wav(folder.parent / "up.wav", 0.5)
    write_wav(folder / "long.wav", 3)
    (folder / "text.wav").write_text("RIFF")
    (folder / "a.png").write_bytes(b"")
    (folder / "link.wav").symlink_to(folder.parent / "up.wav")
    return folder


@pytest.fixture(scope="module")
def words(words_reel):
    with load(words_reel, "cpu", threads=1, cache=False) as reel:
        yield reel


def refusal(path: Path, line: int, error: Exception) -> str:
    message = str(error)
    assert message.startswith(f"{path}:{line}: "), message
    assert "\n" not in message
    return message


def test_there_are_forty():
    assert len(BAD) + len(BAD_FOR_THE_MODEL) >= 40


@pytest.mark.parametrize("name", BAD)
def test_refused_without_a_model(folder, name):
    text, line, said = BAD[name]
    path = write_story(folder / "film.yaml", text)
    with pytest.raises(UsageError) as refused:
        load_story(path)
    assert said in refusal(path, line, refused.value)


@pytest.mark.parametrize("name", BAD_FOR_THE_MODEL)
def test_refused_for_the_model(folder, words, name):
    text, line, said = BAD_FOR_THE_MODEL[name]
    path = write_story(folder / "film.yaml", text)
    file, lettering = load_story(path)
    with pytest.raises(UsageError) as refused:
        plan_film(file, words, lettering=lettering)
    assert said in refusal(path, line, refused.value)


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_refused_in_a_scene_that_is_not_shown(folder, words, name):
    text, line, said = NOT_SHOWN[name]
    story = f"fps: 8\n{ASIDE}  - name: aside\n    {text}\n"
    path = write_story(folder / "film.yaml", story)
    file, lettering = load_story(path)
    with pytest.raises(UsageError) as refused:
        plan_film(file, words, lettering=lettering, choices=[1])
    assert said in refusal(path, story.split("name: aside\n")[0].count("\n") + 2 + line, refused.value)


def test_a_scene_that_no_way_leads_to_is_checked(folder, words):
    path = write_story(folder / "film.yaml", f"{GOOD}    ends: true\n  - card: {'word ' * 60}\n")
    file, lettering = load_story(path)
    with pytest.raises(UsageError) as refused:
        plan_film(file, words, lettering=lettering)
    assert "does not fit into" in refusal(path, 6, refused.value)


def test_a_file_that_is_too_large(tmp_path):
    path = write_story(tmp_path / "film.yaml", "title: " + "x" * 2**20 + "\n")
    with pytest.raises(UsageError, match="bytes are more than"):
        load_story(path)


def test_nothing_is_made_of_a_bad_story(folder, tmp_path):
    path = write_story(folder / "film.yaml", BAD_FOR_THE_MODEL["an unknown word"][0])
    with pytest.raises(UsageError):
        make_film(path, tmp_path / "film.mp4", FilmOptions(bundle=DEMO_REEL), ReelOptions("cpu", 1))
    assert list(tmp_path.iterdir()) == []
