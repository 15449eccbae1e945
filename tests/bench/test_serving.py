"""Load on servers: what is timed of one of ours, of one that tells no events, and what is refused."""

from __future__ import annotations

import json
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.causal_bundle import write_causal_bundle
from helpers.served import home

from edgereel.bench.load.serving.client import ServerError, VideoClient
from edgereel.bench.load.serving.figures import Times
from edgereel.bench.load.serving.load import Offer
from edgereel.bench.load.serving.run import run_serve

pytest.importorskip("starlette")

SECONDS = 0.15
"""What the shop takes for a job."""


class Shop(BaseHTTPRequestHandler):
    """A server of OpenAI's shape and no more: no events, no cancel, no figures of itself; one job at a time, in order."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.jobs, self.seconds = self.server.jobs, self.server.seconds

    def answer(self, status, data, kind="application/json"):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def shown(self, id):
        begun, now = self.jobs[id], time.monotonic()
        if "refused" in id:
            return {"id": id, "status": "failed", "error": {"code": "moderation_blocked", "message": "no"}}
        status = "queued" if now < begun else "in_progress" if now < begun + self.seconds else "completed"
        return {"id": id, "object": "video", "status": status, "seconds": "4", "size": "720x1280"}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/videos":
            return self.answer(404, {"error": {"message": "no such path"}})
        assert self.headers["Content-Type"].startswith("multipart/form-data")
        with self.server.lock:
            begin = max([time.monotonic() + 0.1, *(at + self.seconds for at in self.jobs.values())])
            id = f"video_{len(self.jobs)}" + ("_refused" if b"gun" in body else "")
            self.jobs[id] = begin
        self.answer(200, self.shown(id))

    def do_DELETE(self):
        with self.server.lock:
            id = self.path.rpartition("/")[2]
            now = time.monotonic()
            later = [other for other, at in self.jobs.items() if at > now]
            self.jobs[id] = now - 10
            for place, other in enumerate(later):
                self.jobs[other] = now + 0.05 + place * self.seconds
        self.answer(200, {"id": id, "deleted": True})

    def do_GET(self):
        parts = self.path.split("/")
        if self.path.startswith("/v1/videos/") and parts[3] in self.jobs:
            if parts[-1] == "content":
                return self.answer(200, b"film", "video/mp4")
            return self.answer(200, self.shown(parts[3]))
        self.answer(404, {"detail": "Not Found"})

    def log_message(self, *_):
        pass


@pytest.fixture
def shop():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.jobs, server.lock, server.seconds = {}, threading.Lock(), SECONDS
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_of_ours_from_start_to_end(run, tmp_path, monkeypatch):
    """Clips are tiny, so that what is measured here is the server."""
    for name, value in home(tmp_path).items():
        monkeypatch.setenv(name, value)
    small = write_causal_bundle(tmp_path / "small.reel")
    (tmp_path / "prompts.txt").write_text("a red ball\nthe green square slides\n")
    code, out, err = run(
        "bench", "serve", "--bundle", small, "--engine", "cpu", "--workers", "1", "--threads", "1", "--jobs", "12",
        "--clients", "3", "--bare", "3", "--data", tmp_path / "data", "--prompts", tmp_path / "prompts.txt", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["asked"], found["completed"], found["failures"]) == (12, 12, {})
    assert found["complete_streams"] == 12, "an event for each state"
    assert found["throughput"] == pytest.approx(12 / found["seconds"])
    pictures, video = found["pictures_per_second"], found["seconds_per_video_second"]
    assert pictures * video == pytest.approx(4), "the bundle's pictures a second of video"
    assert found["post"]["runs"] == found["total"]["runs"] == found["queue_wait"]["runs"] == 12
    assert found["post"]["longest"] <= found["total"]["longest"] < found["seconds"]
    assert 0 < found["start_seconds"] < found["first_clip_seconds"]
    assert 10**7 < found["idle_bytes"] <= found["peak_bytes"] * 1.01
    assert found["beside_bare"] == pytest.approx(found["throughput"] / found["bare"])
    assert len(list((tmp_path / "data" / "videos").glob("*/video.mp4"))) == 13


def test_one_that_tells_no_events_is_asked(shop):
    prompts = ["a red ball", "a gun"]
    found = run_serve(shop.url, Offer(prompts, 6, clients=3))
    assert not found.by_events
    assert (found.completed, found.failures) == (3, {"moderation_blocked": 3})
    assert found.pictures_per_second is None, "it does not say how many there are"
    assert "num_frames" in found.notes[0]
    assert found.queue_wait is not None
    assert found.total is not None
    assert found.total.longest > SECONDS
    assert found.bytes == 3 * len(b"film")
    assert found.first_preview is None
    assert found.memory_trend is None


def test_cancelling_where_only_delete_is_known(shop):
    shop.seconds = 3.0
    found = run_serve(shop.url, Offer(["a red ball"], 1, clients=1), cancels=2)
    assert found.cancel is not None
    assert found.cancel.runs == 2
    assert found.freed is not None
    assert 1 <= found.freed.runs <= 2, "the next began in its place"


def test_jobs_that_come_wait_for_nobody(shop):
    """The same seed draws the same times, and a slow server holds none of them up."""
    found = run_serve(shop.url, Offer(["a red ball"], 10, clients=None, rate=50, seed=3))
    assert found.completed == 10
    assert found.total is not None
    assert found.total.longest > 10 * SECONDS * 0.9, "all came at once, and were made one after the other"
    assert "seed 3" in found.offered


def test_the_times_are_those_of_the_samples():
    samples = [float(value) for value in range(1, 701)]
    found = Times.of(samples)
    assert found is not None
    assert found.median == statistics.median(samples)
    assert found.p99 is not None
    assert statistics.quantiles(samples, n=100)[98] <= found.p99 <= 700
    few = Times.of(samples[:20])
    assert few is not None
    assert (few.p90, few.p99, few.longest) == (None, None, 20)
    assert Times.of([]) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--clients", "2", "--rate", "1"], "not both"),
        (["http://127.0.0.1:1", "--workers", "2"], "--workers"),
        (["ftp://127.0.0.1"], "no address"),
        (["http://127.0.0.1:99999"], "no address"),
        (["--clients", "1000"], "1 to 128"),
        (["--rate", "0"], "0.001"),
        (["--bare", "1", "--bundle", "a.reel", "--bundle", "b.reel"], "one"),
    ],
)
def test_what_cannot_be_offered(run, arguments, says):
    code, out, err = run("bench", "serve", *arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_nobody_answers(run):
    code, out, err = run("bench", "serve", "http://127.0.0.1:9", "--jobs", "1", "--clients", "1", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["failures"] == {"no_answer": 1}
    with VideoClient("http://127.0.0.1:9") as client, pytest.raises(ServerError, match="no answer"):
        client.video("x")
