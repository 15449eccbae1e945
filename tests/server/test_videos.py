"""A job's life over HTTP: asked for, watched, fetched, made again, cancelled, deleted."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.served import PROMPT, frames_of, until

import edgereel
from edgereel.runtime.video.jpeg import jpeg_bytes

ONE = {"num_inference_steps": 1, "seed": 3}


@pytest.fixture(scope="module")
def made(server):
    """A finished video of seed 7."""
    return server.wait(server.create(seed=7)["id"])


def test_a_video_is_the_one_that_the_library_makes(server, made):
    with edgereel.load(threads=1) as reel:
        expected = np.stack(list(reel.generate(PROMPT, seed=7)))
    content = server.get(f"/v1/videos/{made['id']}/content")
    assert (content.status, content.headers["content-type"]) == (200, "video/mp4")
    found = np.stack(frames_of(content.body))
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.mean() < 3  # H.264 at CRF 18, on both sides of one encoding


def test_it_says_what_it_is(made):
    facts = {key: made[key] for key in ("object", "status", "progress", "size", "seconds", "seed", "num_frames", "fps")}
    assert facts == {
        "object": "video",
        "status": "completed",
        "progress": 100,
        "size": "128x128",
        "seconds": "2.125",
        "seed": 7,
        "num_frames": 17,
        "fps": 8,
    }
    assert made["error"] is None
    assert made["completed_at"] >= made["created_at"]


def test_what_the_client_does_not_say_is_said(server):
    """Length in seconds becomes one that the model can do; a seed is drawn, and told."""
    first, second = (server.create(seconds="1", num_inference_steps=1) for _ in range(2))
    assert (first["num_frames"], first["seconds"]) == (9, "1.125")
    assert first["seed"] != second["seed"]
    server.wait(second["id"])


def test_parts_of_a_file_and_one_that_has_not_changed(server, made):
    path = f"/v1/videos/{made['id']}/content"
    whole = server.get(path)
    part = server.get(path, Range="bytes=100-199")
    assert (part.status, part.body) == (206, whole.body[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.body)}"
    assert server.get(path, Range="bytes=-50").body == whole.body[-50:]
    assert server.get(path, Range="bytes=99999999-").status == 416
    assert server.get(path, If_None_Match=whole.headers["etag"]).status == 304
    several = server.get(path, Range="bytes=0-1,4-5")
    assert several.status in (200, 206)
    assert b"ftyp" in whole.body[:12]


def test_pictures_of_it(server, made):
    path = f"/v1/videos/{made['id']}/content?variant="
    (thumbnail,) = frames_of(server.get(path + "thumbnail").body)
    (sheet,) = frames_of(server.get(path + "spritesheet").body)
    assert (thumbnail.shape, sheet.shape) == ((128, 128, 3), (512, 512, 3))
    first = frames_of(server.get(path + "video").body)[0]
    assert np.abs(thumbnail.astype(int) - first.astype(int)).mean() < 8
    assert server.get(path + "audio").status == 400
    named = server.get(path + "video&download=1").headers["content-disposition"]
    assert f"{made['id']}.mp4" in named


def test_a_form_is_as_good_as_json(server):
    """At a size that is too small for a watermark, which differs each time."""
    answer = server.form("/v1/videos", {"prompt": PROMPT, "seed": "7", "size": "64x64"})
    ids = [answer.json()["id"], server.create(prompt=PROMPT, seed=7, size="64x64")["id"]]
    of_form, of_json = (server.get(f"/v1/videos/{server.wait(id)['id']}/content").body for id in ids)
    assert all(np.array_equal(one, other) for one, other in zip(frames_of(of_form), frames_of(of_json), strict=True))


def test_again_with_another_prompt_keeps_the_seed(server, made):
    answer = server.post(f"/v1/videos/{made['id']}/remix", {"prompt": PROMPT.replace("red", "green")})
    video = answer.json()
    assert (video["seed"], video["remixed_from_video_id"], video["num_frames"]) == (7, made["id"], 17)
    server.wait(video["id"])
    assert server.post(f"/v1/videos/{made['id']}/remix", {"prompt": "", "seed": 1}).status == 400


def test_lists_have_pages(server, made):
    for _ in range(3):
        server.create(**ONE)
    first = server.get("/v1/videos?limit=2").json()
    assert (len(first["data"]), first["has_more"], first["last_id"]) == (2, True, first["data"][-1]["id"])
    second = server.get(f"/v1/videos?limit=2&after={first['last_id']}").json()
    assert not {video["id"] for video in first["data"]} & {video["id"] for video in second["data"]}
    after = server.get(f"/v1/videos?limit=1&order=asc&after={second['data'][0]['id']}").json()["data"][0]
    assert after["id"] == first["last_id"]
    for wrong in ("limit=0", "limit=x", "order=up", "page=2"):
        assert server.get(f"/v1/videos?{wrong}").status == 400
    assert server.get("/v1/videos?after=video_" + "0" * 32).status == 404


def test_the_same_key_makes_one_video(server):
    answers = [server.post("/v1/videos", {"prompt": PROMPT, **ONE}, Idempotency_Key="once") for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    other = server.post("/v1/videos", {"prompt": PROMPT, "seed": 4}, Idempotency_Key="once")
    assert (other.status, other.code) == (409, "key_reused")


def test_events_tell_every_state_and_show_pictures(server):
    with server.events() as events:
        video = server.create(seed=11, num_inference_steps=8)
        told = []
        for number, event, data in events:
            if data["id"] == video["id"]:
                told.append((number, event, data))
                if data.get("status") in ("completed", "failed"):
                    break
    states = [data["status"] for _, event, data in told if event == "video"]
    assert list(dict.fromkeys(states)) == ["queued", "in_progress", "completed"]
    steps = [data["step"] for _, event, data in told if event == "video" and data["stage"] == "denoise"]
    assert steps == list(range(9))
    percents = [data["progress"] for _, event, data in told if event == "video"]
    assert percents == sorted(percents)
    previews = [data for _, event, data in told if event == "preview"]
    assert previews
    assert previews[0]["url"].startswith(f"/v1/videos/{video['id']}/preview?n=")

    middle = told[len(told) // 2][0]
    with server.events(Last_Event_ID=middle) as events:
        rest = []
        for number, _, data in events:
            rest.append(number)
            if data["id"] == video["id"] and data.get("status") == "completed":
                break
    numbers = [number for number, _, _ in told]
    assert [number for number in rest if number in numbers] == numbers[numbers.index(middle) + 1 :]


def test_events_of_one_video_end_with_it(server):
    video = server.create(**ONE)
    with server.events(f"/v1/videos/{video['id']}/events") as events:
        told = [(number, data["status"]) for number, event, data in events if event == "video"]
    number, state = told[-1]
    assert state == "completed"
    assert server.get(f"/v1/videos/{video['id']}/events", Last_Event_ID=number).status == 204


def test_previews_are_pictures_of_the_clip_to_be(server):
    video = server.create(seed=7, num_inference_steps=8, num_frames=33)
    answer = until(lambda: (found := server.get(f"/v1/videos/{video['id']}/preview")).status == 200 and found)
    (picture,) = frames_of(answer.body)
    assert picture.shape == (128, 128, 3)
    server.wait(video["id"])
    assert server.get(f"/v1/videos/{video['id']}/preview").status == 404


def test_cancelling_ends_what_runs_and_the_next_begins(server):
    long = [server.create(num_frames=33, num_inference_steps=8, seed=seed) for seed in range(4)]
    running = server.wait(long[0]["id"], "in_progress")
    cancelled = server.post(f"/v1/videos/{running['id']}/cancel").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    last = server.post(f"/v1/videos/{long[3]['id']}/cancel").json()
    assert last["error"]["code"] == "cancelled"
    assert server.get(f"/v1/videos/{running['id']}/content").status == 404
    for video in long[1:3]:
        assert server.wait(video["id"])["status"] == "completed"
    assert server.post(f"/v1/videos/{long[1]['id']}/cancel").json()["status"] == "completed"


def test_deleting_ends_what_runs_and_leaves_nothing(server):
    video = server.create(num_frames=61, num_inference_steps=8, seed=1)
    server.wait(video["id"], "in_progress")
    assert server.ask("DELETE", f"/v1/videos/{video['id']}").json() == {
        "id": video["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    assert server.get(f"/v1/videos/{video['id']}").status == 404
    assert server.ask("DELETE", f"/v1/videos/{video['id']}").status == 404
    until(lambda: not (server.data / "videos" / video["id"]).exists())


def test_what_the_model_cannot_do_is_said_at_once(server):
    cases = {
        "prompt": {"prompt": "a red zebra"},
        "size": {"prompt": PROMPT, "size": "63x63"},
        "seed": {"prompt": PROMPT, "seed": -1},
        "colour": {"prompt": PROMPT, "colour": "red"},
        "model": {"prompt": PROMPT, "model": "sora"},
    }
    before = server.get("/v1/videos?limit=1").json()["first_id"]
    for param, fields in cases.items():
        answer = server.post("/v1/videos", fields)
        assert (answer.status, answer.json()["error"]["param"]) == (400, param), answer.body
    picture = server.form(
        "/v1/videos", {"prompt": PROMPT}, ("input_reference", "a.jpg", jpeg_bytes(np.zeros((8, 8, 3), np.uint8))[:-9])
    )
    assert (picture.status, picture.json()["error"]["param"]) == (400, "input_reference")
    assert server.get("/v1/videos?limit=1").json()["first_id"] == before
    names = {path.name for path in (server.data / "videos").iterdir()}
    assert names <= {video["id"] for video in server.get("/v1/videos?limit=100").json()["data"]}


def test_a_full_queue_says_when_to_come_back(server):
    long = []
    while (
        answer := server.post("/v1/videos", {"prompt": PROMPT, "num_frames": 61, "num_inference_steps": 8})
    ).status == 200:
        long.append(answer.json()["id"])
        assert len(long) < 60
    assert (answer.status, answer.code) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    for id in reversed(long):
        server.ask("DELETE", f"/v1/videos/{id}")
    until(lambda: server.get("/ready").status == 200)


def test_models_and_presets(server):
    (model,) = server.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["edgereel"]["default"]) == ("edgereel-demo", "model", True)
    assert model["edgereel"]["formats"]["default"] == [128, 128]
    assert server.get("/v1/models/edgereel-demo").json() == model
    assert server.get("/v1/models/none").status == 404
    assert server.get("/v1/presets").json()["data"][0]["size"] == "128x128"
    assert server.get("/v1/settings").json()["kiosk"] is False


def test_a_bundle_can_be_let_go_of(server):
    until(lambda: server.post("/v1/models/unload").json()["unloaded"] > 0)
    assert server.wait(server.create(**ONE)["id"])["status"] == "completed"


def test_measurements(server):
    lines = server.get("/metrics").body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["edgereel_pictures_total"]) >= 17
    assert float(values["edgereel_queue_wait_seconds_count"]) > 0
    assert float(values['edgereel_jobs{state="completed"}']) > 0
    assert 'edgereel_jobs_failed_total{code="cancelled"}' in values
    assert float(values["edgereel_process_resident_memory_bytes"]) < 80 * 2**20
    helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert all(any(name.startswith(each) for each in helped) for name in values)


def test_pages_that_are_not_there(server):
    for path in ("/v2", "/v1/videos/none", "/page/none.js", "/page/../app.py", "/v1/videos/..%2f..%2fetc"):
        assert server.get(path).status == 404, path
    wrong = server.ask("PUT", "/v1/videos")
    assert wrong.status == 405
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
