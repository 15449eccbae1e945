"""Nothing of ours or of what we stand on reports home: no file outside our folders, no look-up of a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROMPT = "a red ball bounces over the ocean"
IMPORTED_BEFORE = """
import onnxruntime
calls = []
onnxruntime.disable_telemetry_events = lambda: calls.append(1)
from edgereel.engines import get_engine
get_engine("cpu").numerics(__import__("edgereel.engines").engines.EngineOptions())
assert calls, "reports were not switched off"
"""


def clean_environment(home: Path) -> dict[str, str]:
    from edgereel.core.offline import SWITCHES

    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES and not name.startswith("XDG_")}
    return {**kept, "HOME": str(home), "EDGEREEL_CACHE": str(home / "ours")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", PROMPT, "-o", "clip.mp4", "--steps", "1"],
        ["doctor", "--json"],
        ["inspect", "--json"],
        ["cache", "ls"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_file_is_written_outside_our_folders(arguments: list[str], tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    command = [sys.executable, "-m", "edgereel", *arguments]
    done = subprocess.run(command, cwd=work, env=clean_environment(home), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    written = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert [path for path in written if path.parts[0] != "ours"] == []
    assert [path.name for path in work.iterdir()] == (["clip.mp4"] if arguments[0] == "generate" else [])


def test_the_switches_are_set_on_import_and_inherited() -> None:
    program = (
        "import edgereel, json, os, subprocess, sys; "
        "child = 'import json, os; print(json.dumps(dict(os.environ)))'; "
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)"
    )
    hostile = {"ORT_DISABLE_TELEMETRY": "0", "RAY_USAGE_STATS_ENABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **hostile}, capture_output=True, text=True, check=True
    )
    from edgereel.core.offline import SWITCHES

    inherited = json.loads(done.stdout)
    assert {name: inherited.get(name) for name in SWITCHES} == SWITCHES


def test_reports_are_off_where_the_program_imported_onnxruntime_first() -> None:
    subprocess.run([sys.executable, "-c", IMPORTED_BEFORE], check=True, timeout=120)


def test_matplotlib_keeps_its_list_of_fonts_in_our_cache(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    program = (
        "import os; from edgereel.bench.report.figure import style\n"
        "with style(): pass\n"
        "assert 'MPLCONFIGDIR' not in os.environ"
    )
    environment = {name: value for name, value in clean_environment(tmp_path).items() if name != "MPLCONFIGDIR"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    written = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()]
    assert set(written) == {("ours", "matplotlib")}


def test_openvino_reports_no_import(tmp_path: Path) -> None:
    """It would write a client's name into the home folder, and send an event of each import."""
    pytest.importorskip("openvino")
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from edgereel.engines.openvino.engine import import_openvino\n"
        "import_openvino().Core()\n"
        "assert 'openvino_telemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], env=clean_environment(tmp_path), check=True, timeout=120)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
