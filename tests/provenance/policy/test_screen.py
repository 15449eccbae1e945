"""A policy of one's own: what its file may say, what it does to prompts, what is logged."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from edgereel.core.errors import UsageError
from edgereel.provenance.policy.screen import Policy, PromptRefused

pytestmark = pytest.mark.lean


@pytest.fixture
def policy(tmp_path):
    def write(text):
        path = tmp_path / "policy.toml"
        path.write_text(text, encoding="utf-8")
        return Policy.read(path)

    return write


def test_the_three_actions(policy):
    screen = policy(
        'name = "mine"\n'
        '[[rule]]\ncategory = "fish"\nphrases = ["trout", "sea bass"]\n'
        '[[rule]]\ncategory = "birds"\naction = "flag"\nphrases = ["owl*"]\n'
        '[[rule]]\ncategory = "rude"\naction = "replace"\nreplacement = "fluffy"\nphrases = ["smelly dog"]\n'
    )
    assert screen.screen("a ball").findings == ()
    with pytest.raises(PromptRefused, match=r"'mine' refuses this prompt \(category: fish\)"):
        screen.check("a Sea-Bass")
    flagged = screen.screen("two owlets")
    assert (flagged.prompt, flagged.categories) == ("two owlets", ["birds"])
    assert screen.check("my SMELLY D0G runs") == "my fluffy runs"


def test_patterns_and_words_together_and_exceptions(policy):
    screen = policy(
        "[[rule]]\ncategory = 'code'\npatterns = ['\\bzone \\d{3}\\b']\n"
        "[[rule]]\ncategory = 'pair'\ntogether = [['cat|cats', 'bath']]\nexcept = ['bath mat']\n"
    )
    for refused in ("zone 123", "a bath for two cats", "CATS, then a BATH"):
        assert screen.screen(refused).prompt is None
    for passed in ("zone 12", "a cat", "a cat on a bath mat", "bathing cats"):
        assert screen.screen(passed).prompt == passed


def test_only_whole_words_count(policy):
    screen = policy("[[rule]]\ncategory = 'x'\nphrases = ['ass']\n")
    assert all(screen.screen(word).prompt for word in ("class", "assam", "grass", "a s", "as"))
    assert not any(
        screen.screen(word).prompt for word in ("ass", "a$$", "ASSSS", "a s s", "a.s.s", "аss", "ａｓｓ", "a\u200bss")
    )


def test_decisions_are_logged_without_the_prompt(policy, caplog):
    screen = policy("[[rule]]\ncategory = 'fish'\nphrases = ['trout']\n")
    with caplog.at_level(logging.INFO, logger="edgereel.policy"):
        screen.screen("a secret trout")
    assert "refuse, category fish" in caplog.text
    assert "trout" not in caplog.text
    assert "secret" not in caplog.text


def test_a_prompt_without_end_is_refused(policy):
    assert policy("").screen("a " * 20_000).prompt is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not TOML"),
        ("nme = 'x'", "unknown key 'nme'"),
        ("[[rule]]\nphrases = ['x']", "category is missing"),
        ("[[rule]]\ncategory = 'x'", "neither phrases nor patterns"),
        ("[[rule]]\ncategory = 'x'\nphrases = 'x'", "phrases is a list of texts"),
        ("[[rule]]\ncategory = 'x'\nphrases = ['x']\naction = 'ban'", "unknown action 'ban'"),
        ("[[rule]]\ncategory = 'x'\npatterns = ['(']", "no regular expression"),
        ("[[rule]]\ncategory = 'x'\nphrase = ['x']", "unknown key 'phrase'"),
        ("[[rule]]\ncategory = 'x'\ntogether = ['x']", "together is a list of lists"),
        ("rule = 3", r"begins with \[\[rule\]\]"),
        ("people = 3", "people is a table"),
        ("[pictures]\nuploads = 'yes'", "true or false"),
    ],
)
def test_what_a_file_may_not_say(policy, text, said):
    with pytest.raises(UsageError, match=said):
        policy(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.toml: cannot be read"):
        Policy.read(tmp_path / "nothing.toml")


def test_generate_is_told_before_it_works(run):
    code, out, err = run("generate", "a naked man", "--policy", "booth")
    assert (code, out) == (2, "")
    assert "category: sexual" in err
    assert "naked" not in err


def test_prompts_are_screened_and_marks_chosen_without_numpy(tmp_path):
    """The process that answers HTTP screens prompts, and has neither numpy nor FFmpeg in it."""
    code = (
        "import sys\n"
        "for name in ('numpy', 'av', 'PIL', 'c2pa', 'cryptography', 'onnxruntime'): sys.modules[name] = None\n"
        "from edgereel.provenance.policy.screen import Policy\n"
        "import edgereel.provenance.marks, edgereel.provenance.log, edgereel.provenance.verify, edgereel.provenance.keys\n"
        "booth = Policy.read('booth')\n"
        "print(booth.screen('a nude man').categories, booth.check('a red ball'), booth.uploads)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    assert done.stdout == "['sexual'] a red ball False\n"
