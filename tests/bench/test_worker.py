"""A worker's process: what it refuses, and processes that are none."""

from __future__ import annotations

import sys

import psutil
import pytest

from edgereel.bench.contenders.process import WorkerProcess
from edgereel.core.errors import EngineError


def test_what_a_worker_refuses_is_its_own_message(tmp_path):
    worker = WorkerProcess([sys.executable, "-m", "edgereel.bench.contenders.worker"])
    try:
        with pytest.raises(EngineError, match="nothing open"):
            worker.request(do="make", prompt="x", seed=0)
        with pytest.raises(EngineError, match="not 'dance'"):
            worker.request(do="dance")
        with pytest.raises(EngineError, match="KeyError"):
            worker.request(do="open")
        with pytest.raises(EngineError, match=r"nowhere\.reel"):
            worker.request(
                do="open", bundle=str(tmp_path / "nowhere.reel"), engine="auto", threads=1, settings={"size": [1, 1]}
            )
    finally:
        worker.close()
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize("program", ["print('hello')", "print([1])", "print('{}')", "pass", "import os; os.close(1)"])
def test_a_process_that_talks_nonsense_is_an_error(program):
    process = WorkerProcess([sys.executable, "-c", program])
    try:
        with pytest.raises(EngineError) as raised:
            process.request(do="open")
        assert "\n" not in str(raised.value)
    finally:
        process.close()


def test_a_command_that_is_not_there_is_an_error():
    with pytest.raises(EngineError, match="cannot be started"):
        WorkerProcess(["/no/such/program"])
