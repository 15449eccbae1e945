"""`edgereel bench run`: its record, its table, its JSON, its exit codes."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.bench_played import make_quick

from edgereel.bench.contenders.base import Contender
from edgereel.bench.records.record import read_record
from edgereel.bench.report.content import stage_table
from edgereel.cli import main


def test_ctrl_c_saves_the_record_of_the_command(tmp_path):
    """The worker's clip is written anew each time: after six of them, four were timed."""
    folder, temporary = tmp_path / "report", tmp_path / "temporary"
    temporary.mkdir()
    line = [
        sys.executable,
        "-m",
        "edgereel",
        "bench",
        "run",
        "-o",
        str(folder),
        "--steps",
        "1,2",
        "--min-runs",
        "100000",
    ]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [*line, "--sizes", "32x32", "--frames", "5", "--threads", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = set()
    while len(seen) < 14 and process.poll() is None:
        for path in glob.iglob(f"{temporary}/*/*/clip.mp4"):  # Path.glob fails where a folder goes meanwhile
            with contextlib.suppress(OSError):
                seen.add(os.stat(path).st_mtime_ns)
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "marked partial" in errors
    record = read_record(folder / "record.json")
    assert record.partial
    assert all(row.warm.runs >= 2 for row in record.rows)
    assert "| edgereel demo, 2 steps |" in printed
    assert list(temporary.glob("edgereel*")) == []


@pytest.fixture
def command(monkeypatch, capsys):
    """Give what runs the command in this process: exit code, stdout, stderr."""

    def run(*arguments):
        options = ["--sizes", "32x32", "--frames", "5", "--threads", "1", "--min-runs", "2", *arguments]
        monkeypatch.setattr(sys, "argv", ["edgereel", "bench", "run", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_writes_a_record_and_prints_a_table(tmp_path):
    line = [sys.executable, "-m", "edgereel", "bench", "run", "--steps", "1", "--cold-runs", "1", "--min-runs", "2"]
    line += ["--sizes", "32x32", "--frames", "5", "--threads", "1", "-o", str(tmp_path / "report")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "report" / "record.json")
    assert record.command[:3] == ["edgereel", "bench", "run"]
    table = stage_table(record, "warm")
    assert table is not None
    assert f"| {' | '.join(table.rows[0][:3])} |" in done.stdout
    assert table.rows[0][:2] == ["edgereel demo, 1 step", "2"]
    assert "Stages of cold clips" in done.stdout
    assert "Cold clips are made by fresh processes" in done.stdout


def test_the_command_prints_json(tmp_path, command, monkeypatch):
    make_quick(monkeypatch)
    _, printed, _ = command("--steps", "1", "--no-cold", "--json", "-o", str(tmp_path))
    printed = json.loads(printed)
    record = read_record(tmp_path / "record.json")
    assert printed["record"] == str(tmp_path / "record.json")
    row = printed["rows"]["edgereel demo, 1 step"]
    assert row == {"warm_seconds": record.rows[0].warm.stages["total"].median, "cold_seconds": None}
    for text in (*record.notes, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "fresh processes" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--steps", "1,x"], 2, "--steps 1,x"),
        (["--steps", "0"], 2, "--steps 0"),
        (["--sizes", "64"], 2, "64"),
        (["--frames", ""], 2, "--frames"),
        (["--prompts", "/no/such/file"], 2, "cannot be read"),
        (["nowhere.reel"], 2, "nowhere.reel"),
        (["-o", "/dev/null"], 1, "it is a file"),
        (["-o", "/dev/null/below"], 1, "cannot write"),
        (["-o", "clips"], 1, "clips: holds other files (frame_0000.png) and no earlier report"),
    ],
)
def test_wrong_usage_is_one_line(arguments, code, words, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "frame_0000.png").write_bytes(b"x")
    ended, printed, errors = command(*arguments)
    assert [each.name for each in (tmp_path / "clips").iterdir()] == ["frame_0000.png"]
    assert ended == code
    assert words in errors
    assert "Traceback" not in errors
    assert printed == ""


def test_no_row_measured_is_a_failure(tmp_path, command, monkeypatch):
    """Every process dies: the record tells of it, and so does the exit code."""
    make_quick(monkeypatch)
    monkeypatch.setattr(Contender, "command", lambda self: [sys.executable, "-c", "raise SystemExit('no such device')"])
    ended, _, errors = command("--steps", "1", "--no-cold", "-o", str(tmp_path / "report"))
    assert ended == 1
    assert "no row was measured: a contender's process ended with exit code 1: no such device" in errors
    assert read_record(tmp_path / "report" / "record.json").rows[0].warm is None
