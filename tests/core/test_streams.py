"""What native libraries print on stderr is in our error or, where there is none, where it was printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgereel.core.streams import native_words_held

pytestmark = pytest.mark.lean

PANIC = """
import json, sys
from pathlib import Path
from edgereel.bundle.manifest import TextRules
from edgereel.core.errors import BundleError
from edgereel.runtime.text.tokens import PromptTokenizer
processor = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "missing", "type_id": 0}}]}
processor |= {"pair": [], "special_tokens": {}}
model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "b"}
path = Path(sys.argv[1])
path.write_text(json.dumps({"version": "1.0", "post_processor": processor, "model": model}))
rules = TextRules.model_construct(max_tokens=4, pad_token_id=0, unknown_token_id=1, cleaning=[])
try:
    PromptTokenizer(path, rules).encode("a hat")
except BundleError as error:
    print(error)
"""


def test_words_are_dropped_where_an_error_says_them(capfd):
    with pytest.raises(ValueError, match="an error"), native_words_held():  # noqa: PT012
        os.write(2, b"thread panicked\n")
        raise ValueError("an error")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_words_are_printed_where_there_is_no_error(capfd):
    with native_words_held(), native_words_held():
        os.write(2, b"a warning\n")
    assert capfd.readouterr().err == "a warning\n"


def test_a_panic_of_the_tokenizer_is_one_line_of_ours(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PANIC, tmp_path / "tokenizer.json"], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert "does not work" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="redirections of a shell of POSIX")
def test_no_stderr_at_all(tmp_path):
    program = "from edgereel.core.streams import native_words_held\nwith native_words_held(): print('done')"
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "done\n"
