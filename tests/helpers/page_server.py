"""A server of the page's HTTP contract with a model that renders its prompts: quick, and as slow, broken or full as a test wants.

The page's flows run against the real server. This one shows what that cannot show at will: a queue that is full, a model
without a vocabulary, a live film whose every picture is known, a clip that stands at its second step for as long as it takes.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import secrets
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgereel.demo.clips import PLACES, VERBS, Subject, prompt_words, render

PAGE = Path(__file__).parents[2] / "server" / "page"
STEPS = 4
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
SETTINGS = {
    "kiosk": False, "share": True, "live": True, "camera": True, "upload": True, "languages": ["en", "de"],
    "idle_seconds": 60, "pin_set": False, "brand": {"title": "edgereel"},
}  # fmt: skip


def subject_of(prompt: str) -> Subject:
    """Return what a prompt asks for, as far as it has the demo's words."""
    words = prompt_words()["vocabulary"]["groups"]
    found = [next((word for word in group["words"] if word in prompt), group["words"][0]) for group in words]
    motion = next(name for name, forms in VERBS.items() if forms[0] == found[2])
    scene = next(name for name, forms in PLACES.items() if forms[0] == found[3])
    return Subject(found[1], found[0], motion, scene)


def pictures_of(video: dict[str, Any]) -> np.ndarray:
    generator = np.random.RandomState(video["seed"] % 2**31)
    size = {"height": video["height"], "width": video["width"]}
    return render(subject_of(video["prompt"]), generator, frames=video["num_frames"], **size)


def jpeg(picture: np.ndarray, quality: int = 85) -> bytes:
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "JPEG", quality=quality)
    return held.getvalue()


def mp4(pictures: np.ndarray, fps: int) -> bytes:
    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return held.getvalue()


@dataclass
class State:
    """What the fake knows, and how it behaves: settings, seconds a step, whether its next answers are errors."""

    settings: dict[str, Any] = field(default_factory=lambda: {**SETTINGS})
    step_seconds: float = 0.1
    vocabulary: bool = True
    takes_picture: bool = True
    token: str | None = None
    pin: str = "2580"
    refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    listeners: list[asyncio.Queue[str]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    hold: bool = False

    def tell(self, event: str, data: dict[str, Any]) -> None:
        text = f"id: {next(self.numbers)}\nevent: {event}\ndata: {json.dumps(data)}\n\n"
        for listener in self.listeners:
            listener.put_nowait(text)

    def change(self, video: dict[str, Any], **fields: Any) -> None:
        video.update(fields)
        waiting = [other for other in self.videos.values() if other["status"] == "queued"]
        for position, other in enumerate(waiting):
            other["queue_position"] = position
        self.tell("video", video)


def new_video(state: State, fields: dict[str, Any], remixed: str | None = None) -> dict[str, Any]:
    width, height = (int(side) for side in str(fields.get("size", "128x128")).split("x"))
    frames = int(fields.get("num_frames", 17))
    video = {
        "id": f"video_{secrets.token_hex(16)}", "object": "video", "status": "queued", "progress": 0,
        "created_at": int(time.time()), "completed_at": None, "expires_at": None, "model": "edgereel-demo",
        "prompt": fields["prompt"], "seconds": str(frames / 8), "size": f"{width}x{height}", "quality": "standard",
        "remixed_from_video_id": remixed, "error": None, "width": width, "height": height, "num_frames": frames, "fps": 8,
        "num_inference_steps": STEPS, "guidance_scale": 1.0, "negative_prompt": "", "seed": int(fields.get("seed", 0)),
        "stage": None, "step": 0, "total": STEPS, "queue_position": 0, "provenance": None,
    }  # fmt: skip
    state.videos[video["id"]] = video
    return video


def finish(state: State, video: dict[str, Any]) -> None:
    pictures = pictures_of(video)
    state.files[video["id"], "video"] = mp4(pictures, video["fps"])
    state.files[video["id"], "thumbnail"] = jpeg(pictures[len(pictures) // 2])
    video.update(status="completed", progress=100, completed_at=int(time.time()), stage=None, queue_position=None)


async def work(state: State) -> None:
    """Make one video after another."""
    while True:
        await asyncio.sleep(state.step_seconds / 2)
        video = next((video for video in state.videos.values() if video["status"] == "queued"), None)
        if video is None:
            continue
        state.change(video, status="in_progress", queue_position=None, stage="text")
        pictures = pictures_of(video)
        for step in range(1, STEPS + 1):
            await asyncio.sleep(state.step_seconds)
            while state.hold and step == 3 and video["status"] == "in_progress":
                await asyncio.sleep(0.02)
            if video["status"] != "in_progress":
                break
            noise = np.random.default_rng(step).integers(0, 256, pictures[0].shape)
            mixed = (pictures[0] * (step / STEPS) + noise * (1 - step / STEPS)).astype(np.uint8)
            state.files[video["id"], "preview"] = jpeg(mixed)
            state.change(video, stage="denoise", step=step, progress=int(90 * step / STEPS))
            url = f"/v1/videos/{video['id']}/preview?n={step}"
            state.tell("preview", {"id": video["id"], "url": url, "step": step, "total": STEPS})
        else:
            state.change(video, stage="decode")
            await asyncio.sleep(state.step_seconds)
            if video["status"] == "in_progress":
                finish(state, video)
                state.change(video)


def problem(status: int, message: str, code: str, param: str | None = None, **headers: str) -> JSONResponse:
    body = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": body}, status, headers)


class Guard:
    """Headers of every answer, and the token where one is set."""

    def __init__(self, app: Any, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        private = scope["path"].startswith("/v1/") and scope["path"] != "/v1/session"
        if private and self.state.token and request.cookies.get("session") != self.state.token:
            return await problem(401, "a token is needed", "unauthorized")(scope, receive, send)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(b"content-security-policy", CSP.encode()), (b"cache-control", b"no-cache")]
            await send(message)

        return await self.app(scope, receive, with_headers)


def application(state: State) -> Starlette:
    """Return the fake as an ASGI application."""

    def found(request: Request) -> dict[str, Any] | None:
        return state.videos.get(request.path_params["id"])

    async def create(request: Request) -> Response:
        if state.refusals:
            status, error, headers = state.refusals.pop(0)
            return JSONResponse({"error": error}, status, headers)
        if request.headers["content-type"].startswith("multipart"):
            async with request.form() as form:
                fields = {key: value for key, value in form.items() if isinstance(value, str)}
                state.asked.append({**fields, "picture": await form["input_reference"].read()})
        else:
            fields = await request.json()
            state.asked.append(fields)
        video = new_video(state, fields)
        state.change(video)
        return JSONResponse(video)

    async def remix(request: Request) -> Response:
        before = found(request)
        fields = {key: before[key] for key in ("size", "seed", "num_frames")} | await request.json()
        video = new_video(state, fields, before["id"])
        state.asked.append({"remix": before["id"], **fields})
        state.change(video)
        return JSONResponse(video)

    async def cancel(request: Request) -> Response:
        video = found(request)
        state.change(video, status="failed", error={"code": "cancelled", "message": "cancelled"}, queue_position=None)
        return JSONResponse(video)

    async def remove(request: Request) -> Response:
        gone = state.videos.pop(request.path_params["id"])
        state.tell("deleted", {"id": gone["id"]})
        return JSONResponse({"id": gone["id"], "object": "video.deleted", "deleted": True})

    async def listing(request: Request) -> Response:
        videos = list(reversed(state.videos.values()))
        after, limit = request.query_params.get("after"), int(request.query_params.get("limit", 20))
        start = 1 + next((index for index, video in enumerate(videos) if video["id"] == after), -1)
        page = videos[start : start + limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(videos) > start + limit})

    async def content(request: Request) -> Response:
        variant = request.query_params.get("variant", "video")
        data = state.files.get((request.path_params["id"], variant))
        if data is None:
            return problem(404, "no such content", "not_found")
        headers = {"accept-ranges": "bytes"}
        if request.query_params.get("download"):
            headers["content-disposition"] = f'attachment; filename="{request.path_params["id"]}.mp4"'
        kind = "video/mp4" if variant == "video" else "image/jpeg"
        if (asked := request.headers.get("range")) and asked.startswith("bytes="):
            first, _, last = asked[6:].partition("-")
            start, end = int(first), int(last or len(data) - 1)
            headers["content-range"] = f"bytes {start}-{end}/{len(data)}"
            return Response(data[start : end + 1], 206, headers, kind)
        return Response(data, 200, headers, kind)

    async def preview(request: Request) -> Response:
        return Response(state.files[request.path_params["id"], "preview"], media_type="image/jpeg")

    async def events(request: Request) -> Response:
        queue: asyncio.Queue[str] = asyncio.Queue()
        state.listeners.append(queue)

        async def lines() -> Any:
            yield ": hello\n\n"
            try:
                while True:
                    yield await queue.get()
            finally:
                state.listeners.remove(queue)

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def models(request: Request) -> Response:
        words = prompt_words() if state.vocabulary else {**prompt_words(), "vocabulary": None}
        facts = {
            "default": True, "width": 128, "height": 128, "frames": 17, "fps": 8,
            "formats": {"square": [128, 128], "wide": [160, 96], "tall": [96, 160]},
            "recipes": [{"name": "4-step", "steps": 4}, {"name": "1-step", "steps": 1}], "decoders": ["full", "tiny"],
            "takes_picture": state.takes_picture, "takes_last_picture": False, "live": True, **words,
        }  # fmt: skip
        model = {"id": "edgereel-demo", "object": "model", "created": 0, "owned_by": "local", "edgereel": facts}
        return JSONResponse({"object": "list", "data": [model]})

    async def presets(request: Request) -> Response:
        return JSONResponse({"data": []})

    async def settings(request: Request) -> Response:
        return JSONResponse(state.settings)

    async def unlock(request: Request) -> Response:
        right = (await request.json())["pin"] == state.pin
        return JSONResponse({"ok": True}) if right else problem(403, "wrong PIN", "wrong_pin", "pin")

    async def session(request: Request) -> Response:
        if (await request.json())["token"] != state.token:
            return problem(401, "wrong token", "unauthorized")
        answer = JSONResponse({"ok": True})
        answer.set_cookie("session", state.token, httponly=True, samesite="strict")
        return answer

    async def share(request: Request) -> Response:
        drawing = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path d="M1 1h3v3H1zM4 4h3v3H4z"/></svg>'
        return JSONResponse({"url": "http://192.168.0.7:8765/s/aB3dE5", "qr_svg": drawing})

    async def verify(request: Request) -> Response:
        async with request.form() as form:
            state.asked.append({"verify": form["file"].filename, "size": len(await form["file"].read())})
        return JSONResponse(state.report)

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        start = await socket.receive_json()
        state.live.append(start)
        if start["prompt"] == "busy":
            await socket.send_json({"type": "refused", "code": "busy", "message": "another film is running"})
            return await socket.close()
        width, height = (int(side) for side in start.get("size", "128x128").split("x"))
        credit, shown, prompt, open_ = 16, 0, start["prompt"], True
        await socket.send_json({"type": "started", "width": width, "height": height, "fps": 16, "stream_id": "s"})

        async def hear() -> None:
            nonlocal credit, prompt, open_
            try:
                while True:
                    message = await socket.receive_json()
                    state.live.append(message)
                    if message["type"] == "credit":
                        credit += message["pictures"]
                    elif message["type"] == "prompt":
                        prompt = message["prompt"]
                        await socket.send_json({"type": "prompt", "prompt": prompt, "from_picture": shown})
                    else:
                        open_ = False
            except WebSocketDisconnect:
                state.live.append({"type": "gone"})
                open_ = False

        hearing = asyncio.create_task(hear())
        reel = {"seed": 3, "width": width, "height": height, "num_frames": 33}
        while open_:
            if credit <= 0:
                await asyncio.sleep(0.01)
                continue
            pictures = pictures_of({**reel, "prompt": prompt})
            data = struct.pack(">I", shown) + jpeg(pictures[shown % 33])
            try:
                await socket.send_bytes(data)
            except (WebSocketDisconnect, RuntimeError):
                break
            shown, credit = shown + 1, credit - 1
        await asyncio.wait({hearing}, timeout=2)
        hearing.cancel()

    async def root(request: Request) -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html")

    async def blank(request: Request) -> Response:
        return HTMLResponse("")

    one = "/v1/videos/{id}"
    routes = [
        Route("/", root),
        Route("/favicon.ico", blank),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/v1/videos", create, methods=["POST"]),
        Route("/v1/videos", listing),
        Route(one, remove, methods=["DELETE"]),
        *(Route(f"{one}/{name}", act, methods=["POST"]) for name, act in (("cancel", cancel), ("remix", remix))),
        *(Route(f"{one}/{name}", act) for name, act in (("content", content), ("preview", preview), ("share", share))),
        Route("/v1/events", events),
        Route("/v1/models", models),
        Route("/v1/presets", presets),
        Route("/v1/settings", settings),
        Route("/v1/settings/unlock", unlock, methods=["POST"]),
        Route("/v1/session", session, methods=["POST"]),
        Route("/v1/verify", verify, methods=["POST"]),
        WebSocketRoute("/v1/live", live),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, state=state)])


class FakeServer:
    """The fake on a port of its own, in a thread, until it is closed."""

    def __init__(self, port: int = 0) -> None:
        self.state = State()
        config = uvicorn.Config(
            application(self.state), "127.0.0.1", port, log_level="critical", timeout_graceful_shutdown=0
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def _serve(self) -> None:
        working = asyncio.create_task(work(self.state))
        await self._server.serve()
        working.cancel()

    def fill(self, prompts: list[str], **fields: Any) -> None:
        """Put finished clips of these prompts into the gallery."""
        for seed, prompt in enumerate(prompts):
            finish(self.state, new_video(self.state, {"prompt": prompt, "seed": seed + 7, **fields}))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


if __name__ == "__main__":
    served = FakeServer(int(sys.argv[1]) if len(sys.argv) > 1 else 8766)
    served.fill(prompt_words()["examples"])
    served.state.settings["kiosk"] = "--kiosk" in sys.argv
    print(f"http://127.0.0.1:{served.port}")
    threading.Event().wait()
