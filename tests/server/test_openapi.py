"""The interface's own description: that it names every path, that answers are as it says, and 2,000 requests made from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.served import PROMPT, Served

from edgereel.server.api.openapi import describe, video_schema
from edgereel.server.application import routes
from edgereel.server.configuration import Configuration

UNDESCRIBED = {"/", "/page/{name:path}", "/s/{short}", "/s/{short}/video.mp4", "/openapi.json", "/v1/live"}
STREAMS = {"/v1/events", "/v1/videos/{id}/events"}
"""Server-sent events have no end, and OpenAPI has no words for them."""


def test_every_path_and_method_is_described(tmp_path):
    paths = describe(Configuration(tmp_path))["paths"]
    found = {(route.path, method) for route in routes() for method in getattr(route, "methods", None) or {"GET"}}
    described = {(path, method.upper()) for path, item in paths.items() for method in item if method != "parameters"}
    assert {pair for pair in found if pair[1] != "HEAD" and pair[0] not in UNDESCRIBED | STREAMS} == described


def test_a_video_is_as_it_is_described(server):
    video = server.wait(server.create(num_inference_steps=1)["id"])
    schema = video_schema()["properties"]
    assert set(video) == set(schema)
    jsonschema = pytest.importorskip("jsonschema_rs")
    jsonschema.validate(video_schema(), video)
    failed = server.create(PROMPT, num_frames=61)
    jsonschema.validate(video_schema(), failed)
    jsonschema.validate(video_schema(), server.post(f"/v1/videos/{failed['id']}/cancel").json())


@pytest.mark.full
def test_two_thousand_requests_find_nothing(tmp_path, served_home):
    """Left out is the check that a request which fits the schema is accepted: which words and sizes a model takes it cannot say."""
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert command is not None
    served = Served(tmp_path / "data", "--queue", "20", "--share", environment=served_home)
    try:
        address = f"http://127.0.0.1:{served.port}/openapi.json"
        options = [
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--max-examples",
            "80",
            "--no-color",
        ]
        done = subprocess.run([command, "run", address, *options], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-5000:]
        (cases,) = re.findall(r"([0-9]+) generated", done.stdout)
        assert int(cases) >= 2000
        assert served.get("/health").status == 200
        assert not any("made a mistake" in line or "Traceback" in line for line in served.lines)
    finally:
        assert served.end() == 0
