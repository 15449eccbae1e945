"""A run that would take many minutes ends when it is told to, by whatever way, and its session can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from helpers.bound_sessions import open_bound  # noqa: E402

from edgereel.core.errors import Cancelled, EngineError  # noqa: E402
from edgereel.engines import (  # noqa: E402
    EngineOptions,
    Session,
    Tensor,
    get_engine,
    stopping,
)
from edgereel.engines.stopping import run_stoppable, stop_when  # noqa: E402
from edgereel.engines.streaming import StreamedSession  # noqa: E402

WIDTH, NODES, LONG = 256, 3000, 2**16
RUN_IN_A_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from edgereel.core.interrupts import end_on_signals, how_it_ended
from edgereel.engines import EngineOptions, Tensor, get_engine
end_on_signals()
with get_engine("cpu").open(Path(sys.argv[1]), EngineOptions(threads=1)) as session:
    try:
        print("running", flush=True)
        session.run({"x": Tensor.from_numpy(np.ones((65536, 256), np.float32))})
        print("it ended by itself")
    except KeyboardInterrupt:
        print(*how_it_ended())
    print(session.run({"x": Tensor.from_numpy(np.ones((1, 256), np.float32))})["y"].shape)
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Return a graph of thousands of small steps: with 65,536 rows they take a quarter of an hour on one core."""
    path = tmp_path_factory.mktemp("long") / "long.onnx"
    names = ["x", *(f"v{at}" for at in range(1, NODES)), "y"]
    nodes = [onnx.helper.make_node("MatMul", [names[at], "w"], [names[at + 1]]) for at in range(NODES)]
    weight = onnx.numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", WIDTH]) for name in ("x", "y")]
    body = onnx.helper.make_graph(nodes, "main", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def session(graph):
    with get_engine("cpu").open(graph, EngineOptions(threads=1, keep=False)) as opened:
        yield opened


def rows(count):
    return {"x": Tensor.from_numpy(np.ones((count, WIDTH), np.float32))}


@pytest.mark.parametrize("kind", ["host", "bound"])
def test_another_thread_stops_it(graph, kind):
    """Both kinds of sessions of ONNX Runtime: that of the CPU, and that whose tensors stay on a device."""
    if kind == "bound":
        with open_bound(graph) as session:
            stop_from_another_thread(session)
    else:
        with get_engine("cpu").open(graph, EngineOptions(threads=1, keep=False)) as session:
            stop_from_another_thread(session)


def stop_from_another_thread(session):
    ended = threading.Event()

    def stop_it():
        while not ended.wait(0.1):  # it may not have begun
            session.stop()

    thread = threading.Thread(target=stop_it)
    thread.start()
    with pytest.raises(Cancelled, match=r"running long\.onnx was stopped"):
        session.run(rows(LONG))
    ended.set()
    thread.join()
    assert session.run(rows(1))["y"].shape == (1, WIDTH)  # and runs again


def test_stopping_what_does_not_run_changes_nothing(session):
    session.stop()
    assert session.run(rows(1))["y"].shape == (1, WIDTH)


@pytest.mark.parametrize("in_thread", [False, True])
def test_an_answer_stops_it(session, in_thread):
    """It is asked in the thread that runs, again and again."""
    asked, found = [], []

    def ask():
        asked.append(threading.current_thread())
        return len(asked) > 2

    def run():
        with pytest.raises(Cancelled, match="in the middle of a step"), stop_when(ask):
            session.run(rows(LONG))
        found.append(threading.current_thread())

    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert set(asked) == set(found)
    assert len(asked) == 3
    assert session.run(rows(1))["y"].shape == (1, WIDTH)


def test_opening_stops_too(graph, monkeypatch):
    """A large graph takes long to open, and is not opened to its end."""
    monkeypatch.setattr(stopping, "ASKED_EVERY", 0.001)
    options = EngineOptions(threads=1)
    get_engine("cpu").open(graph, options).close()  # lowered, so that what follows is opening alone
    with pytest.raises(Cancelled, match="in the middle"), stop_when(lambda: True):
        get_engine("cpu").open(graph, options)
    with get_engine("cpu").open(graph, options) as session:
        assert session.report.lowered == "cache"


def test_what_an_asking_raises_comes_out(session):
    def ask():
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"), stop_when(ask):
        session.run(rows(LONG))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "ended"), [(signal.SIGINT, "interrupted 130"), (signal.SIGTERM, "terminated 143")], ids=["int", "term"]
)
def test_a_signal_ends_it(graph, number, ended):
    command = [sys.executable, "-c", RUN_IN_A_PROCESS, str(graph)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "running\n"
            time.sleep(1)
            process.send_signal(number)
            output, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (output.splitlines(), errors) == ([ended, f"(1, {WIDTH})"], "")


def test_segments_after_the_one_that_was_stopped_are_not_run(session):
    class Segment(Session):
        ran = 0

        def __init__(self):
            self.specs, self.report = session.specs, session.report

        def run(self, inputs):
            Segment.ran += 1
            streamed.stop()
            return {"y": inputs["x"]}

        def close(self):
            pass

    from edgereel.engines.graphs.segments import Segment as Part

    parts = [Part(b"", ("x",), ("y",), 1), Part(b"", ("x",), ("y",), 1)]
    streamed = StreamedSession("a", parts, session.specs, 100, lambda part: Segment())
    with pytest.raises(Cancelled, match="running a was stopped"):
        streamed.run(rows(1))
    assert Segment.ran == 1


def test_work_that_was_not_begun_is_given_up():
    """An interrupt between handing work over and its beginning: nothing runs afterwards."""
    job = stopping._Job(lambda: pytest.fail("it ran"))
    job.end(lambda: pytest.fail("there is nothing to stop"))
    job.run()


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_interrupt_just_as_work_has_ended(interrupted):
    """The one who waits may have been told of the end already, and be interrupted before that is noted."""
    job = stopping._Job(lambda: 1)
    job.run()
    if interrupted:
        assert job.done.acquire(blocking=False)
    giver = threading.Thread(target=job.end, args=(lambda: None,), daemon=True)
    giver.start()
    giver.join(30)
    assert not giver.is_alive()


def test_errors_and_results_come_through_and_nothing_is_held():
    with pytest.raises(EngineError, match="of the work"):
        run_stoppable(lambda: (_ for _ in ()).throw(EngineError("of the work")), lambda: None)
    import weakref

    class Thing:
        pass

    thing = run_stoppable(Thing, lambda: None)
    there = weakref.ref(thing)
    del thing
    run_stoppable(lambda: None, lambda: None)
    assert there() is None


def test_a_thread_keeps_its_helper():
    """CUDA graphs are recorded for the thread that runs them."""
    first, second = (run_stoppable(threading.get_ident, lambda: None) for _ in range(2))
    assert first == second != threading.get_ident()
