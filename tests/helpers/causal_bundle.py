"""A small bundle of a causal model, graphs and all, made by hand; and the same arithmetic in numpy, as a film at once.

Every number of the context, its positions, the prompt and the timestep matter to what the denoiser predicts. Latents have 3
channels, patches of one latent, two pictures each after the first, and half their height and width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser

from helpers.small_bundle import MAX_TOKENS, WORDS, sign, write_small_bundle

CHANNELS = 3
DEFAULTS = {"width": 8, "height": 6, "frames": 9, "fps": 4}
STREAM = {"chunk": 2, "window": 4, "sink": 1, "positions": "window"}
_HEAD = '<ir_version: 10, opset_import: ["" : 23]>'

TEXT = f"""{_HEAD}
text (int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask) => (float[batch, tokens, 3] prompt_embeds)
<float[3] phases = {{0.3, 1.1, 1.9}}, int64[1] last = {{2}}>
{{
  used = Mul(input_ids, attention_mask)
  ids = Cast<to = 1>(used)
  deep = Unsqueeze(ids, last)
  angles = Mul(deep, phases)
  prompt_embeds = Sin(angles)
}}"""

DENOISER = """{head}
denoiser (float[1, {latents}, frames, height, width] latents, {timestep} timestep, float[1, tokens, 3] prompt_embeds
  {inputs}) => (float[1, 3, frames, height, width] prediction {outputs})
<float[1] thousandth = {{0.001}}, float[1] half = {{0.5}}, float[1] tenth = {{0.1}}, int64[4] flat = {{0, 0, -1, 3}},
 int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] third = {{2}}, int64[2] middle = {{1, 2}}, int64[2] outer = {{2, 3}}
 {initializers}>
{{
  {body}
}}"""

CONTEXT_INPUTS = """, int64[frames] positions, int64[context] context_positions,
  {kind}[1, context, patches, 3] context_00, {kind}[1, context, patches, 3] context_01"""
CONTEXT_OUTPUTS = ", {kind}[1, frames, patches, 3] context_00_new, {kind}[1, frames, patches, 3] context_01_new"

CAUSAL_BODY = """
  moved = Transpose<perm = [0, 2, 3, 4, 1]>(latents)
  shape = Shape(moved)
  x = Reshape(moved, flat)
  text = ReduceMean<keepdims = 0>(prompt_embeds, second)
  deep_text = Unsqueeze(text, middle)
  level = Mul(timestep, thousandth)
  lit = Add(x, deep_text)
  y = Add(lit, level)
  keys = Mul(y, half)
  values = Tanh(y)
  context_00_new = Cast<to = {number}>(keys)
  context_01_new = Cast<to = {number}>(values)
  own_keys = Cast<to = 1>(context_00_new)
  own_values = Cast<to = 1>(context_01_new)
  seen_keys = Cast<to = 1>(context_00)
  seen_values = Cast<to = 1>(context_01)
  all_keys = Concat<axis = 1>(seen_keys, own_keys)
  all_values = Concat<axis = 1>(seen_values, own_values)
  mixed = Mul(all_keys, all_values)
  by_frame = Squeeze(mixed, first)
  each = Flatten<axis = 1>(by_frame)
  places = Concat<axis = 0>(context_positions, positions)
  here = Unsqueeze(positions, second)
  there = Unsqueeze(places, first)
  apart = Sub(here, there)
  far = Cast<to = 1>(apart)
  distance = Abs(far)
  near = Neg(distance)
  scaled = Mul(near, half)
  weights = Softmax<axis = -1>(scaled)
  attended = MatMul(weights, each)
  tokens_shape = Shape(x)
  back = Reshape(attended, tokens_shape)
  some = Mul(x, tenth)
  sum = Add(back, some)
  lifted = Add(sum, level)
  made = Tanh(lifted)
  whole = Reshape(made, shape)
  prediction = Transpose<perm = [0, 4, 1, 2, 3]>(whole)
"""

ENCODER = f"""{_HEAD}
encoder (float[1, 3, TIME, rows, columns] pictures STATE_IN)
  => (float[1, 3, 1, height, width] latent, float[1, 3, 1, height, width] STATE)
<int64[1] time = {{2}}, float[1] quarter = {{0.25}}>
{{
  small = AveragePool<kernel_shape = [1, 2, 2], strides = [1, 2, 2]>(pictures)
  mean = ReduceMean<keepdims = 1>(small, time)
  BODY
  STATE = Identity(latent)
}}"""

DECODER = f"""{_HEAD}
decoder (float[1, 3, 1, height, width] latent STATE_IN)
  => (float[1, 3, TIME, rows, columns] frames, float[1, 3, 1, height, width] STATE)
<float[1] half = {{0.5}}, float[1] much = {{0.75}}, float[1] little = {{0.25}}, float[5] scales = {{1, 1, 1, 2, 2}}>
{{
  BODY
  large = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(told, , scales)
  frames = Tanh(large)
}}"""


STATE_IN = ", float[1, 3, 1, height, width] state_00"
FIRST_CODE = "latent = Identity(mean)"
NEXT_CODE = """
  older = Mul(state_00, quarter)
  latent = Add(mean, older)"""
FIRST_SHOWN = """
  told = Identity(latent)
  state_00 = Identity(latent)"""
NEXT_SHOWN = """
  both = Add(latent, state_00)
  between = Mul(both, half)
  told = Concat<axis = 2>(between, latent)
  newer = Mul(latent, much)
  older = Mul(state_00, little)
  state_00_next = Add(newer, older)"""


def _filled(text: str, time: int, body: str) -> str:
    following = time > 1
    text = text.replace("TIME", str(time)).replace("STATE_IN", STATE_IN if following else "")
    return text.replace("STATE", "state_00_next" if following else "state_00").replace("BODY", body)


def _graphs(kind: str) -> dict[str, str]:
    denoiser = DENOISER.format(
        head=_HEAD,
        latents=3,
        timestep="float[1]",
        inputs=CONTEXT_INPUTS.format(kind=kind),
        outputs=CONTEXT_OUTPUTS.format(kind=kind),
        initializers="",
        body=CAUSAL_BODY.format(number={"float16": 10, "float": 1}[kind]),
    )
    return {
        "text_encoder": TEXT,
        "denoiser": denoiser,
        "encoder_first": _filled(ENCODER, 1, FIRST_CODE),
        "encoder_next": _filled(ENCODER, 2, NEXT_CODE),
        "decoder_first": _filled(DECODER, 1, FIRST_SHOWN),
        "decoder_next": _filled(DECODER, 2, NEXT_SHOWN),
    }


def write_causal_bundle(
    folder: Path,
    *,
    stream: dict[str, Any] | None = None,
    kind: str = "float16",
    change: Callable[[dict[str, Any]], object] = lambda data: None,
) -> Path:
    """Write the bundle and return its folder. stream: what differs from STREAM. kind: the context's type."""
    write_small_bundle(folder)
    graphs = _graphs(kind)
    data = json.loads((folder / "reel.json").read_text(encoding="utf-8"))
    data["roles"] = {}
    for name, text in graphs.items():
        model = onnx.parser.parse_model(text)
        content = model.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        entry = {"file": f"{name}.onnx", "data": "decoder.data", **_interface(model)}
        data["roles"][name] = [entry] if name == "denoiser" else entry
    data |= {
        "schema": 2,
        "read_by": "0.2.0",
        "latent": {"channels": 3, "temporal_scale": 2, "spatial_scale": 2, "patch": [1, 1, 1], "max_patches": 64},
        "defaults": DEFAULTS,
        "recipes": [
            {"name": "plain", "sampler": "euler", "steps": 3, "shift": 2.0, "guidance": 1.0},
            {"name": "anew", "sampler": "sde", "steps": 2, "shift": 2.0, "guidance": 1.0},
            {"name": "guided", "sampler": "euler", "steps": 2, "shift": 2.0, "guidance": 3.0},
        ],
        "stream": {**STREAM, **(stream or {})},
    }
    del data["parity"]
    change(data)
    record_files(folder, data)
    sign(folder, data)
    return folder


def record_files(folder: Path, data: dict[str, Any]) -> None:
    """Declare every file of the folder."""
    from helpers.small_bundle import _record

    data["files"] = {path.name: _record(path) for path in sorted(folder.iterdir()) if path.name != "reel.json"}


def _interface(model: onnx.ModelProto) -> dict[str, Any]:
    names = {1: "float32", 7: "int64", 10: "float16"}

    def extent(dim: Any) -> Any:
        scaled = {"rows": "height*2", "columns": "width*2"}
        return scaled.get(dim.dim_param, dim.dim_param) or dim.dim_value

    def specs(values: Any) -> dict[str, Any]:
        return {
            value.name: {
                "dtype": names[value.type.tensor_type.elem_type],
                "shape": [extent(dim) for dim in value.type.tensor_type.shape.dim],
            }
            for value in values
        }

    return {"inputs": specs(model.graph.input), "outputs": specs(model.graph.output)}


# The same in numpy.


def embedding(prompt: str) -> np.ndarray:
    """Return the mean over all tokens, padding included, of what the text encoder gives: [3]."""
    ids = [WORDS.index(word) for word in prompt.split()] + [1]
    padded = np.array(ids + [0] * (MAX_TOKENS - len(ids)), np.float32)
    return np.sin(padded[:, None] * np.array([0.3, 1.1, 1.9], np.float32)).mean(axis=0)


@dataclass
class Remembered:
    """Keys and values [P, S, 3] of frames by their numbers."""

    numbers: list[int]
    keys: np.ndarray
    values: np.ndarray


def denoise(
    latents: np.ndarray,
    timestep: float,
    text: np.ndarray,
    places: list[int],
    seen: Remembered,
    seen_places: list[int],
    half: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return prediction, keys and values of latents [3, F, H, W] in sight of what is remembered."""
    _, frames, height, width = latents.shape
    x = latents.transpose(1, 2, 3, 0).reshape(frames, -1, 3)
    y = x + text + np.float32(timestep / 1000)
    kind = np.float16 if half else np.float32
    keys, values = (y * np.float32(0.5)).astype(kind), np.tanh(y).astype(kind)
    product = np.concatenate([seen.keys.astype(np.float32), keys.astype(np.float32)]) * np.concatenate(
        [seen.values.astype(np.float32), values.astype(np.float32)]
    )
    distance = np.abs(np.array(places)[:, None] - np.array([*seen_places, *places])[None])
    weights = np.exp(-distance * 0.5)
    weights /= weights.sum(axis=1, keepdims=True)
    attended = np.einsum("fp,psc->fsc", weights, product)
    made = np.tanh(attended + 0.1 * x + timestep / 1000)
    return made.reshape(frames, height, width, 3).transpose(3, 0, 1, 2).astype(np.float32), keys, values


def nothing(latents: np.ndarray) -> Remembered:
    """Return what is remembered of no frame."""
    empty = np.zeros((0, latents.shape[-1] * latents.shape[-2], 3), np.float32)
    return Remembered([], empty, empty)


def window_of(numbers: list[int], stream: dict[str, Any]) -> list[int]:
    """Return which frames are remembered of those."""
    sink = [number for number in numbers if number < stream["sink"]]
    others = [number for number in numbers if number >= stream["sink"]]
    room = stream["window"] - stream["sink"]
    return sink + (others[-room:] if room else [])


def places_of(numbers: Sequence[int], made: Sequence[int], stream: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the places in time of remembered and of made frames."""
    if stream.get("positions", "clip") == "clip":
        return list(numbers), list(made)
    return list(range(len(numbers))), list(range(len(numbers), len(numbers) + len(made)))


def remember(
    film: dict[int, np.ndarray], chunks: list[list[int]], text: np.ndarray, stream: dict[str, Any], half: bool
) -> Remembered:
    """Return what is remembered of frames [3, H, W] by number, all with one prompt, one chunk after the other."""
    example = next(iter(film.values()))
    seen = nothing(example)
    for numbers in chunks:
        there, here = places_of(seen.numbers, numbers, stream)
        latents = np.stack([film[number] for number in numbers], axis=1)
        _, keys, values = denoise(latents, stream.get("remember_timestep", 0), text, here, seen, there, half)
        everything = seen.numbers + numbers
        all_keys, all_values = np.concatenate([seen.keys, keys]), np.concatenate([seen.values, values])
        kept = window_of(everything, stream)
        at = [everything.index(number) for number in kept]
        seen = Remembered(kept, all_keys[at], all_values[at])
    return seen
