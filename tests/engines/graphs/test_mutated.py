"""Graphs that are not what export writes, through everything that reads one: it works, or an error of ours names the graph."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import helpers_environment

pytest.importorskip("onnx")
pytest.importorskip("ml_dtypes")

SAMPLE = 6


def tried(first, count, timeout):
    """Return what came of each mutation. Raises AssertionError where the process that tried them ended before the last."""
    command = [sys.executable, "-m", "helpers.mutated_graphs", str(first), str(count)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=helpers_environment(), timeout=timeout, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = [line for line in lines if "number" in line]
    assert len(found) == count, f"ended with {done.returncode} in {lines[-1:]}: {done.stderr[-2000:]}"
    return found


def check(found):
    said = [(line["number"], line["graph"], line["change"], *pair) for line in found for pair in line["said"].items()]
    assert [each for each in said if each[-1].startswith("RAW")] == []
    assert [each for each in said if "without a name" in each[-1]] == []


def test_a_few_mutations():
    """The others are in `make test-full`."""
    found = tried(0, SAMPLE, 1800)
    check(found)
    assert any(said for line in found for said in line["said"].values())  # what was changed is seen


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 600, 50))
def test_many_mutations(first):
    check(tried(first, 50, 7200))
