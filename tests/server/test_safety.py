"""What must not work, and does not: other names, other sites, guesses, floods, paths, links; and what has a bound."""

from __future__ import annotations

import json
import os
import socket

import pytest
from helpers.served import PROMPT, Served, until

from edgereel.core.errors import UsageError
from edgereel.server.configuration import Configuration, is_loopback, read_pin, read_secret
from edgereel.server.safety.tokens import Tries, is_session, new_session

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"content-type": "application/json"}
ASKED = json.dumps({"prompt": PROMPT}).encode()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, served_home):
    """A server that wants a token, and has a PIN; its models are never asked for."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "pin").write_text("2580")
    options = [
        "--host",
        "0.0.0.0",
        "--share",
        "--token-file",
        folder / "token",
        "--pin-file",
        folder / "pin",
        "--allow-origin",
        "https://friend.example",
    ]
    served = Served(folder / "data", *map(str, options), environment=served_home)
    yield served
    assert served.end() == 0


def raw(port, content, *, seconds=30.0, half=False):
    """Send bytes as they are, and return what comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(content)
        if half:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
        return found


def test_other_machines_need_a_token(tmp_path):
    for host in ("0.0.0.0", "192.168.0.7", "::", "kiosk.example"):
        with pytest.raises(UsageError, match="token-file"):
            Configuration(tmp_path, host=host)
        assert Configuration(tmp_path, host=host, token=TOKEN).token == TOKEN
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"))


def test_the_command_refuses_to_listen_for_others(run, tmp_path):
    code, out, err = run("serve", "--host", "0.0.0.0", "--data", tmp_path / "data")
    assert (code, out) == (2, "")
    assert "--token-file" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("content", ["", "short", "with a space in it, long", "x" * 5000, "ä" * 20])
def test_tokens_that_are_none(tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="token"):
        read_secret(tmp_path / "token", "token")
    with pytest.raises(UsageError):
        read_pin(tmp_path / "token")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "a b",
        "127.0.0.1:99999999",
        "[::1",
    ],
)
def test_other_names_are_refused(server, host):
    """A page on evil.example, whose name leads here, reads nothing."""
    answer = raw(server.port, f"GET /v1/videos HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"400", b"403"), answer
    assert b'"data"' not in answer


def test_our_own_names_are_taken(server):
    for host in ("localhost", f"localhost:{server.port}", f"127.0.0.1:{server.port}", "[::1]", "127.0.0.2"):
        assert server.get("/health", Host=host).status == 200


def test_pages_of_other_sites_change_nothing(server):
    before = server.get("/v1/videos?limit=1").json()["first_id"]
    own = f"http://127.0.0.1:{server.port}"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": own.replace("http", "ftp")},
        {"Origin": f"{own}0"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        for kind, body in (("application/json", ASKED), ("application/x-www-form-urlencoded", b"prompt=a")):
            answer = server.ask("POST", "/v1/videos", body, {"content-type": kind, **headers})
            assert (answer.status, answer.code) == (403, "foreign_origin")
        assert server.ask("DELETE", "/v1/videos/video_" + "0" * 32, None, headers).status == 403
    assert server.get("/v1/videos?limit=1").json()["first_id"] == before
    allowed = server.ask("POST", "/v1/videos", b"{}", {**JSON, "Origin": own, "Sec-Fetch-Site": "same-origin"})
    assert allowed.status == 400  # it came through, and its prompt is missing


def test_text_that_a_form_could_send_is_not_read_as_json(server):
    """`text/plain` crosses sites without being asked about."""
    assert server.ask("POST", "/v1/videos", ASKED, {"content-type": "text/plain"}).status == 415
    assert server.ask("POST", "/v1/videos", ASKED).status == 415


def test_answers_have_their_headers(server):
    page, data = server.get("/"), server.get("/v1/videos")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert data.headers["content-security-policy"].startswith("default-src 'none'")
    for answer in (page, data, server.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


def test_without_the_token_nothing_is_told(guarded):
    for path in ("/v1/videos", "/v1/models", "/v1/events", "/v1/settings", "/metrics", "/v1/videos/video_" + "0" * 32):
        assert guarded.get(path).status == 401, path
        assert guarded.get(path, Cookie="edgereel_session=x.y").status == 401
    for path in ("/health", "/", "/openapi.json"):
        assert guarded.get(path).status == 200
    assert guarded.ask("GET", "/v1/videos", headers=BEARER).status == 200


def test_guessing_is_slow(tmp_path_factory, guarded):
    """The eleventh guess within a minute is not looked at; other addresses and sessions go on."""
    session = guarded.post("/v1/session", {"token": TOKEN}).headers["set-cookie"]
    assert "HttpOnly" in session
    assert "samesite=strict" in session.lower()
    cookie = session.partition(";")[0]
    statuses = [guarded.get("/v1/videos", Authorization=f"Bearer guess-{n}").status for n in range(30)]
    assert statuses[:10] == [401] * 10
    assert set(statuses[10:]) == {429}
    assert guarded.post("/v1/session", {"token": TOKEN}).status == 429
    assert guarded.get("/v1/videos", Cookie=cookie).status == 200
    assert guarded.get("/v1/videos", Cookie=cookie + "0").status == 429
    assert TOKEN not in "".join(guarded.lines)


def test_guesses_are_counted_by_address():
    tries = Tries(most=2, window=60)
    tries.note("a")
    tries.note("a")
    assert tries.wait("a") > 0
    assert tries.wait("b") == 0


def test_sessions_are_made_with_the_token():
    session = new_session(TOKEN)
    assert is_session(session, TOKEN)
    assert not is_session(session, TOKEN + "x")
    assert not is_session(session.replace(".", "a."), TOKEN)
    assert not is_session("", TOKEN)
    assert new_session(TOKEN) != session


def test_the_pin(guarded):
    guarded_post = lambda pin: guarded.post("/v1/settings/unlock", {"pin": pin}, Cookie=cookie)  # noqa: E731
    cookie = f"edgereel_session={new_session(TOKEN)}"
    assert guarded_post("2580").json() == {"ok": True}
    assert [guarded_post("1111").status for _ in range(6)] == [403] * 5 + [429]
    assert guarded_post("2580").code == "too_many_tries"
    assert guarded_post(2580).status == 400


def test_a_clip_to_take_along(guarded, server):
    """Whoever has the link needs no token, and has the one clip and nothing else."""
    asked = {"Cookie": f"edgereel_session={new_session(TOKEN)}"}
    body = json.dumps({"prompt": PROMPT, "num_inference_steps": 1}).encode()
    id = guarded.ask("POST", "/v1/videos", body, {**JSON, **asked}).json()["id"]
    path = f"/v1/videos/{id}"
    until(lambda: guarded.get(path, **asked).json()["status"] == "completed")
    shared = guarded.get(f"{path}/share", **asked).json()
    assert shared["qr_svg"].startswith("<svg")
    address, _, short = shared["url"].partition("/s/")
    assert address.endswith(f":{guarded.port}")
    page = guarded.get(f"/s/{short}")
    assert (page.status, f"/s/{short}/video.mp4" in page.body.decode()) == (200, True)
    clip = guarded.get(f"/s/{short}/video.mp4")
    assert clip.body == guarded.get(f"{path}/content", **asked).body
    for wrong in (f"/s/{short[:-1]}", f"/s/{short}/video.mp4/..", "/s/", path):
        assert guarded.get(wrong).status in (401, 404, 429), wrong
    guarded.ask("DELETE", path, headers=asked)
    assert guarded.get(f"/s/{short}").status == 404
    own = server.wait(server.create(num_inference_steps=1)["id"])["id"]
    assert server.get(f"/v1/videos/{own}/share").code == "sharing_off"


def test_a_site_that_is_allowed(guarded):
    friend = {"Origin": "https://friend.example", **BEARER}
    cookie = {"Cookie": f"edgereel_session={new_session(TOKEN)}"}
    answer = guarded.ask("GET", "/v1/videos", headers={**friend, **cookie})
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    asked = guarded.ask("OPTIONS", "/v1/videos", headers={"Origin": "https://friend.example"})
    assert (asked.status, "POST" in asked.headers["access-control-allow-methods"]) == (204, True)
    assert guarded.ask("OPTIONS", "/v1/videos", headers={"Origin": "https://evil.example", **cookie}).status == 405


def test_bodies_have_a_bound(server):
    large = b'{"prompt": "' + b"a" * 10**5 + b'"}'
    assert server.ask("POST", "/v1/videos/video_" + "0" * 32 + "/remix", large, JSON).status == 413
    field = server.form("/v1/videos", {"prompt": "a" * 10**5})
    assert (field.status, field.code) == (400, "bad_form")
    assert server.form("/v1/videos", {f"f{n}": "x" for n in range(100)}).status == 400
    two = server.form("/v1/videos", {"prompt": PROMPT}, ("other", "a.png", b"x"))
    assert (two.status, two.json()["error"]["param"]) == (400, "other")
    head = f"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {10**12}\r\n\r\n"
    assert b" 413 " in raw(server.port, head.encode() + b"{", half=True)
    endless = b"POST /v1/videos/x/remix HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    endless += b"Transfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in raw(server.port, endless + b"20000\r\n" + b" " * 0x20000 + b"\r\n", half=True)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'{"prompt": NaN}', b"[" * 50000, b'{"prompt": "a"', b"\xff\xfe", b'{"prompt": {"a": 1}}'],
)
def test_what_is_no_json_is_refused(server, body):
    answer = server.ask("POST", "/v1/videos", body, JSON)
    assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_forms_that_are_none(server):
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n", b"\0" * 100):
        assert server.ask("POST", "/v1/videos", body, kind).status == 400
    assert server.ask("POST", "/v1/videos", b"a", {"content-type": "multipart/form-data"}).status == 400
    twice = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n' * 2 + b"--x--\r\n"
    assert server.ask("POST", "/v1/videos", twice, kind).status == 400


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/videos HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/videos HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /v1/videos HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    ],
)
def test_heads_that_are_none_end_the_connection(server, request_line):
    answer = raw(server.port, request_line, half=True)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b""), answer[:100]


def test_paths_lead_nowhere_else(server):
    video = server.wait(server.create(num_inference_steps=1)["id"])["id"]
    for path in (
        "/page/../configuration.py",
        "/page/%2e%2e/configuration.py",
        "/page/..%2fconfiguration.py",
        "/page//etc/passwd",
        "/page/index.html%00.js",
        "/v1/videos/..%2f..%2fjobs.db/content",
        f"/v1/videos/{video}%2f../content",
        f"/v1/videos/{video}/content?variant=../record.json",
        f"/v1/videos/{video}/content?variant=latents",
        f"/v1/videos/{video.upper()}/content",
    ):
        assert server.get(path).status in (400, 404), path


def test_links_in_the_data_folder_are_not_followed(server, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"nobody's business")
    video = server.wait(server.create(num_inference_steps=1)["id"])["id"]
    path = server.data / "videos" / video / "video.mp4"
    path.rename(path.with_name("kept"))
    for link in (path.symlink_to, lambda target: os.link(target, path)):
        link(secret)
        answer = server.get(f"/v1/videos/{video}/content")
        assert (answer.status, answer.code) == (404, "file_gone")
        path.unlink()
    path.with_name("kept").rename(path)
    assert server.get(f"/v1/videos/{video}/content").status == 200


def test_prompts_are_not_logged(server):
    server.wait(server.create(seed=1, num_inference_steps=1)["id"])
    server.post("/v1/videos", {"prompt": "a red zebra"})
    assert not any("ball" in line or "zebra" in line for line in server.lines)


def test_many_connections_that_say_nothing_do_not_shut_others_out(server):
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        for connection in held:
            connection.sendall(b"GET /health HT")
        assert server.get("/health").status == 200
        # They are let go of, too: the ten seconds of a head are over for all of them at once.
        held[0].settimeout(60)
        assert held[0].recv(1000) == b""
    finally:
        for connection in held:
            connection.close()


def test_too_many_listeners_are_told(server):
    held = []
    try:
        for _ in range(64):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in connection.recv(200)
            held.append(connection)
        assert server.get("/v1/events").status == 503
    finally:
        for connection in held:
            connection.close()
    until(lambda: raw_status(server) == 200)


def raw_status(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return int(connection.recv(200).split(b" ", 2)[1])
