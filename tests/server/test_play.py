"""A story played over HTTP, in processes as users start them: choices, films, refusals, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers.played import Played
from helpers.served import frames_of, until
from helpers.sockets import SocketClient
from helpers.story_files import write_story

from edgereel.runtime.batch import ReelOptions
from edgereel.story.film.film import FilmOptions, make_film

STORIES = ROOT / "examples" / "stories"


def folders():
    return {path.name for path in Path(tempfile.gettempdir()).glob("*edgereel-play-*")}


@pytest.fixture(scope="module")
def tale(tmp_path_factory, served_home):
    """The example, with a tune: played from a folder that may be changed."""
    folder = tmp_path_factory.mktemp("tale")
    shutil.copy(STORIES / "tune.wav", folder)
    text = (STORIES / "tale.yaml").read_text(encoding="utf-8")
    write_story(folder / "tale.yaml", text.replace("seed: 3", "seed: 3\nmusic: tune.wav"))
    before = folders()
    played = Played(folder / "tale.yaml", "--idle", "5", environment=served_home)
    player = played.player
    yield played
    with closing(Visitor(played.port)) as somebody:
        assert somebody.begin().hear("started")
        assert played.end(signal.SIGINT) == 0, "".join(played.lines)
    assert played.lines == []
    assert folders() == before, "it leaves nothing behind"
    assert not Path(f"/proc/{player}").exists()


class Visitor:
    """Somebody at the page, who looks at every picture at once."""

    def __init__(self, port, headers=None):
        self.socket = SocketClient(port, "/v1/play", headers)
        self.pictures = []

    def begin(self, *choices):
        self.socket.say(type="start", choices=list(choices))
        return self

    def hear(self, *kinds):
        """Return the next message of these kinds, None where it is over."""
        while True:
            message = self.socket.hear()
            if isinstance(message, bytes):
                self.pictures.append(message)
                self.socket.say(type="credit", pictures=1)
            elif message is None or message["type"] in kinds:
                return message

    def choose(self, choice):
        self.socket.say(type="choose", choice=choice)

    def close(self):
        self.socket.close()


@pytest.fixture
def visitor(tale):
    somebody = Visitor(tale.port)
    yield somebody
    somebody.close()


def test_through_choices_to_the_film(tale, visitor, served_home, tmp_path, monkeypatch):
    story = tale.get("/v1/play/story").json()
    assert (story["title"], story["has_sound"], story["idle_seconds"]) == ("Where the star went", True, 5)
    assert set(story["languages"]) >= {"en", "de"}
    visitor.begin()
    assert visitor.hear("started")["width"] == story["width"]
    assert visitor.hear("waits")
    visitor.choose(2)
    assert visitor.hear("way")["choices"] == [2]
    assert visitor.hear("waits")
    visitor.choose(1)
    assert visitor.hear("ends")["picture"] == len(visitor.pictures)
    visitor.socket.say(type="film")
    link = visitor.hear("film")["url"]
    film = tale.get(link)
    assert film.headers["content-type"] == "video/mp4"
    assert "Where%20the%20star%20went.mp4" in film.headers["content-disposition"]
    frames = frames_of(film.body)
    assert len(frames) == len(visitor.pictures)
    shown = frames_of(visitor.pictures[-1][4:])[0]
    assert np.abs(shown.astype(int) - frames[-1]).mean() < 4, "both are compressed, each in its way"
    made = tmp_path / "made.mp4"
    for name, value in served_home.items():
        monkeypatch.setenv(name, value)
    record = make_film(tale.story, made, FilmOptions(choices=(2, 1)), ReelOptions(threads=1))
    assert record["made"] == [], "what was shown is kept"
    assert made.read_bytes() == film.body, "what story make --choose 2,1 makes"
    visitor.close()
    until(lambda: tale.get(link).status == 404)


def test_what_is_heard(tale):
    sound = tale.get("/v1/play/sounds/1/0")
    assert (sound.status, sound.headers["content-type"]) == (200, "audio/wav")
    assert sound.body == (STORIES / "tune.wav").read_bytes()
    assert tale.get("/v1/play/sounds/1/0", Range="bytes=0-3").body == b"RIFF"
    for path in ("/v1/play/sounds/1/1", "/v1/play/sounds/7/0", "/v1/play/sounds/1/-1", "/v1/play/films/../tale.yaml"):
        assert tale.get(path).status == 404


def test_the_page_and_its_policy(tale):
    page = tale.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert b"/page/play/play.js" in page.body
    assert tale.get("/page/play/play.js").status == tale.get("/page/script/live.js").status == 200
    assert tale.get("/", Host="evil.example").status == 403
    assert tale.get("/v1/videos").status == 404


def test_pages_of_others_play_nothing(tale):
    with closing(SocketClient(tale.port, "/v1/play", {"Origin": "https://evil.example"})) as foreign:
        assert foreign.status == 403


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ({"type": "begin"}, "no_start"),
        ({"type": "start", "choices": "1"}, "no_start"),
        ({"type": "start", "choices": [1] * 1001}, "no_start"),
        ({"type": "start", "choices": [0]}, "bad_message"),
        ({"type": "start", "choices": ["1"]}, "bad_message"),
        ({"type": "start", "choices": [True]}, "bad_message"),
    ],
)
def test_what_is_no_beginning(tale, visitor, start, code):
    visitor.socket.say(**start)
    assert visitor.hear("refused")["code"] == code
    assert visitor.hear() is None


def test_what_is_refused_in_the_middle(visitor):
    visitor.begin()
    visitor.hear("waits")
    for message, code in [
        ({"type": "choose", "choice": 3}, "not_open"),
        ({"type": "choose", "choice": "1"}, "bad_message"),
        ({"type": "credit", "pictures": 10**9}, "bad_message"),
        ({"type": "film"}, "film_failed"),
        ({"type": "dance"}, "bad_message"),
    ]:
        visitor.socket.say(**message)
        assert visitor.hear("refused")["code"] == code, message
    visitor.socket.say_text("[1, 2")
    assert visitor.hear("refused")["code"] == "bad_message"
    visitor.choose(1)
    assert visitor.hear("way")["choices"] == [1]


def test_too_many_visitors(tale):
    def comes():
        with closing(Visitor(tale.port)) as late:
            return late.begin().hear("started", "refused")

    with ExitStack() as there:
        for _ in range(3):
            assert there.enter_context(closing(Visitor(tale.port))).begin().hear("waits")
        with closing(Visitor(tale.port)) as fourth:
            assert fourth.begin().hear("waits")
            assert comes()["code"] == "busy"
        until(lambda: comes()["type"] == "started")


def test_who_chooses_nothing_has_gone(visitor):
    visitor.begin()
    visitor.hear("waits")
    visitor.socket.say(type="here")
    assert visitor.hear("ended") == {"type": "ended", "reason": "idle"}
    assert visitor.hear() is None


def test_a_player_that_dies_is_told_in_a_line(served_home):
    before = folders()
    played = Played(STORIES / "tale.yaml", environment=served_home)
    os.kill(played.player, signal.SIGKILL)
    assert played.process.wait(60) == 1
    until(lambda: played.lines)
    assert played.lines == ["edgereel: the story has ended: the worker was ended by signal 9\n"]
    assert folders() == before


def test_a_story_with_something_wrong_is_refused(run, tmp_path):
    text = (STORIES / "tale.yaml").read_text(encoding="utf-8")
    assert "{star} rises" in text
    write_story(tmp_path / "tale.yaml", text.replace("{star} rises", "a purple elephant rises"))
    code, out, err = run("story", "play", tmp_path / "tale.yaml", "--port", "0")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "tale.yaml:33: scene 7 (up): the prompt has words" in err


def test_a_port_that_is_in_use(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run("story", "play", STORIES / "tale.yaml", "--port", port)
    assert (code, out) == (2, "")
    assert err == f"edgereel: cannot listen on 127.0.0.1:{port}: Address already in use: choose another --port\n"
