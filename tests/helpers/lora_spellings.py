"""A generator of LoRA files: every wrapper, separator, pair of names and place of alpha that trainers are known to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers.lora_files import original

RANK = 4
ALPHA = 6.0
DOTTED = (
    "",
    "transformer.",
    "diffusion_model.",
    "model.diffusion_model.",
    "base_model.model.",
    "transformer.base_model.model.",
    "base_model.model.transformer.",
    "_orig_mod.",
    "module.",
    "diffusion_model._orig_mod.",
    "pipe.dit.",
)
FLAT = ("lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_", "lora_unet__orig_mod_")
PAIRS = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_A.my_style.weight", "lora_B.my_style.weight"),
    ("lora_A", "lora_B"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
)
PLACES = (
    "tensor",
    "metadata",
    "metadata without prefix",
    "header lora_alpha",
    "header alpha",
    "header network_alpha",
    "header with prefix",
    "JSON",
    "adapter_config",
    "nowhere",
)
MODULES = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj", "blocks.0.ffn.net.2")


@dataclass(frozen=True)
class Spelling:
    """One way to write a LoRA file. authors: modules in the authors' names, else in diffusers'."""

    wrapper: str
    pair: tuple[str, str]
    place: str
    authors: bool

    def __str__(self) -> str:
        return f"{self.wrapper or 'bare'} {self.pair[0]} {self.place} {'authors' if self.authors else 'diffusers'}"

    @property
    def factor(self) -> float:
        """alpha / rank as the file has it."""
        return 1.0 if self.place == "nowhere" else ALPHA / RANK

    def write(self, folder: Path, model: torch.nn.Module) -> tuple[Path, dict[str, torch.Tensor]]:
        """Write the file; return it and the changes it should make at scale 1, by parameter."""
        tensors, expected = {}, {}
        for module in MODULES:
            shape = model.get_parameter(f"{module}.weight").shape
            down, up = torch.randn(RANK, shape[1]), torch.randn(shape[0], RANK)
            name = original(module) if self.authors else module
            stem = self.wrapper + (name.replace(".", "_") if self.wrapper in FLAT else name)
            tensors[f"{stem}.{self.pair[0]}"], tensors[f"{stem}.{self.pair[1]}"] = down, up
            if self.place == "tensor":
                tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
            expected[f"{module}.weight"] = self.factor * (up @ down)
        path = folder / "lora.safetensors"
        save_file(tensors, path, self._metadata(folder))
        return path, expected

    def _metadata(self, folder: Path) -> dict[str, str] | None:
        peft = {"r": RANK, "lora_alpha": ALPHA}
        if self.place == "adapter_config":
            (folder / "adapter_config.json").write_text(json.dumps(peft | {"peft_type": "LORA"}))
        return {
            "metadata": {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in peft.items()})},
            "metadata without prefix": {"lora_adapter_metadata": json.dumps(peft)},
            "header lora_alpha": {"lora_alpha": str(ALPHA), "r": str(RANK)},
            "header alpha": {"alpha": str(ALPHA), "rank": str(RANK)},
            "header network_alpha": {"network_alpha": str(ALPHA), "network_dim": str(RANK)},
            "header with prefix": {"transformer.lora_alpha": str(ALPHA), "transformer.r": str(RANK)},
            "JSON": {"lora_config": json.dumps(peft)},
            "nowhere": {"format": "pt", "ss_network_alpha": "1"},
        }.get(self.place)


def spellings(count: int) -> Iterator[Spelling]:
    """Yield that many spellings, in which every wrapper, pair of names and place of alpha occurs."""
    wrappers = (*DOTTED, *FLAT)
    rounds = zip(cycle(wrappers), cycle(PAIRS), cycle(PLACES), cycle((True, False, True)), strict=False)
    yield from (Spelling(*parts) for parts in islice(rounds, count))
