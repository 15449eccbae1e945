"""The process that answers: what it imports, what it tells systemd, how it ends; and the parts that need no process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import helpers_environment
from helpers.served import Served, until

from edgereel.core.errors import UsageError
from edgereel.core.machine import usable_cores
from edgereel.jobs.files import VideosFolder
from edgereel.jobs.store import JobStore
from edgereel.server.bundles import name_bundles
from edgereel.server.configuration import Configuration, Limits, read_presets
from edgereel.server.events import Hub, told
from edgereel.server.supervisor.plan import plan_workers
from edgereel.server.supervisor.progress import JobProgress
from edgereel.server.supervisor.slot import Slot
from edgereel.server.supervisor.supervisor import Supervisor
from edgereel.server.supervisor.watch import check_workers, make_room

HEAVY = ("numpy", "onnxruntime", "onnx", "torch", "av", "tokenizers", "openvino", "tensorrt", "PIL", "edgereel.runtime")

IMPORTS = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None  # an import of it is an error from now on
import edgereel.server.serving, edgereel.cli.serve
from pathlib import Path
from edgereel.server.configuration import Configuration
from edgereel.server.application import make_application
from edgereel.server.serving import policy_of
policy_of(Configuration(Path("/nowhere"), policy="booth"))
import segno
"""


def test_the_process_that_answers_imports_neither_numpy_nor_an_engine():
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=helpers_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_running_process_has_loaded_none_of_it(server):
    """Told by the system: which libraries are mapped into it after it has answered."""
    for path in ("/", "/health", "/v1/models", "/v1/videos", "/openapi.json", "/metrics"):
        assert server.get(path).status == 200
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert not any(name in maps for name in ("numpy", "onnxruntime", "libav", "tokenizers"))
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    assert resident < 80 * 1024


@pytest.mark.full
def test_systemd_is_told(tmp_path, served_home):
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(60)
        environment = {**served_home, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"}
        served = Served(tmp_path / "data", "--log-json", environment=environment)
        heard = [listener.recv(100).decode() for _ in range(3)]
        with served.events() as events:  # an open stream does not hold the end up
            assert events is not None
            assert served.end() == 0
        while heard[-1] != "STOPPING=1":
            heard.append(listener.recv(100).decode())
    assert heard[0] == "READY=1"
    assert heard.count("WATCHDOG=1") >= 2
    assert all(json.loads(line)["level"] == "info" for line in served.lines)


@pytest.fixture
def supervisor(tmp_path):
    """A supervisor whose workers are stand-ins."""

    def make(**limits):
        (tmp_path / "videos").mkdir(exist_ok=True)
        configuration = Configuration(tmp_path, limits=Limits(**limits))
        store = JobStore(tmp_path / "jobs.db")
        stores.append(store)
        return Supervisor(configuration, store, VideosFolder(tmp_path / "videos"), Hub())

    stores = []
    yield make
    for store in stores:
        store.close()


class StandIn:
    """A worker's process that notes why it was ended."""

    def __init__(self, beat):
        self.last_beat, self.is_running, self.reason = beat, True, None
        self.started = time.monotonic() - 20

    def kill(self, reason):
        self.reason = reason


@pytest.mark.parametrize(
    ("limits", "slot", "beat", "reason"),
    [
        ({}, {"job": "a"}, 0, None),
        ({"beat_seconds": 5}, {"job": "a"}, -10, "no sign of life"),
        (
            {"stage_seconds": 5},
            {"job": "a", "stage": "denoise", "stage_since": -10},
            0,
            "the stage denoise made no progress",
        ),
        ({"stage_seconds": 5}, {"film": "a", "stage": "live", "stage_since": -10}, 0, "the stage live"),
        ({"stage_seconds": 5}, {"stage_since": -10, "ready": True}, 0, None),
        ({"start_seconds": 5, "stage_seconds": 1}, {}, 0, "had not opened its bundles after 5 s"),
        ({"start_seconds": 50, "stage_seconds": 1}, {"stage_since": -10}, 0, None),
        ({"worker_bytes": 2**30}, {"job": "a", "bytes": 2**31}, 0, "it held 2.00 GiB"),
        ({"worker_bytes": 2**32}, {"job": "a", "bytes": 2**31}, 0, None),
    ],
)
def test_workers_that_hang_or_grow_are_ended(supervisor, limits, slot, beat, reason):
    now = time.monotonic()
    owner = supervisor(**limits)
    process = StandIn(now + beat)
    facts = {**slot, "stage_since": now + slot.get("stage_since", 0)}
    owner.slots = [Slot(0, process=process, **{"ready": "job" in slot or "film" in slot, **facts})]
    check_workers(owner)
    assert (process.reason is None) == (reason is None)
    assert reason is None or reason in process.reason


def test_old_videos_go_and_young_ones_stay(supervisor):
    """Seconds of serving count: the clock on the wall may say what it likes."""
    owner = supervisor(keep_seconds=100, keep_bytes=None, free_bytes=0)
    store, jobs = owner.store, []
    for _ in range(2):
        jobs.append(store.add("demo", {"prompt": "a"})[0].id)
        owner.videos.of(jobs[-1]).folder.mkdir()
        store.complete(jobs[-1], {}, 10)
        store._ticks_before += 60
    assert asyncio.run(make_room(owner))
    assert store.ids() == {jobs[1]}
    assert [path.name for path in owner.videos.folder.iterdir()] == [jobs[1]]
    assert not asyncio.run(make_room(owner, needed=2**60))
    assert store.ids() == {jobs[1]}


def test_only_what_moves_is_progress():
    """A driver that is stuck in a step may still be told of, again and again."""
    slot = Slot(0)
    slot.move("denoise", 3)
    before = slot.stage_since
    slot.move("denoise", 3)
    assert slot.stage_since == before
    slot.move("denoise", 4)
    assert slot.stage_since > before


def test_percents_never_fall():
    progress = JobProgress()
    percents = []
    for stage, step, total in (
        ("open", 0, 1),
        ("text", 1, 1),
        ("denoise", 4, 4),
        ("tiles", 1, 2),
        ("decode", 9, 9),
        ("open", 0, 1),
    ):
        progress.move(stage, step, total)
        percents.append(progress.percent)
    assert percents == sorted(percents)
    assert percents[-1] < 100


def test_who_does_not_listen_loses_the_stream_and_nothing_else():
    async def scenario():
        hub = Hub()
        slow, quick = hub.subscribe(None), hub.subscribe("b")
        for number in range(1500):
            hub.publish("video", "a", {"number": number})
        hub.publish("video", "b", {"number": -1}, last=True)
        texts = [text async for text in told(quick)]
        assert len(texts) == 1
        heard = [text async for text in told(slow)]
        assert len(heard) == 1000
        assert hub.listeners == 1
        assert "-1\n" in heard[0]
        first = heard[0].splitlines()[0].removeprefix("id: ")
        missed = hub.missed(first, None)
        assert [event.number for event in missed] == list(range(2, 1502))
        assert hub.missed("another-5", None) is None
        assert hub.missed(first.partition("-")[0] + "-99999", None) is None

    asyncio.run(scenario())


def test_how_many_workers(tmp_path):
    def plan(devices, **options):
        return plan_workers(Configuration(tmp_path, **options), devices)

    nothing, two = tmp_path / "nothing", tmp_path / "two"
    two.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (two / name).touch()
    assert plan(two) == plan_workers(Configuration(tmp_path, workers=2), two)
    assert plan(two).gpus
    assert plan(two, engine="cpu").workers == min(2, usable_cores())
    large = tmp_path / "large.reel"
    large.mkdir()
    with (large / "denoiser.data").open("wb") as file:
        file.truncate(2**30)
    assert plan(nothing, bundles={"large": str(large)}).workers == 1
    assert plan(nothing, workers=1).threads is None


def test_names_of_bundles(tmp_path, monkeypatch):
    for name in ("my model.reel", "other.reel"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "reel.json").touch()
    assert name_bundles([]) == {"edgereel-demo": None}
    named = name_bundles(["demo", str(tmp_path / "my model.reel")])
    assert named == {"edgereel-demo": None, "my-model": str(tmp_path / "my model.reel")}
    monkeypatch.chdir(tmp_path)
    assert name_bundles(["other.reel"]) == {"other": str(tmp_path / "other.reel")}
    with pytest.raises(UsageError, match="two bundles"):
        name_bundles(["other.reel", "other.reel"])
    with pytest.raises(UsageError, match="no such bundle"):
        name_bundles(["nothing"])


def test_presets_of_the_operator(tmp_path):
    path = tmp_path / "presets.toml"
    path.write_text('[[preset]]\nname = "wide"\nlabel = "Breit"\nsize = "96x64"\nseconds = 2\n')
    assert read_presets(path) == ({"name": "wide", "label": "Breit", "size": "96x64", "seconds": 2},)
    for wrong in (
        "x",
        "[[preset]]\nlabel = 1\n",
        '[[preset]]\nname = "a"\nother = 1\n',
        'preset = "a"\n',
        "other = 1\n",
    ):
        path.write_text(wrong)
        with pytest.raises(UsageError, match="preset"):
            read_presets(path)


@pytest.mark.full
def test_a_stuck_worker_is_ended_and_its_job_made_by_the_next(tmp_path, served_home):
    """The worker is stopped in its middle (SIGSTOP), as a driver would that never comes back."""
    served = Served(tmp_path / "data", "--workers", "1", "--stage-timeout", "4", environment=served_home)
    try:
        video = served.create(num_frames=61, num_inference_steps=8)
        until(lambda: served.get(f"/v1/videos/{video['id']}").json()["stage"] in ("denoise", "decode"))
        (worker,) = served.workers()
        os.kill(worker, signal.SIGSTOP)
        assert served.wait(video["id"])["status"] == "completed"
        assert served.workers() != [worker]
        assert any("made no progress for 4 s" in line for line in served.lines)
    finally:
        served.end()


def test_one_thread_reads_events_while_others_come_and_go(server):
    """Twenty listeners hear the same end of the same job."""
    heard = []

    def listen():
        with server.events() as events:
            ready.release()
            for _, event, data in events:
                if event == "video" and data["status"] == "completed" and data["seed"] == 4242:
                    heard.append(data["id"])
                    return

    ready = threading.Semaphore(0)
    threads = [threading.Thread(target=listen) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    video = server.create(seed=4242, num_inference_steps=1)
    for thread in threads:
        thread.join()
    assert heard == [video["id"]] * 20
