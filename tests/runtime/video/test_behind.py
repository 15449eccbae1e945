"""Frames are encoded while the next ones are decoded, in their order; whatever ends that leaves no thread behind."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from edgereel.core.errors import OutputError
from edgereel.runtime.video.behind import Behind
from edgereel.runtime.video.sink import Sink, write_frames

pytestmark = pytest.mark.lean

SECONDS = 60


class Recorder(Sink):
    """Keeps the frames, each after an event if there is one."""

    largest_side = 64

    def __init__(self, before=None, fails_at=None):
        self.seen, self.before, self.fails_at = [], before or (lambda: None), fails_at
        self.finished = self.closed = False

    def start(self, temporary, width, height):
        temporary.write_bytes(b"")

    def add(self, frame):
        self.before()
        if len(self.seen) == self.fails_at:
            raise OSError(28, "No space left on device")
        self.seen.append(int(frame[0, 0, 0]))

    def finish(self):
        self.finished = True

    def close(self):
        self.closed = True


def frame_of(number):
    return np.full((2, 2, 3), number, np.uint8)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "edgereel encode"]


def test_the_next_frame_is_made_while_the_one_before_is_written(tmp_path):
    """The first frame is not written before the second was asked for: one after the other would never end."""
    asked = threading.Event()

    def frames():
        yield frame_of(0)
        asked.set()
        yield frame_of(1)

    def wait():
        assert asked.wait(SECONDS)

    sink = Recorder(wait)
    assert write_frames(tmp_path / "a", frames(), sink) == 2
    assert sink.seen == [0, 1]
    assert sink.finished
    assert not threads()


def test_frames_keep_their_order_and_their_values_where_the_memory_is_used_again(tmp_path):
    frame = frame_of(0)

    def frames():
        for number in range(100):
            frame[:] = number
            yield frame

    sink = Recorder()
    assert write_frames(tmp_path / "a", frames(), sink) == 100
    assert sink.seen == list(range(100))


@pytest.mark.parametrize("at", [0, 3, 19])
def test_an_error_of_the_encoder_is_the_writers(tmp_path, at):
    sink = Recorder(fails_at=at)
    with pytest.raises(OutputError, match="No space left on device"):
        write_frames(tmp_path / "a", map(frame_of, range(20)), sink)
    assert sink.closed
    assert not sink.finished
    assert list(Path(tmp_path).iterdir()) == []
    assert not threads()


def test_an_error_of_the_decoder_ends_the_encoder(tmp_path):
    def frames():
        yield frame_of(0)
        raise KeyboardInterrupt

    sink = Recorder()
    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path / "a", frames(), sink)
    assert sink.closed
    assert not threads()


def test_no_more_items_wait_than_there_is_room_for():
    go, began, most = threading.Event(), threading.Event(), 3
    done, handed = [], []

    def work(item):
        began.set()
        assert go.wait(SECONDS)
        done.append(item)

    def hand_over(behind):
        for item in range(10):
            behind.add(item)
            handed.append(item)

    with Behind(work, most) as behind:
        caller = threading.Thread(target=hand_over, args=(behind,))
        caller.start()
        assert began.wait(SECONDS)
        caller.join(0.3)
        assert len(handed) <= most + 1
        go.set()
        caller.join(SECONDS)
        behind.finish()
        assert done == handed == list(range(10))
