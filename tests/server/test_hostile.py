"""Sixty inputs that mean harm, against a real server: a typed refusal, bounded memory, jobs unharmed."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import pytest
from helpers.causal_bundle import write_causal_bundle
from helpers.served import PROMPT, Served, frames_of, multipart, until

pytest.importorskip("starlette")

ID = "video_" + "0" * 32
ASK = json.dumps({"prompt": PROMPT}).encode()
MEMORY = 24 * 2**20
"""What all of it may add to the process that answers."""
FORM = "multipart/form-data; boundary=x"
JSON = "application/json"
REFUSED = {400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 416, 422, 426, 431, 501, 505}


def head(line, *headers, host="127.0.0.1", body=None):
    lines = [line, *([f"Host: {host}"] if host is not None else []), *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1") + (body or b"")


def get(path, *headers, host="127.0.0.1"):
    return head(f"GET {path} HTTP/1.1", *headers, host=host)


def post(body, *headers, path="/v1/videos", kind="application/json", host="127.0.0.1"):
    return head(f"POST {path} HTTP/1.1", f"Content-Type: {kind}", *headers, host=host, body=body)


def sent(*headers):
    """The head of a job that says how its body comes."""
    return head("POST /v1/videos HTTP/1.1", *headers)


def form(body):
    return post(body, kind=FORM)


def part(name, content, *headers):
    lines = ["--x", f'Content-Disposition: form-data; name="{name}"', *headers, "", ""]
    return "\r\n".join(lines).encode() + content + b"\r\n"


def picture_form(content, name="a.png"):
    body, kind = multipart({"prompt": PROMPT}, ("input_reference", name, content))
    return post(body, kind=kind)


def png(width, height):
    """A PNG that says it is so large, and is not."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + "A" * 22 + "==",
)

INPUTS: dict[str, bytes] = {
    # A name of another's that leads here, and pages of other sites.
    "foreign host": get("/v1/videos", host="evil.example"),
    "foreign host, ours before it": get("/v1/videos", host="127.0.0.1.evil.example"),
    "no host": get("/v1/videos", host=None),
    "two hosts": get("/v1/videos", "Host: evil.example"),
    "host with a user": get("/v1/videos", host="127.0.0.1@evil.example"),
    "host of another machine": get("/v1/videos", host="10.0.0.1"),
    "host mapped into IPv6": get("/v1/videos", host="[::ffff:10.0.0.1]"),
    "host as one number": get("/v1/videos", host="2130706433.example"),
    "forwarded host": get("/v1/videos", "X-Forwarded-Host: 127.0.0.1", host="evil.example"),
    "target with a host": head("GET http://evil.example/v1/videos HTTP/1.1", host="evil.example"),
    "foreign origin": post(ASK, "Origin: https://evil.example"),
    "origin null": post(ASK, "Origin: null"),
    "origin that begins as ours": post(ASK, "Origin: http://127.0.0.1.evil.example"),
    "origin without a header": post(ASK, "Sec-Fetch-Site: cross-site"),
    "foreign delete": head(f"DELETE /v1/videos/{ID} HTTP/1.1", "Origin: https://evil.example"),
    "foreign cancel": post(b"{}", "Origin: https://evil.example", path=f"/v1/videos/{ID}/cancel"),
    "form that is JSON": post(ASK, kind="text/plain"),
    "preflight of a stranger": head("OPTIONS /v1/videos HTTP/1.1", "Origin: https://evil.example"),
    "socket of a stranger": get("/v1/live", *UPGRADE, "Origin: https://evil.example"),
    # Ways out of the folders.
    "dots": get("/page/../../jobs.db"),
    "dots in per cent": get("/page/%2e%2e/%2e%2e/jobs.db"),
    "slashes in per cent": get("/page/..%2f..%2fjobs.db"),
    "twice in per cent": get("/page/%252e%252e%252fjobs.db"),
    "backslashes": get("/page/..\\..\\jobs.db"),
    "an absolute path": get("/page//etc/passwd"),
    "another folder as an id": get("/v1/videos/..%2f..%2fetc%2fpasswd/content"),
    "a zero in an id": get(f"/v1/videos/{ID}%00/content"),
    "an id that is none": get("/v1/videos/video_x/content"),
    "another name of a link": get("/s/..%2f..%2fjobs.db"),
    "a variant that is a path": get(f"/v1/videos/{ID}/content?variant=../../jobs.db"),
    # Two readings of one request.
    "two lengths": sent("Content-Length: 3", "Content-Length: 30") + b"{}\n",
    "length and chunks": sent("Content-Length: 3", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "chunks of another name": sent("Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "a chunk without end": sent("Transfer-Encoding: chunked") + b"f" * 40 + b"\r\n",
    "a negative length": sent("Content-Length: -1"),
    "a length that is none": sent("Content-Length: 1e3"),
    "a header in two lines": get("/v1/videos", "X-A: b\r\n\tc\x00d"),
    "a space before the colon": get("/v1/videos", "Transfer-Encoding : chunked"),
    "a line end in a path": b"GET /v1/videos\x0bHTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "a version that is none": head("GET /v1/videos HTTP/x.y"),
    # Too much.
    "a length of a petabyte": sent(f"Content-Type: {JSON}", "Content-Length: 1125899906842624"),
    "more than a picture may have": sent(f"Content-Type: {FORM}", "Content-Length: 99000000"),
    "huge JSON": post(b'{"prompt": "' + b"a" * 2**20 + b'"}'),
    "deep JSON": post(b"[" * 30000 + b"]" * 30000),
    "a long prompt": post(json.dumps({"prompt": "a" * 5000}).encode()),
    "a number of 9,000 digits": post(b'{"prompt": "a red ball", "seed": ' + b"9" * 9000 + b"}"),
    "numbers that are none": post(b'{"prompt": "a red ball", "seconds": NaN}'),
    "half a character": post(b'{"prompt": "\\ud800"}'),
    "bytes that are no text": post(b'{"prompt": "\xff\xfe"}'),
    "a long head": get("/v1/videos", "X-A: " + "a" * 70000),
    "many headers": get("/v1/videos", *(f"X-{number}: a" for number in range(5000))),
    "a long path": get("/v1/videos/" + "a" * 60000),
    "a long key": post(ASK, "Idempotency-Key: " + "k" * 5000),
    "a list of everything": get("/v1/videos?limit=999999999"),
    "SQL": get("/v1/videos?after=x'%20or%201=1--"),
    # Forms.
    "a form without a boundary": post(b"--x--\r\n", kind="multipart/form-data"),
    "a form of 5,000 fields": form(b"".join(part(f"a{number}", b"1") for number in range(5000)) + b"--x--\r\n"),
    "a part with a long head": form(part("a" * 100000, b"1") + b"--x--\r\n"),
    "a form that does not end": form(part("prompt", b"a red ball")),
    "a field of a megabyte": form(part("prompt", b"a" * 2**20) + b"--x--\r\n"),
    "a form in a form": form(part("prompt", b"--y--", "Content-Type: multipart/mixed; boundary=y") + b"--x--\r\n"),
    "packed a thousandfold": post(gzip.compress(bytes(2**24)), "Content-Encoding: gzip"),
    "a picture that is none": picture_form(b"GIF89a" + bytes(100)),
    "a picture of four gigapixels": picture_form(png(65000, 65000)),
    "a picture with a path as its name": picture_form(b"x", name="../../../../etc/cron.d/x"),
    "a picture as text": post(json.dumps({"prompt": PROMPT, "input_reference": "file:///etc/passwd"}).encode()),
    "a picture from elsewhere": post(json.dumps({"prompt": PROMPT, "input_reference": {"image_url": "http://x"}}).encode()),
    "another's folder as the model": post(json.dumps({"prompt": PROMPT, "model": "../../models/x"}).encode()),
    "a method that is none": head("BREW /v1/videos HTTP/1.1"),
    "a way through": head("CONNECT evil.example:443 HTTP/1.1", host="evil.example"),
    "an echo": head("TRACE / HTTP/1.1"),
}  # fmt: skip

RANGES = {
    "after the end": "bytes=99999999-",
    "backwards": "bytes=5-2",
    "two hundred": "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 400, 2)),
    "none": "bytes=-",
    "another unit": "lines=0-1",
    "no number": "bytes=a-b",
    "overlapping": "bytes=" + ",".join(["0-"] * 500),
}


def raw(port, content, seconds=60.0):
    """Send bytes as they are, and return what comes back until the connection ends; an early end is no error."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(content)
        with contextlib.suppress(ConnectionError, OSError):
            while chunk := connection.recv(65536):
                found += chunk
    return found


def memory_of(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def made(server):
    """A finished video."""
    first = server.create(num_frames=1, num_inference_steps=1)
    return server.wait(first["id"])


def test_there_are_sixty():
    assert len(INPUTS) >= 60


def is_idle(server):
    told = server.get("/metrics").body.decode()
    return all(f'edgereel_jobs{{state="{state}"}} 0\n' in told for state in ("queued", "in_progress"))


def files_of(server, but):
    return {str(path) for path in server.data.rglob("*") if path.name != "jobs.db-wal" and but not in str(path)}


def ids_of(server):
    return [video["id"] for video in server.get("/v1/videos?limit=100").json()["data"]]


def test_each_is_refused_and_nothing_suffers(server, made):
    """One test, so that what a refusal leaves behind is met by the next."""
    until(lambda: is_idle(server))
    waiting = server.create(num_frames=1, num_inference_steps=1)
    before, found = memory_of(server.process.pid), {}
    files, ids = files_of(server, waiting["id"]), ids_of(server)
    for name, content in INPUTS.items():
        answer = raw(server.port, content)
        first, _, rest = answer.partition(b"\r\n")
        body = rest.partition(b"\r\n\r\n")[2]
        status = int(first.split()[1]) if first.startswith(b"HTTP/1.1 ") else 0
        typed = True
        if b"content-type: application/json" in rest.lower():
            error = json.loads(body).get("error") or {"message": "", "type": "", "code": ""}
            typed = bool(error["message"] and error["type"] and error["code"]) and "Traceback" not in error["message"]
        elif status == 400:
            typed = b"Invalid HTTP request received." in body  # it never came as far as to us
        if status not in REFUSED or not typed:
            found[name] = answer[:300]
    assert found == {}, found
    assert memory_of(server.process.pid) - before < MEMORY
    assert server.wait(waiting["id"])["status"] == "completed"
    assert server.get("/health").status == 200
    assert files_of(server, waiting["id"]) == files, "nothing was written, nothing is gone"
    assert ids_of(server) == ids


@pytest.mark.parametrize("name", RANGES)
def test_ranges(server, made, name):
    """A part that is in the file, all of it, or a refusal; never more than the file, however often it is asked for."""
    path = f"/v1/videos/{made['id']}/content"
    whole = server.get(path)
    answer = server.get(path, Range=RANGES[name])
    assert answer.status in (200, 206, 400, 416), answer.body[:200]
    if answer.status == 200:
        assert answer.body == whole.body
    assert len(answer.body) <= len(whole.body) + 200 * 200
    if answer.status >= 400:
        assert answer.json()["error"]["code"]


def test_links_in_the_data_folder_lead_nowhere(server, made, tmp_path):
    """Who may write there may plant links; what they lead to is not shown, and the file itself comes back unharmed."""
    (tmp_path / "secret").write_bytes(b"secret")
    video = server.data / "videos" / made["id"] / "video.mp4"
    kept = video.with_name("kept")
    video.rename(kept)
    try:
        for plant in (video.symlink_to, video.hardlink_to):
            plant(tmp_path / "secret")
            answer = server.get(f"/v1/videos/{made['id']}/content")
            assert (answer.status, answer.code) == (404, "file_gone")
            video.unlink()
    finally:
        kept.rename(video)
    assert len(frames_of(server.get(f"/v1/videos/{made['id']}/content").body)) == 1


def frame(payload, opcode=1):
    """A WebSocket frame as clients send them."""
    length = len(payload)
    size = (
        bytes([0x80 | length])
        if length < 126
        else struct.pack(">BH", 0x80 | 126, length)
        if length < 65536
        else struct.pack(">BQ", 0x80 | 127, length)
    )
    return bytes([0x80 | opcode]) + size + bytes(4) + payload  # fmt: skip


def live(port):
    connection = socket.create_connection(("127.0.0.1", port), 60)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET /v1/live HTTP/1.1", f"Host: 127.0.0.1:{port}", *UPGRADE[:3], f"Sec-WebSocket-Key: {key}"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (chunk := connection.recv(4096)):
        answer += chunk
    return connection, answer


@pytest.mark.full
def test_a_flood_of_socket_messages_ends(tmp_path, served_home):
    """What is no message, too large, or too many; and fifty that only hold their sockets open."""
    small = write_causal_bundle(tmp_path / "small.reel")
    served = Served(tmp_path / "data", "--bundle", str(small), "--engine", "cpu", environment=served_home)
    try:
        until(lambda: served.get("/ready").status == 200)
        before = memory_of(served.process.pid)
        silent = [live(served.port)[0] for _ in range(50)]
        for messages in (
            [b"{" * 60000],
            [b"x" * 2**20],
            [
                json.dumps({"type": "start", "prompt": "a red ball"}).encode(),
                *[b'{"type": "credit", "pictures": 1}'] * 2000,
            ],
            [
                json.dumps({"type": "start", "prompt": "a red ball"}).encode(),
                *[b'{"type": "prompt", "prompt": "the ocean"}'] * 2000,
            ],
            [b'{"type": "credit", "pictures": 99999999999}'],
        ):
            connection, answer = live(served.port)
            assert answer.startswith(b"HTTP/1.1 101"), answer
            with connection, contextlib.suppress(ConnectionError):
                for message in messages:
                    connection.sendall(frame(message))
                while connection.recv(65536):
                    pass
        for connection in silent:
            connection.close()
        assert served.get("/health").status == 200
        assert memory_of(served.process.pid) - before < 2 * MEMORY
        video = served.post("/v1/videos", {"prompt": "a red ball"}).json()
        assert served.wait(video["id"])["status"] == "completed"
    finally:
        assert served.end() == 0, "".join(served.lines)


@pytest.mark.full
def test_slow_clients_are_let_go_of(server, made):
    """A head and a body that come byte by byte, two hundred times at once, while others are served."""
    stopped, ended = threading.Event(), []

    def drip(content):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 120) as connection:
            for number in range(len(content)):
                connection.sendall(content[number : number + 1])
                connection.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(4096) == b"":
                        break
                if stopped.is_set():
                    return
        ended.append(content[:4])

    heads, bodies = b"GET /v1/videos HTTP/1.1\r\nX: " + b"a" * 5000, post(b"a" * 5000)
    at = bodies.index(b"\r\n\r\n") + 4
    before = memory_of(server.process.pid)
    threads = [threading.Thread(target=drip, args=(content,)) for content in [heads] * 100]
    for thread in threads:
        thread.start()
    slow = [socket.create_connection(("127.0.0.1", server.port), 120) for _ in range(100)]
    for connection in slow:
        connection.sendall(bodies[: at + 10])
    for _ in range(20):
        assert server.get(f"/v1/videos/{made['id']}").status == 200
    try:
        until(lambda: len(ended) == 100, 300)
    finally:
        stopped.set()
    for connection in slow:
        with connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    assert memory_of(server.process.pid) - before < MEMORY


@pytest.mark.full
def test_a_token_guessed_a_thousand_times(tmp_path, served_home):
    """Ten guesses are answered in a minute; who knows the token is served meanwhile, from another address."""
    (tmp_path / "token").write_text("correct-horse-battery-staple")
    served = Served(tmp_path / "data", "--token-file", str(tmp_path / "token"), environment=served_home)
    try:
        started, statuses = time.monotonic(), []
        for number in range(1000):
            answer = served.get("/v1/videos", Authorization=f"Bearer guess-number-{number:06d}")
            statuses.append(answer.status)
        minutes = 1 + (time.monotonic() - started) // 60
        assert set(statuses) == {401, 429}
        assert statuses.count(401) <= 10 * (minutes + 1)
        with socket.create_connection(("127.0.0.1", served.port), 60, source_address=("127.0.0.2", 0)) as connection:
            connection.sendall(get("/v1/videos", "Authorization: Bearer correct-horse-battery-staple"))
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        assert served.end() == 0
