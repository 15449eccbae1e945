"""OpenAI's own client, unchanged, and the examples of docs/serve.md as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT, helpers_environment
from helpers.served import PROMPT, frames_of

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_client_makes_lists_fetches_and_deletes(client):
    video = client.videos.create_and_poll(prompt=PROMPT, seconds="2", size="64x64", poll_interval_ms=50)
    assert (video.status, video.progress, video.size) == ("completed", 100, "64x64")
    assert client.videos.retrieve(video.id).prompt == PROMPT
    for variant, kind in (("video", b"ftyp"), ("thumbnail", b"\xff\xd8"), ("spritesheet", b"\xff\xd8")):
        assert kind in client.videos.download_content(video.id, variant=variant).read()[:12]
    remixed = client.videos.remix(video.id, prompt=PROMPT.replace("red", "blue"))
    assert remixed.remixed_from_video_id == video.id
    listed = client.videos.list(limit=1)
    assert listed.data[0].id == remixed.id
    assert {each.id for each in client.videos.list(limit=1, order="asc")} >= {video.id, remixed.id}
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.videos.create(prompt="a red zebra")
    assert (error.value.code, error.value.param) == ("invalid_prompt", "prompt")
    picture = ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")
    with pytest.raises(openai.BadRequestError) as error:
        client.videos.create(prompt=PROMPT, input_reference=picture)
    assert error.value.param == "input_reference"
    extra = client.videos.create(prompt=PROMPT, extra_body={"seed": 5, "num_inference_steps": 1})
    assert extra.model_dump()["seed"] == 5


def examples(language):
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("language", ["python", "sh", "html"])
def test_there_are_examples(language):
    assert examples(language)


def test_the_example_with_the_client_runs(server, tmp_path):
    (program,) = (text for text in examples("python") if "openai" in text)
    assert len([line for line in program.splitlines() if line]) == 5
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program.replace("8765", str(server.port))],
        cwd=tmp_path,
        env=helpers_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(frames_of(tmp_path / "ball.mp4")) == 17


def test_the_example_with_curl_runs(server, tmp_path):
    (program,) = (text for text in examples("sh") if "curl" in text and "/content" in text)
    assert len([line for line in program.splitlines() if line]) == 5
    done = subprocess.run(
        ["sh", "-eu"], input=program.replace("8765", str(server.port)), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(frames_of(tmp_path / "ball.mp4")) == 17
