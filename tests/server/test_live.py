"""Films without end over a WebSocket, of a small causal bundle; and marks, links and policies over HTTP."""

from __future__ import annotations

import json
import struct
import time

import numpy as np
import pytest
from helpers.causal_bundle import write_causal_bundle
from helpers.served import PROMPT, Served, frames_of, until
from helpers.sockets import SocketClient

import edgereel
from edgereel.runtime.video.jpeg import jpeg_bytes

BALL, SQUARE = "a red ball", "the green square slides"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_causal_bundle(tmp_path_factory.mktemp("causal") / "causal.reel")


@pytest.fixture(scope="module")
def live(bundle, words_reel, tmp_path_factory, served_home):
    options = [
        "--bundle",
        str(bundle),
        "--bundle",
        str(words_reel),
        "--workers",
        "1",
        "--policy",
        "booth",
        "--mark",
        "none",
    ]
    served = Served(tmp_path_factory.mktemp("live") / "data", *options, environment=served_home)
    until(lambda: served.get("/ready").status == 200)
    yield served
    assert served.end() == 0


@pytest.fixture
def film(live):
    """A socket to a server whose worker is idle."""
    until(lambda: "edgereel_workers_ready 1" in live.get("/metrics").body.decode())
    client = SocketClient(live.port, "/v1/live")
    yield client
    client.close()
    time.sleep(0.1)


def begin(film, **settings):
    """Start a film, again while the worker is with the one before; return what the server says."""
    film.say(type="start", prompt=BALL, **settings)
    return film.hear()


def picture(message):
    number = struct.unpack(">I", message[:4])[0]
    (shown,) = frames_of(message[4:])
    return number, shown


def test_a_film_is_the_one_that_the_library_shows(film, bundle):
    said = begin(film, seed=7)
    assert (said["type"], said["width"], said["height"], said["fps"]) == ("started", 8, 6, 4)
    shown = [picture(film.hear()) for _ in range(16)]
    assert [number for number, _ in shown] == list(range(16))
    with edgereel.load(bundle, threads=1) as reel, reel.stream(BALL, seed=7) as stream:
        expected = [next(stream) for _ in range(16)]
    encoded = [frames_of(jpeg_bytes(each))[0] for each in expected]
    assert all(np.array_equal(one, other) for (_, one), other in zip(shown, encoded, strict=True))
    film.say(type="stop")
    assert film.hear() == {"type": "ended", "reason": "stopped", "pictures": 16}
    assert film.hear() is None


def test_no_more_is_sent_than_there_is_credit_for(film, live):
    begin(film)
    for _ in range(16):
        film.hear()
    time.sleep(0.3)
    film.say(type="credit", pictures=3)
    assert [picture(film.hear())[0] for _ in range(3)] == [16, 17, 18]
    film.say(type="stop")
    assert film.hear() == {"type": "ended", "reason": "stopped", "pictures": 19}


def test_another_prompt_in_the_middle(film):
    begin(film)
    film.say(type="prompt", prompt=SQUARE)
    film.say(type="credit", pictures=100)
    said = None
    for _ in range(100):
        message = film.hear()
        if isinstance(message, dict):
            said = message
            break
    assert said["prompt"] == SQUARE
    assert picture(film.hear())[0] == said["from_picture"]


def test_words_that_are_refused_change_nothing(film):
    begin(film)
    for prompt, code in (("a zebra", "invalid_prompt"), ("", "invalid_value"), (7, "invalid_value")):
        film.say(type="prompt", prompt=prompt)
        message = film.hear()
        while not isinstance(message, dict):
            message = film.hear()
        assert (message["type"], message["code"]) == ("refused", code)
    for text in (
        "[]",
        "{",
        '{"type": "dance"}',
        '{"type": "credit", "pictures": -1}',
        '{"type": "credit", "pictures": true}',
    ):
        film.say_text(text)
        message = film.hear()
        while not isinstance(message, dict):
            message = film.hear()
        assert message["code"] == "bad_message"


def test_a_second_film_is_refused_while_there_is_one(film, live):
    begin(film)
    second = SocketClient(live.port, "/v1/live")
    assert begin(second)["code"] == "busy"
    assert second.hear() is None
    second.close()


def test_who_goes_away_frees_the_worker(live):
    client = SocketClient(live.port, "/v1/live")
    until(lambda: begun(client))
    client.close()
    video = live.create(BALL, model="causal")
    assert live.wait(video["id"])["status"] == "completed"


def begun(client):
    client.say(type="start", prompt=BALL)
    return client.hear()["type"] == "started"


def test_what_no_film_begins_with(live):
    for start in ({"type": "start"}, {"type": "start", "prompt": BALL, "colour": 1}, {"type": "stop"}):
        client = SocketClient(live.port, "/v1/live")
        client.say(**start)
        assert client.hear()["type"] == "refused"
        assert client.hear() is None
        client.close()
    clips = SocketClient(live.port, "/v1/live")
    clips.say(type="start", prompt=PROMPT, model="words")
    assert clips.hear()["code"] == "no_live"
    clips.close()


def test_a_picture_that_cannot_be_read_is_the_fault_of_that_field(bundle, tmp_path, served_home):
    """Of a model that takes pictures; what is wrong is said without the server's own name for the file."""
    served = Served(tmp_path / "data", "--bundle", str(bundle), environment=served_home)
    until(lambda: served.get("/ready").status == 200)
    broken = ("input_reference", "a.jpg", jpeg_bytes(np.zeros((8, 8, 3), np.uint8))[:-9])
    answer = served.form("/v1/videos", {"prompt": BALL}, broken)
    assert served.end() == 0
    assert (answer.status, answer.json()["error"]["param"]) == (400, "input_reference")
    assert answer.json()["error"]["message"].startswith("the picture ")


def test_floods_and_large_messages_end_the_film(live):
    large = SocketClient(live.port, "/v1/live")
    large.say_text(json.dumps({"type": "start", "prompt": "a" * 10**5}))
    assert large.hear() is None
    large.close()
    flood = SocketClient(live.port, "/v1/live")
    until(lambda: begun(flood))
    for _ in range(250):
        flood.say(type="credit", pictures=0)
    codes = []
    while (message := flood.hear()) is not None:
        codes += [message.get("code")] if isinstance(message, dict) else []
    assert "too_many" in codes
    flood.close()
    until(lambda: live.get("/health").status == 200)


def test_sockets_of_other_sites_are_refused(live):
    foreign = SocketClient(live.port, "/v1/live", {"Origin": "https://evil.example"})
    foreign.close()
    assert foreign.status == 403
    own = SocketClient(live.port, "/v1/live", {"Origin": f"http://127.0.0.1:{live.port}"})
    assert own.status == 101
    own.close()


@pytest.mark.full
def test_one_worker_serves_several_models(live):
    videos = [live.create(BALL, model="causal"), live.create(PROMPT, model="words", num_inference_steps=1)]
    assert [live.wait(video["id"])["status"] for video in videos] == ["completed"] * 2
    models = live.get("/v1/models").json()["data"]
    assert [(model["id"], model["edgereel"]["live"]) for model in models] == [
        ("causal", True),
        ("words", False),
    ]


def test_what_the_policy_refuses_is_not_made(live):
    answer = live.post("/v1/videos", {"prompt": "a naked ball"})
    assert (answer.status, answer.code) == (400, "prompt_refused")
    client = SocketClient(live.port, "/v1/live")
    client.say(type="start", prompt="a naked ball")
    assert client.hear()["code"] == "prompt_refused"
    client.close()


def test_a_file_is_looked_at_by_another_process(live):
    video = live.wait(live.create(PROMPT, model="words", num_inference_steps=1)["id"])
    clip = live.get(f"/v1/videos/{video['id']}/content").body
    report = live.form("/v1/verify", {}, ("file", "clip.mp4", clip)).json()
    assert report["generated"] is True
    assert report["signature"]["state"]
    assert not any("edgereel-" in str(value) for value in report.values() if isinstance(value, str))
    nothing = live.form("/v1/verify", {}, ("file", "clip.mp4", b"not a clip"))
    assert (nothing.status, nothing.json()["error"]["param"]) == (400, "file")
    assert live.form("/v1/verify", {"a": "b"}).status == 400
    assert not [path for path in (live.data / "videos").iterdir() if path.name.startswith(".")]
