"""Files as answers: what somebody gets whose file is removed while it is being sent."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from edgereel.server.api.videos import file_answer
from edgereel.server.errors import ApiError


def asked(*headers):
    return {"type": "http", "method": "GET", "path": "/", "headers": list(headers), "asgi": {"spec_version": "2.3"}}


async def receive():
    await asyncio.sleep(60)


def answered(scope, path, before_it_is_sent=lambda: None):
    """Return the messages of the answer."""
    sent = []

    async def send(message):
        sent.append(message)

    async def answer():
        response = file_answer(Request(scope), str(path), "video/mp4", {})
        before_it_is_sent()
        await response(scope, receive, send)

    try:
        asyncio.run(answer())
    except ApiError as error:
        return sent, error
    return sent, None


@pytest.mark.parametrize("headers", [(), ((b"range", b"bytes=3-6"),), ((b"range", b"bytes=0-1,4-5"),)])
def test_a_file_that_is_removed_after_its_size_was_read(tmp_path, headers):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"0123456789")
    sent, error = answered(asked(*headers), path)
    assert error is None
    assert sent[0]["status"] == (206 if headers else 200)
    length = int(dict(sent[0]["headers"])[b"content-length"])
    assert sum(len(message["body"]) for message in sent[1:]) == length
    sent, error = answered(asked(*headers), path, path.unlink)
    assert (error.status, error.code, sent) == (404, "file_gone", [])


def test_a_file_that_is_removed_while_it_is_sent_is_sent_to_its_end(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(1_000_000))
    sent = []

    async def send(message):
        sent.append(message)
        path.unlink(missing_ok=True)

    async def answer():
        await file_answer(Request(asked()), str(path), "video/mp4", {})(asked(), receive, send)

    asyncio.run(answer())
    assert sum(len(message["body"]) for message in sent[1:]) == 1_000_000
