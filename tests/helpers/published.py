"""A generator of the layouts that denoisers are published in: names × what stands in front × files × type of the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers.lora_files import original

Tensors = dict[str, torch.Tensor]

BEGINNINGS = (
    "",
    "model.diffusion_model.",
    "generator.model.",
    "_orig_mod.",
    "module.",
    "transformer.",
    "model._orig_mod.",
)
FILES = ("one", "variant", "sharded variant", "loose shards", "odd name", "single file", "single file alone")
NUMBERS = (
    "float32",
    "scaled by tensor",
    "bfloat16",
    "scaled by row",
    "plain float8",
    "int8",
    "scaled by block",
    "marked",
)


@dataclass(frozen=True)
class Published:
    """One layout. authors: tensors under the names of Wan's authors, and their configuration where it is a folder."""

    authors: bool
    beginning: str
    files: str
    numbers: str

    def __str__(self) -> str:
        return f"{'authors' if self.authors else 'diffusers'} {self.beginning or 'bare'} {self.files} {self.numbers}"

    def write(self, folder: Path, tensors: Tensors, config: dict[str, object]) -> tuple[Path, Tensors]:
        """Write a denoiser in the layout; return what to give as `--transformer` and the weights it should load as."""
        stored, expected = {}, {}
        for name, tensor in tensors.items():
            if self.authors:
                name_there = "head.modulation" if name == "scale_shift_table" else original(name)
                name_there = name_there.replace("scale_shift_table", "modulation").replace(".norm2.", ".norm3.")
            else:
                name_there = name
            made, expected[name] = self._numbers(self.beginning + name_there, tensor)
            stored |= made
        if self.numbers.startswith("scaled"):
            stored[f"{self.beginning}scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        folder.mkdir()
        return self._write(folder, stored, config), expected

    def _numbers(self, name: str, tensor: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "plain float8": torch.float8_e4m3fn}.get(
            self.numbers
        )
        linear = tensor.ndim == 2 and name.endswith(".weight") and tensor.shape[0] > 3
        if kind is not None or not linear:
            stored = tensor.to(kind if kind is not None and (linear or kind != torch.float8_e4m3fn) else torch.float32)
            return {name: stored}, stored.float()
        stem = name.removesuffix("weight")
        if self.numbers == "int8":
            scale = tensor.abs().amax(1, keepdim=True) / 127
            stored = (tensor / scale).round().to(torch.int8)
            return {name: stored, f"{stem}weight_scale": scale}, stored.float() * scale
        if self.numbers == "scaled by row":
            scale = tensor.abs().amax(1, keepdim=True) / 400
        elif self.numbers == "scaled by block":
            scale = (tensor.abs().unflatten(1, (2, -1)).amax(2, keepdim=True) / 400).contiguous()
        else:
            scale = tensor.abs().amax().reshape(()) / 400
        spread = scale.repeat_interleave(tensor.shape[1] // 2, 1).squeeze(2) if scale.ndim == 3 else scale
        stored = (tensor / spread).to(torch.float8_e4m3fn)
        made = {name: stored, f"{stem}{'weight_scale' if self.numbers == 'marked' else 'scale_weight'}": scale}
        if self.numbers == "marked":
            made[f"{stem}comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
            made[f"{stem}input_scale"] = torch.tensor(0.5)
        return made, stored.float() * spread

    def _write(self, folder: Path, stored: Tensors, config: dict[str, object]) -> Path:
        stem = "diffusion_pytorch_model"
        if self.files == "single file alone":
            save_file(stored, folder / "wan_distilled_4step.safetensors")
            return folder / "wan_distilled_4step.safetensors"
        (folder / "config.json").write_text(json.dumps(authors_config(config) if self.authors else config))
        if self.files in ("odd name", "single file"):
            path = folder / "distilled.safetensors"
            save_file(stored, path)
            return path if self.files == "single file" else folder
        if self.files in ("one", "variant"):
            save_file(stored, folder / f"{stem}{'.bf16' if self.files == 'variant' else ''}.safetensors")
            return folder
        names = sorted(stored)
        halves = (names[::2], names[1::2])
        files = [
            f"{stem}{'.fp16' if self.files == 'sharded variant' else ''}-0000{n}-of-00002.safetensors" for n in (1, 2)
        ]
        for file, half in zip(files, halves, strict=True):
            save_file({name: stored[name] for name in half}, folder / file)
        if self.files == "sharded variant":
            places = {name: file for file, half in zip(files, halves, strict=True) for name in half}
            index = folder / f"{stem}.safetensors.index.fp16.json"
            index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return folder


def authors_config(config: dict[str, object]) -> dict[str, object]:
    """Return a configuration in the words of Wan's authors."""
    heads, size = int(str(config["num_attention_heads"])), int(str(config["attention_head_dim"]))
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": heads * size,
        "eps": 1e-06,
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config["freq_dim"],
        "in_dim": config["in_channels"],
        "model_type": "t2v",
        "num_heads": heads,
        "num_layers": config["num_layers"],
        "out_dim": config["out_channels"],
        "text_dim": config["text_dim"],
        "text_len": 512,
    }


def published(count: int) -> Iterator[Published]:
    """Yield that many layouts, in which everything of the generator occurs."""
    rounds = zip(
        cycle((True, False, True, False, False)),
        cycle(BEGINNINGS),
        cycle(FILES[1:] + FILES[:1]),
        cycle(NUMBERS),
        strict=False,
    )
    yield from (Published(*parts) for parts in islice(rounds, count))
