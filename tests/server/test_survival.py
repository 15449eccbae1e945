"""What is killed comes back: workers, the server, both, at any moment; and what is full says so and goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from conftest import helpers_environment
from helpers.served import PROMPT, Served, frames_of, until
from helpers.small_disk import small_disk

from edgereel.core import files

# Too small for a watermark, which differs each time.
LONG = {"size": "64x64", "num_frames": 33, "num_inference_steps": 8, "seed": 5}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory, served_home):
    """A server with one worker, which these tests kill."""
    served = Served(
        tmp_path_factory.mktemp("mortal") / "data", "--workers", "1", "--keep-latents", environment=served_home
    )
    yield served
    served.kill()


def kill_workers(served):
    for number in served.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def begun(served, id, stage):
    """Wait until a job is in a stage, or past it."""
    return until(lambda: served.get(f"/v1/videos/{id}").json()["stage"] == stage)


def test_a_job_whose_worker_dies_is_made_all_the_same(mortal):
    whole = mortal.wait(mortal.create(**LONG)["id"])
    video = mortal.create(**LONG)
    begun(mortal, video["id"], "denoise")
    kill_workers(mortal)
    again = mortal.wait(video["id"])
    assert (again["status"], again["error"]) == ("completed", None)
    first, second = (mortal.get(f"/v1/videos/{each['id']}/content").body for each in (whole, again))
    assert first == second


@pytest.mark.full
def test_what_was_sampled_is_not_sampled_again(mortal):
    """Killed while it decodes: the latents that were on the disk are those of the finished clip, by their time."""
    video = mortal.create(**{**LONG, "num_frames": 61})
    begun(mortal, video["id"], "decode")
    latents = mortal.data / "videos" / video["id"] / "latents.safetensors"
    before = latents.stat().st_mtime_ns
    kill_workers(mortal)
    assert mortal.wait(video["id"])["status"] == "completed"
    assert latents.stat().st_mtime_ns == before


@pytest.mark.full
def test_a_job_that_kills_its_worker_fails_in_the_end_and_the_next_is_made(mortal):
    fatal, next_one = mortal.create(**{**LONG, "seed": 6}), mortal.create(num_inference_steps=1)
    for _ in range(3):
        until(lambda: mortal.get(f"/v1/videos/{fatal['id']}").json()["stage"] in ("denoise", "decode"))
        kill_workers(mortal)
        until(lambda: mortal.get(f"/v1/videos/{fatal['id']}").json()["stage"] not in ("denoise", "decode"))
    failed = mortal.wait(fatal["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "worker_died")
    assert "signal 9" in failed["error"]["message"]
    assert mortal.wait(next_one["id"])["status"] == "completed"


def test_a_killed_server_loses_nothing(mortal):
    videos = [mortal.create(num_inference_steps=steps, seed=steps)["id"] for steps in (8, 4, 2, 1)]
    mortal.wait(videos[0], "in_progress", "completed")
    mortal.kill()
    mortal.start()
    assert [mortal.wait(id)["status"] for id in videos] == ["completed"] * 4
    assert all(len(frames_of(mortal.get(f"/v1/videos/{id}/content").body)) == 17 for id in videos)


@pytest.mark.full
def test_a_stopped_server_puts_its_job_back(mortal):
    """SIGTERM: the job may finish in the time there is; nothing is counted against it."""
    video = mortal.create(**{**LONG, "seed": 9})
    mortal.wait(video["id"], "in_progress", "completed")
    assert mortal.end() == 0
    mortal.start()
    assert mortal.wait(video["id"])["status"] == "completed"


@pytest.mark.full
def test_files_of_no_job_and_half_written_ones_go(mortal):
    video = mortal.create(num_inference_steps=1)
    mortal.wait(video["id"])
    mortal.end()
    stranger = mortal.data / "videos" / ("video_" + "0" * 32)
    stranger.mkdir()
    # A process of this machine that runs no more: its number is above the largest there is.
    half = mortal.data / "videos" / video["id"] / f".edgereel-{files._place()}-4999999-{'0' * 16}.part"
    half.write_bytes(b"half")
    mortal.start()
    assert not stranger.exists()
    assert not half.exists()
    assert mortal.get(f"/v1/videos/{video['id']}/content").status == 200


def test_two_servers_do_not_share_a_folder(mortal, served_home):
    code = "from edgereel.server import run; run._LOCK_SECONDS = 0.1; from edgereel.server.configuration import Configuration\n"
    code += f"from pathlib import Path; run.serve(Configuration(Path({str(mortal.data)!r}), port=0))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**helpers_environment(), **served_home}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "another server" in done.stderr


@pytest.mark.full
def test_oldest_videos_go_first(tmp_path, served_home):
    served = Served(tmp_path / "data", "--keep-size", "60KiB", "--workers", "1", environment=served_home)
    try:
        ids = [served.create(num_inference_steps=1, seed=seed)["id"] for seed in range(5)]
        for id in ids:
            served.wait(id)
        last = served.create(num_inference_steps=1, seed=9)["id"]  # room is made as a job comes
        served.wait(last)
        kept = {video["id"] for video in served.get("/v1/videos").json()["data"]}
        assert last in kept
        assert 1 < len(kept) < 6
        assert kept == {*ids, last} - set(ids[: 6 - len(kept)])
        assert {path.name for path in (served.data / "videos").iterdir()} == kept
    finally:
        assert served.end() == 0


@pytest.mark.full
def test_a_full_disk_is_told_and_the_server_goes_on(tmp_path, served_home):
    data = tmp_path / "data"
    data.mkdir()
    options = ["--leave-free", "1MiB", "--workers", "1"]
    served = Served(data, *options, environment=served_home, before=small_disk(data, "1500k"))
    try:
        made = []
        while (answer := served.post("/v1/videos", {"prompt": PROMPT, "num_inference_steps": 1})).status == 200:
            made.append(served.wait(answer.json()["id"]))
            assert len(made) < 60
        assert (answer.status, answer.code) == (507, "disk_full")
        assert {video["status"] for video in made} == {"completed"}
        assert served.get("/ready").json()["reason"] == "the disk is full"
        for video in made:
            assert served.get(f"/v1/videos/{video['id']}/content").status == 200
            assert served.ask("DELETE", f"/v1/videos/{video['id']}").status == 200
        again = served.create(num_inference_steps=1)
        assert served.wait(again["id"])["status"] == "completed"
    finally:
        assert served.end() == 0


@pytest.mark.full
def test_two_hundred_rounds_of_kill_9(tmp_path, served_home):
    """Server, worker and both, at random moments, under load. No job that was accepted is lost, run twice to its end or corrupt."""
    generator = random.Random(1)
    served = Served(tmp_path / "data", "--queue", "100000", "--keep-size", "0", environment=served_home)
    accepted: list[str] = []
    whole: dict[str, int] = {}
    stop = threading.Event()

    def load(seed):
        own = random.Random(seed)
        while not stop.wait(own.uniform(0.05, 0.8)):
            with contextlib.suppress(OSError, ValueError, KeyError):
                answer = served.post("/v1/videos", {"prompt": PROMPT, "num_inference_steps": own.choice([1, 2, 4, 8])})
                if answer.status == 200:
                    accepted.append(answer.json()["id"])
                for video in served.get("/v1/videos?limit=50").json()["data"]:
                    if video["status"] == "completed":
                        path = served.data / "videos" / video["id"] / "video.mp4"
                        assert path.exists()
                        assert whole.setdefault(video["id"], path.stat().st_mtime_ns) == path.stat().st_mtime_ns

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for number in range(200):
        time.sleep(generator.uniform(0.05, 2.5))
        if number % 3 != 0:
            kill_workers(served)
        if number % 3 != 1:
            served.kill()
            served.start()
    stop.set()
    for thread in threads:
        thread.join()
    results = {id: served.wait(id) for id in accepted}
    lost = [id for id, video in results.items() if "status" not in video]
    failed = [video["error"] for video in results.values() if video["status"] == "failed"]
    for id, video in results.items():
        if video["status"] == "completed":
            assert len(frames_of(served.get(f"/v1/videos/{id}/content").body)) == 17
    for id, at in whole.items():
        assert (served.data / "videos" / id / "video.mp4").stat().st_mtime_ns == at
    print(f"accepted {len(accepted)}, completed {len(results) - len(failed)}, failed {len(failed)}, lost {len(lost)}")
    assert lost == []
    assert {error["code"] for error in failed} <= {"worker_died"}
    assert served.end() == 0
    database = sqlite3.connect(served.data / "jobs.db")
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
