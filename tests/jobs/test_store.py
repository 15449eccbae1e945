"""The record: who may begin what, what a killed process leaves, and clocks that jump."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from conftest import helpers_environment

from edgereel.core.errors import OutputError, UsageError
from edgereel.jobs import store as store_module
from edgereel.jobs.job import MOST_STARTS, is_id
from edgereel.jobs.store import Idempotency, JobStore, KeyReused, QueueFull

pytestmark = pytest.mark.lean


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs.db")
    yield store
    store.close()


def add(store, prompt="a red ball", **options):
    return store.add("demo", {"prompt": prompt}, **options)[0]


def test_jobs_begin_in_the_order_they_came(store):
    jobs = [add(store, str(number)) for number in range(3)]
    assert [store.position(job.number) for job in jobs] == [0, 1, 2]
    assert [store.claim().id for _ in jobs] == [job.id for job in jobs]
    assert store.claim() is None


def test_ids_cannot_be_guessed_and_nothing_else_is_one(store):
    ids = {add(store).id for _ in range(20)}
    assert len(ids) == 20
    assert all(is_id(id) for id in ids)
    for text in ("video_../../etc", "video_" + "A" * 32, "video_" + "0" * 31, next(iter(ids)) + "\n", ""):
        assert not is_id(text)


def test_two_threads_never_begin_the_same_job(store):
    ids = {add(store).id for _ in range(60)}
    begun = []

    def work():
        while (job := store.claim()) is not None:
            begun.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun) == sorted(ids)


def test_another_process_sees_what_was_answered(store, tmp_path):
    """Read by another connection, as a server does that starts after this one was killed."""
    job = add(store)
    other = JobStore(tmp_path / "jobs.db")
    assert other.get(job.id).status == "queued"
    store.claim()
    assert other.get(job.id).status == "in_progress"
    other.close()


def test_nobody_else_reads_prompts(store, tmp_path):
    add(store)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_every_change_is_synchronised(store, tmp_path):
    """SQLite's own words: FULL is 2. With NORMAL a power cut takes answered changes."""
    assert store._database.execute("pragma synchronous").fetchone() == (2,)
    assert store._database.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_job_that_ended_does_not_end_again(store):
    job = add(store)
    store.claim()
    assert store.fail(job.id, "cancelled", "it was cancelled").status == "failed"
    assert store.complete(job.id, {}, 10) is None
    assert store.requeue(job.id) is None
    assert store.get(job.id).error_code == "cancelled"


def test_a_job_whose_worker_dies_begins_twice_more_and_no_oftener(store):
    job = add(store)
    for start in range(1, MOST_STARTS + 1):
        assert store.claim().starts == start
        ended = store.interrupted(job.id, "the worker was ended by signal 9")
        assert ended.status == ("queued" if start < MOST_STARTS else "failed")
    assert (ended.error_code, MOST_STARTS) == ("worker_died", 3)
    assert "signal 9" in ended.error_message
    assert store.claim() is None


def test_a_server_that_stops_in_order_costs_no_start(store):
    job = add(store)
    store.claim()
    assert store.requeue(job.id, uncounted=True).starts == 0


def test_the_queue_has_a_bound(store):
    for _ in range(3):
        add(store, most_waiting=3)
    with pytest.raises(QueueFull):
        add(store, most_waiting=3)
    store.claim()
    add(store, most_waiting=3)


def test_the_same_key_is_the_same_job(store):
    first, new = store.add("demo", {"prompt": "a"}, idempotency=Idempotency("k", "hash"))
    again, newer = store.add("demo", {"prompt": "a"}, idempotency=Idempotency("k", "hash"))
    assert (first.id, new, newer) == (again.id, True, False)
    assert store.find_key(Idempotency("k", "hash")).id == first.id
    with pytest.raises(KeyReused):
        store.add("demo", {"prompt": "b"}, idempotency=Idempotency("k", "other"))
    with pytest.raises(KeyReused):
        store.find_key(Idempotency("k", "other"))


def test_pages_follow_one_another(store):
    ids = [add(store).id for _ in range(5)]
    first, more = store.page(2)
    second, _ = store.page(2, first[-1].id)
    third, end = store.page(2, second[-1].id)
    assert [job.id for job in [*first, *second, *third]] == ids[::-1]
    assert (more, end) == (True, False)
    assert [job.id for job in store.page(10, ids[1], descending=False)[0]] == ids[2:]
    with pytest.raises(UsageError):
        store.page(2, "video_" + "0" * 32)


def test_ages_do_not_follow_the_clock(store, tmp_path, monkeypatch):
    """The system's clock goes back twenty years between two jobs, and the first to end is still the oldest."""
    first, second = add(store), add(store)
    store.complete(second.id, {}, 1)
    monkeypatch.setattr(time, "time", lambda: 500_000_000.0)
    store.complete(first.id, {}, 1)
    assert store.oldest().id == second.id
    before = store.tick()
    store.close()
    reopened = JobStore(tmp_path / "jobs.db")
    assert reopened.tick() >= before
    assert reopened.oldest().id == second.id
    reopened.close()


def test_a_full_disk_is_told_and_what_was_there_stays(store):
    """The database may not grow: what SQLite says of that is what it says of a full disk."""
    job = add(store)
    pages = store._database.execute("pragma page_count").fetchone()[0]
    store._database.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(store_module.StoreFull):
        add(store, "x" * 10**6)
    store._database.execute("pragma max_page_count = 1000000")
    assert store.get(job.id).status == "queued"
    add(store)


def test_a_later_release_is_not_touched(tmp_path):
    database = sqlite3.connect(tmp_path / "jobs.db")
    database.execute("pragma user_version = 99")
    database.commit()
    database.close()
    with pytest.raises(UsageError, match="later release"):
        JobStore(tmp_path / "jobs.db")


def test_what_is_no_database_is_told(tmp_path):
    (tmp_path / "jobs.db").write_bytes(b"not a database at all, " * 100)
    with pytest.raises(OutputError, match=r"jobs\.db"):
        JobStore(tmp_path / "jobs.db")


WRITER = """
import sys
from pathlib import Path
from edgereel.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
while True:
    job, _ = store.add("demo", {"prompt": "a"})
    print(job.id, flush=True)
    store.claim()
    store.complete(job.id, {"width": 64}, 1)
"""


def test_what_a_killed_process_answered_is_there(tmp_path):
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "jobs.db"],
            stdout=subprocess.PIPE,
            env=helpers_environment(),
            text=True,
        )
        answered = [writer.stdout.readline().strip() for _ in range(5 + os.getpid() % 3)]
        writer.kill()
        answered += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
        store = JobStore(tmp_path / "jobs.db")
        assert set(answered) <= store.ids()
        assert store._database.execute("pragma integrity_check").fetchone() == ("ok",)
        store.close()
