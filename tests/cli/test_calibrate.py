"""`calibrate`, `quantize` and `compare`: where their results cannot go."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import DEMO_REEL
from helpers.command_line import PROMPT, prompts_file, refused

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["compare", DEMO_REEL, DEMO_REEL, "--report", "missing/page.html"], "missing does not exist"),
        (["compare", DEMO_REEL, DEMO_REEL, "--report", "/proc/page.html"], "cannot write /proc/page.html"),
        (["calibrate", DEMO_REEL, "--prompts", "PROMPTS", "-o", "missing/stats.npz"], "missing does not exist"),
        (["calibrate", DEMO_REEL, "--prompts", "PROMPTS", "-o", "/proc/stats.npz"], "cannot write /proc/stats.npz"),
        (["calibrate", DEMO_REEL, "--prompts", "PROMPTS", "-o", "."], "it is a folder"),
        (["quantize", DEMO_REEL, "--precision", "mixed", "-o", "/proc/x.reel"], "cannot write /proc/x.reel"),
    ],
    ids=lambda value: " ".join(map(str, [value[0], value[-1]])) if isinstance(value, list) else "",
)
def test_where_a_result_cannot_go_is_told_before_any_work(run, tmp_path, monkeypatch, arguments, part):
    if "/proc/" in arguments[-1] and not Path("/proc/self").is_dir():
        pytest.skip("no folder here that nobody can write to")
    pytest.importorskip("onnx")
    prompts = prompts_file(tmp_path, PROMPT)
    monkeypatch.setattr("edgereel.bundle.reader.Bundle.path", lambda *_: pytest.fail("work had begun"))
    refused(run(*(prompts if argument == "PROMPTS" else argument for argument in arguments)), 1, part)
