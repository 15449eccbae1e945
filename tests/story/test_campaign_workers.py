"""Campaigns on several workers: rows are made once each, whatever becomes of those who make them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from collections import Counter

import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story

from edgereel.core.errors import Cancelled, EngineError, MissingExtraError, UsageError
from edgereel.core.files import temporary_beside
from edgereel.core.machine import usable_cores
from edgereel.core.units import parse_bytes
from edgereel.runtime.batch import ReelOptions
from edgereel.runtime.reel import load
from edgereel.story.campaign.executor import OneProcess
from edgereel.story.campaign.ray_connection import check_loopback, is_loopback
from edgereel.story.campaign.row_job import RowJob
from edgereel.story.campaign.rows import campaign_rows, read_campaign
from edgereel.story.campaign.run import CampaignOptions, run_campaign
from edgereel.story.campaign.where import Where
from edgereel.story.campaign.worker import Opening
from edgereel.story.campaign.worker_pool import WorkerPool
from edgereel.story.campaign.worker_processes import ProcessWorkers

SHEET = """
prompt: a {colour} ball {motion}
pictures: 5
axes:
  colour: [red, blue, white]
  motion: [rises, falls]
"""
REEL = ReelOptions("cpu", 1, cache=False)


@pytest.fixture(scope="module")
def demo():
    with load(DEMO_REEL, "cpu", threads=1, cache=False) as reel:
        yield reel


@pytest.fixture(scope="module")
def jobs(demo, tmp_path_factory):
    path = write_story(tmp_path_factory.mktemp("rows") / "ads.yaml", SHEET)
    return [RowJob.of(row, ".mp4", None, None, False) for row in campaign_rows(read_campaign(path), demo)]


def opening(reel, **changes) -> Opening:
    facts = Opening(str(DEMO_REEL), reel.bundle.manifest.digest, reel.numerics(), "cpu", 1, None, False)
    return facts._replace(**changes)


def hashes(executor, jobs) -> dict[str, str]:
    """Return the hash of each row's file, by its name; each is told of once."""
    found = {}
    for result in executor.results(jobs, None):
        assert result.made is not None, result.error
        assert result.job.name not in found
        found[result.job.name] = hashlib.sha256(result.part.read_bytes()).hexdigest()
    return found


class KilledWorkers(ProcessWorkers):
    """Workers of which those are killed with SIGKILL, as they make a row, that `doomed` says."""

    def __init__(self, opening, doomed) -> None:
        super().__init__(opening)
        self.begun: list[str] = []
        self._doomed = doomed

    def make(self, place, job, part) -> None:
        super().make(place, job, part)
        self.begun.append(job.name)
        if self._doomed(job.name, self.begun.count(job.name)):
            os.kill(self._processes[place].pid, signal.SIGKILL)


def test_a_job_says_what_its_row_comes_to(demo, tmp_path):
    sheet = "prompt: a red ball {verb}\nfps: 23.976\naxes: {verb: [rises], seconds: [0.5], seed: ['7']}\n"
    (row,) = campaign_rows(read_campaign(write_story(tmp_path / "ads.yaml", sheet)), demo)
    again = RowJob.from_json(json.loads(json.dumps(RowJob.of(row, ".gif", None, None, True).to_json())))
    assert again.settings["seed"] == row.request.seed == 7
    assert again.settings["fps"] == 23.976
    assert (again.format, again.shown, again.private) == ("gif", row.size.shown, True)


def test_workers_that_are_killed_lose_no_row_and_make_none_twice(demo, jobs, tmp_path):
    """A row in which three of them die is failed, and the others are made all the same."""
    wanted = hashes(OneProcess(demo, tmp_path), jobs)
    poison, unlucky = jobs[1].name, jobs[3].name
    deaths = {unlucky: 1, poison: 3}
    workers = KilledWorkers(opening(demo), lambda name, begun: begun <= deaths.get(name, 0))
    found, failed = {}, {}
    for result in WorkerPool(workers, 2, tmp_path).results(jobs, None):
        name = result.job.name
        assert name not in found | failed
        if result.made is None:
            failed[name] = (result.tries, result.error)
        else:
            found[name] = (result.tries, hashlib.sha256(result.part.read_bytes()).hexdigest())
    assert found == {name: (1 + deaths.get(name, 0), digest) for name, digest in wanted.items() if name != poison}
    assert list(failed) == [poison]
    assert failed[poison][0] == 3
    assert "3 workers ended while they made it" in failed[poison][1]
    assert "signal 9" in failed[poison][1]
    assert Counter(workers.begun) == {job.name: {unlucky: 2, poison: 3}.get(job.name, 1) for job in jobs}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"digest": "0" * 64}, "another bundle than the campaign's"), ({"release": "0.0.1"}, "made with 0.0.1")],
)
def test_a_worker_with_another_bundle_or_release_makes_nothing(demo, jobs, tmp_path, changes, said):
    pool = WorkerPool(ProcessWorkers(opening(demo, **changes)), 1, tmp_path)
    with pytest.raises(EngineError, match=said):
        list(pool.results(jobs, None))


class WritingWorkers(ProcessWorkers):
    """Workers that are ended while each is in the middle of writing its row's file."""

    def close(self) -> None:
        for process in self._processes.values():
            name = temporary_beside(self.folder / "row.mp4").name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
            (self.folder / name).write_bytes(b"half a video")
        assert list(self.folder.iterdir())
        super().close()


def test_workers_that_are_ended_leave_nothing_half_written(demo, jobs, tmp_path):
    workers = WritingWorkers(opening(demo))
    workers.folder = tmp_path
    results = WorkerPool(workers, 1, tmp_path).results(jobs, None)
    assert next(results).part.is_file()
    results.close()
    assert not list(tmp_path.iterdir())


def test_a_campaign_on_two_workers_is_stopped_and_goes_on(tmp_path):
    path, folder = write_story(tmp_path / "ads.yaml", SHEET), tmp_path / "ads"
    options = CampaignOptions(bundle=DEMO_REEL, where=Where.choose("here", 2))
    with pytest.raises(Cancelled):
        run_campaign(path, folder, options, REEL, lambda stage, done, _: (stage, done) != ("rows", 2))
    assert len((folder / "manifest.jsonl").read_text().splitlines()) == 2
    assert len(list(folder.glob("*.mp4"))) == 2
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]
    record = run_campaign(path, folder, CampaignOptions(bundle=DEMO_REEL), REEL)
    assert (record["rows"], record["made"], record["made_now"]) == (6, 6, 4)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == sorted({line["name"] for line in lines})
    for line in lines:
        assert hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest() == line["sha256"]


@pytest.mark.parametrize(
    ("on", "workers", "said"),
    [
        ("there", None, "give here, ray or ray://HOST:PORT"),
        ("ray://", None, "give here, ray"),
        ("ray://host", None, "give here, ray"),
        ("ray://a b:1", None, "give here, ray"),
        ("http://host:1", None, "give here, ray"),
        ("here", 0, "choose from 1 to 256"),
        ("here", 257, "choose from 1 to 256"),
    ],
)
def test_places_that_are_none(on, workers, said):
    with pytest.raises(UsageError, match=said):
        Where.choose(on, workers)


def test_workers_on_one_machine_share_its_cores_and_memory():
    alone = ReelOptions("cpu", None, "8GiB")
    assert Where.choose("here", None).share(alone) == alone
    for place in ("here", "ray"):
        shared = Where.choose(place, 4).share(alone)
        assert (shared.threads, parse_bytes(shared.memory)) == (max(1, usable_cores() // 4), 2 * 2**30)
        assert Where.choose(place, 2).share(alone._replace(threads=3)).threads == 3
    elsewhere = Where.choose("ray://host:10001", 4).share(alone)
    assert (elsewhere.threads, elsewhere.memory) == (1, "8GiB")


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.2", False),
        ("::ffff:192.0.2.2", False),
        ("fe80::1%eth0", False),
    ],
)
def test_addresses_that_other_machines_reach(address, wanted):
    assert is_loopback(address) == wanted


def test_without_ray_the_command_that_brings_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    path = write_story(tmp_path / "ads.yaml", SHEET)
    options = CampaignOptions(bundle=DEMO_REEL, where=Where.choose("ray", None))
    with pytest.raises(MissingExtraError, match=r'pip install "edgereel\[ray\]"'):
        run_campaign(path, tmp_path / "ads", options, REEL)


def test_what_listens_for_other_machines_is_found():
    pytest.importorskip("psutil")
    with socket.socket() as near, socket.socket() as open_to_all:
        near.bind(("127.0.0.1", 0))
        near.listen()
        check_loopback()
        open_to_all.bind(("0.0.0.0", 0))
        check_loopback()  # it does not listen yet
        open_to_all.listen()
        port = open_to_all.getsockname()[1]
        with pytest.raises(EngineError, match=rf"listens on 0\.0\.0\.0:{port}, where other machines reach it"):
            check_loopback()
