"""What the watermark outlives, what it costs, and how often it is seen where there is none; see docs/provenance.md.

    python -m edgereel.tools.watermark_table --footage 832x480:120 --demo 256x256:60 --demo 128x128:60 --unmarked 10000

Each clip is a line in a file of JSON lines: a run that was stopped goes on where it was, and a table can be made of any part
of one. The kinds of clips go on in step.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from ..provenance.watermark.detect import FrameAverage, detect, find
from ..provenance.watermark.embed import Watermark
from ..provenance.watermark.payload import Payload, encode
from ..quality.metrics import ssim
from ..runtime.video.gif import GifSink
from ..runtime.video.sink import write_frames
from .footage import footage

if TYPE_CHECKING:
    from ..runtime.reel import Reel

Frames = list[NDArray[np.uint8]]
_FPS = 16
_UNMARKED = (160, 128)
_PATCHES = 3
"""Unmarked clips that are cut out of one piece of footage, a side."""


def main() -> None:
    """Measure clips until there are as many as were asked for, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = {"footage": "marked clips of footage", "demo": "marked clips of the built-in model"}
    for name, what in kinds.items():
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="WxH:N", help=f"size and number of {what}"
        )
    parser.add_argument("--unmarked", type=int, default=0, help="unmarked clips, 160x128 of 2 frames")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no clip after so many")
    parser.add_argument("--record", type=Path, default=Path("watermark.jsonl"))
    asked = parser.parse_args()
    wanted: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {}
    for name, clip in (("footage", footage_clip), ("demo", demo_clip)):
        for text in getattr(asked, name):
            size, _, count = text.partition(":")
            width, height = map(int, size.split("x"))
            wanted[f"{name} {size}"] = int(count), partial(measure, clip, width, height)
    wanted["unmarked"] = asked.unmarked, unmarked
    done = [json.loads(line) for line in asked.record.read_text().splitlines()] if asked.record.exists() else []
    counts = {kind: sum(row["kind"] == kind for row in done) for kind in wanted}
    started = time.perf_counter()
    with asked.record.open("a") as record:
        while time.perf_counter() - started < asked.seconds:
            left = [kind for kind, (count, _) in wanted.items() if counts[kind] < count]
            if not left:
                break
            kind = min(left, key=lambda kind: counts[kind] / wanted[kind][0])
            done.append({"kind": kind, **wanted[kind][1](counts[kind])})
            counts[kind] += 1
            record.write(json.dumps(done[-1]) + "\n")
            record.flush()
    print(table(done))


def footage_clip(width: int, height: int, seed: int) -> Frames:
    """Return a clip of footage."""
    return list(footage(seed, width, height, 13))


def demo_clip(width: int, height: int, seed: int) -> Frames:
    """Return a clip of the built-in model, 9 frames."""
    random = np.random.default_rng(seed)
    colour, shape = random.choice(("red", "blue", "green", "yellow")), random.choice(("ball", "square", "triangle"))
    scene = random.choice(("ocean", "desert", "forest"))
    prompt = f"a {colour} {shape} bounces over the {scene}"
    return list(_reel().generate(prompt, seed=seed, size=(width, height), frames=9))


@cache
def _reel() -> Reel:
    from ..runtime.reel import load

    return load()


def measure(clip: Callable[[int, int, int], Frames], width: int, height: int, seed: int) -> dict[str, Any]:
    """Mark a clip, attack it in every way, and tell what was found each time: read, part of bits right, read wrong."""
    frames = clip(width, height, seed)
    random = np.random.default_rng(seed)
    payload = Payload(int(random.integers(2**24)), int(random.integers(2**40)))
    watermark = Watermark(payload)
    started = time.process_time()
    marked = [watermark.apply(frame) for frame in frames]
    milliseconds = (time.process_time() - started) / len(frames) * 1e3
    error = np.mean([np.mean((a.astype(np.float32) - b) ** 2) for a, b in zip(frames, marked, strict=True)])
    started = time.process_time()
    plain = encoded(frames, 18)
    encoding = (time.process_time() - started) / len(frames) * 1e3
    first = encoded(marked, 18)
    row: dict[str, Any] = {
        "psnr": float(10 * np.log10(255**2 / error)),
        "ssim": ssim(frames[0][None], marked[0][None]),
        "growth": len(first) / len(plain),
        "milliseconds": milliseconds,
        "encoding": encoding,
        "found": {},
    }
    for name, attacked in attacks(decoded(first)):
        found = detect([luma(frame) for frame in attacked])
        right = 0.5 if found.bits is None else float(np.mean(np.sign(found.bits) == encode(payload)))
        row["found"][name] = [found.payload == payload, round(right, 4), found.payload not in (None, payload)]
    return row


def attacks(frames: Frames) -> Iterator[tuple[str, Frames]]:
    """Yield what may be done to a clip that was written as MP4: name and frames."""
    height, width = frames[0].shape[:2]
    half = _even(width // 2), _even(height // 2)
    top, left = height // 5, width // 4
    cropped = [frame[top : top + half[1], left : left + half[0]] for frame in frames]
    inner = [frame[height // 10 : height * 9 // 10, width // 10 : width * 9 // 10] for frame in frames]
    yield "as written", frames
    yield "CRF 23", decoded(encoded(frames, 23))
    yield "CRF 28", decoded(encoded(frames, 28))
    yield "CRF 32", decoded(encoded(frames, 32))
    yield "half size, CRF 23", decoded(encoded(resized(frames, *half), 23))
    yield "cropped to half, CRF 23", decoded(encoded(cropped, 23))
    yield (
        "cropped to 0.8 and made 3/4, CRF 28",
        decoded(encoded(resized(inner, _even(round(width * 0.6)), _even(round(height * 0.6))), 28)),
    )
    yield "mirrored, CRF 28", decoded(encoded([frame[:, ::-1] for frame in frames], 28))
    yield "twice the speed, CRF 28", decoded(encoded(frames[::2], 28))
    yield "a third of frames dropped, CRF 28", decoded(encoded([f for i, f in enumerate(frames) if i % 3], 28))
    yield "GIF", through_gif(frames)


def unmarked(seed: int) -> dict[str, Any]:
    """Look for a mark in a small clip that has none."""
    frames, (row, column) = _unmarked_footage(seed // _PATCHES**2), divmod(seed % _PATCHES**2, _PATCHES)
    width, height = _UNMARKED
    average = FrameAverage()
    for frame in frames:
        average.add(luma(frame[row * height :, column * width :][:height, :width]))
    found = find(average)
    return {"false": found.payload is not None, "score": round(found.score, 3)}


@lru_cache(maxsize=1)
def _unmarked_footage(seed: int) -> Frames:
    return list(footage(10_000 + seed, _PATCHES * _UNMARKED[0], _PATCHES * _UNMARKED[1], 2))


def encoded(frames: Sequence[NDArray[np.uint8]], crf: int) -> bytes:
    """Return frames as an H.264 MP4."""
    file = io.BytesIO()
    height, width = frames[0].shape[:2]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def decoded(content: bytes) -> Frames:
    """Return the frames of a video."""
    with av.open(io.BytesIO(content), "r") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def resized(frames: Frames, width: int, height: int) -> Frames:
    """Return frames of another size, bicubic."""
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    changed = (each.reformat(width=width, height=height, interpolation="BICUBIC") for each in pictures)
    return [np.asarray(each.to_ndarray(), np.uint8) for each in changed]


def through_gif(frames: Frames) -> Frames:
    """Return frames as they come out of a GIF."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        write_frames(path, frames, GifSink(_FPS, {}))
        return decoded(path.read_bytes())


def luma(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a frame's brightness."""
    return np.asarray(frame @ np.array([0.299, 0.587, 0.114], np.float32), np.uint8)


def table(rows: list[dict[str, Any]]) -> str:
    """Return all that was measured as Markdown."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows if "found" in row):
        clips = [row for row in rows if row["kind"] == kind]
        mean = {
            key: np.mean([row[key] for row in clips]) for key in ("psnr", "ssim", "growth", "milliseconds", "encoding")
        }
        lines += [
            f"{kind}, {len(clips)} clips: {mean['psnr']:.1f} dB (least {min(row['psnr'] for row in clips):.1f}), "
            f"SSIM {mean['ssim']:.4f}, files x{mean['growth']:.2f} (most {max(row['growth'] for row in clips):.2f}); "
            f"{mean['milliseconds']:.1f} ms of processor time a frame, encoding {mean['encoding']:.1f} ms",
            "",
            "| attack | read | bits right, mean (least) | read wrong |",
            "|---|---|---|---|",
        ]
        for attack in clips[0]["found"]:
            found = [row["found"][attack] for row in clips]
            right = [share for _, share, _ in found]
            lines.append(
                f"| {attack} | {sum(f[0] for f in found)} of {len(found)} | {np.mean(right):.1%} ({min(right):.1%}) | "
                f"{sum(f[2] for f in found)} |"
            )
        lines.append("")
    if plain := [row for row in rows if row["kind"] == "unmarked"]:
        scores = [row["score"] for row in plain]
        lines.append(
            f"{len(plain)} unmarked clips: {sum(row['false'] for row in plain)} called marked; scores up to {max(scores):.2f}"
        )
    return "\n".join(lines)


def _even(number: int) -> int:
    return number // 2 * 2


if __name__ == "__main__":
    main()
