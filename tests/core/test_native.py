"""A program that ends while a daemon thread is in a native library ends cleanly: no abort, no core dump."""

from __future__ import annotations

import subprocess
import sys

from conftest import DEMO_REEL

PROGRAM = """
import sys, threading
import edgereel
reel = edgereel.load(sys.argv[1])
began = threading.Event()
def work():
    while True:
        reel.generate("a red ball bounces over the ocean", size=(32, 32), frames=5, steps=1)
        began.set()
thread = threading.Thread(target=work, daemon=True)
thread.start()
began.wait()
print("main ends", flush=True)
"""
STOPPED = """
import threading
from edgereel.core.native import native_call
stop, began, after = threading.Event(), threading.Event(), []
def work():
    with native_call(stop.set):
        began.set()
        stop.wait()
    print("the thread went on", flush=True)
threading.Thread(target=work, daemon=True).start()
began.wait()
"""


def test_a_daemon_thread_that_generates_does_not_end_the_program_with_an_abort():
    done = subprocess.run([sys.executable, "-c", PROGRAM, DEMO_REEL], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main ends\n", "")


def test_a_call_under_way_is_asked_to_stop_and_its_thread_does_not_go_on():
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
