"""Write a small, valid bundle by hand: no torch, no export, a few kilobytes, so that tests can damage it by the hundred."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgereel.bundle.manifest import digest_of
from edgereel.bundle.reader import open_bundle, verify_bundle
from edgereel.core.errors import BundleError

WORDS = ["<pad>", "</s>", "<unk>", "a", "the", "red", "green", "ball", "square", "bounces", "slides", "over", "ocean"]
CHANNELS = 2
MAX_TOKENS = 6
GRAPHS = {
    "text_encoder": ("text_encoder.data", {"input_ids": "int64", "attention_mask": "int64"}, ["prompt_embeds"]),
    "denoiser": (
        "denoiser.data",
        {"latents": "float32", "timestep": "float32", "prompt_embeds": "float32"},
        ["prediction"],
    ),
    "decoder_first": ("decoder.data", {"latent": "float32"}, ["frames", "state_00"]),
    "decoder_next": ("decoder.data", {"latent": "float32", "state_00": "float32"}, ["frames", "state_00_next"]),
}


def write_small_bundle(folder: Path, change: Callable[[dict[str, Any]], object] = lambda data: None) -> Path:
    """Write the bundle and return its folder; change: edits the manifest before it is signed."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for data in {data for data, _, _ in GRAPHS.values()}:
        (folder / data).write_bytes(generator.bytes(512))
    for name, (data, inputs, outputs) in GRAPHS.items():
        (folder / f"{name}.onnx").write_bytes(graph(data, inputs, outputs).SerializeToString())
    _write_tokenizer(folder / "tokenizer.json")
    (folder / "MODEL_CARD.md").write_text("# A model of nothing\n\nAI-generated videos of noise.\n", newline="\n")
    manifest = _manifest()
    manifest["files"] = {path.name: _record(path) for path in sorted(folder.iterdir())}
    change(manifest)
    sign(folder, manifest)
    return folder


def sign(folder: Path, manifest: dict[str, Any]) -> None:
    """Write reel.json with the digest that belongs to it."""
    manifest["digest"] = digest_of(manifest)
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "reel.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Put other content in a file's place and declare it, as an attacker would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "reel.json").read_text(encoding="utf-8"))
    manifest["files"][name] = _record(folder / name)
    sign(folder, manifest)


def edit(reel: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle's manifest and sign it anew."""
    data = json.loads((reel / "reel.json").read_text(encoding="utf-8"))
    change(data)
    sign(reel, data)


def refused(reel: Path) -> str:
    """Return the one line with which both ways of opening refuse a bundle."""
    with pytest.raises(BundleError) as opening:
        open_bundle(reel)
    with pytest.raises(BundleError) as verifying:
        verify_bundle(reel)
    assert str(opening.value) == str(verifying.value)
    assert "\n" not in str(opening.value)
    return str(opening.value)


def graph(
    data: str, inputs: dict[str, str], outputs: list[str], offset: int = 0, length: int | None = 64
) -> onnx.ModelProto:
    """Return a graph with one weight in another file; it is well-formed but computes nothing of use."""
    nodes = [helper.make_node("Identity", ["weight"], [name]) for name in outputs]
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    body = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kinds[dtype], None) for name, dtype in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [external_tensor(data, offset, length)],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)])


def external_tensor(location: str, offset: int | None = 0, length: int | None = 64) -> onnx.TensorProto:
    """Return a float tensor whose values lie in another file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[16])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def _record(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _manifest() -> dict[str, Any]:
    roles: dict[str, Any] = {
        name: {
            "file": f"{name}.onnx",
            "data": data,
            "inputs": {key: {"dtype": dtype, "shape": ["any"]} for key, dtype in inputs.items()},
            "outputs": {key: {"dtype": "float32", "shape": ["any", 3]} for key in outputs},
        }
        for name, (data, inputs, outputs) in GRAPHS.items()
    }
    roles["denoiser"] = [roles["denoiser"]]
    common = {"shift": 3.0, "guidance": 4.0}
    return {
        "schema": 1,
        "name": "small",
        "license": "CC0-1.0",
        "origin": "a test",
        "roles": roles,
        "text": {"max_tokens": MAX_TOKENS, "pad_token_id": 0, "unknown_token_id": 2, "cleaning": []},
        "latent": {
            "channels": CHANNELS,
            "temporal_scale": 4,
            "spatial_scale": 8,
            "patch": [1, 2, 2],
            "max_patches": 8,
        },
        "recipes": [
            {"name": "best", "sampler": "unipc", "steps": 3, **common},
            {"name": "quick", "sampler": "euler", "steps": 2, **common},
        ],
        "precision": {"compute": "fp32", "weights": "fp32"},
        "defaults": {"width": 32, "height": 16, "frames": 9, "fps": 8},
        "written_by": {"edgereel": "0.1.0"},
        "parity": {"denoiser": {"relative": 1e-06, "limit": 0.0001, "shapes": ["1x2x1x2x2"]}},
        "quality": {"colour": 0.95},
    }


def _write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(WORDS[:3])
    tokenizer.save(str(path))
