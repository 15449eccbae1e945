"""How LoRA files name their tensors, as data, and which parameter of a model each one is for. Needs no torch.

A key is PREFIX + module + SUFFIX: `diffusion_model.blocks.0.self_attn.q` + `.lora_A.weight`. The module is spelled in one
of the model's namings (its own or its original authors'), dots replaced by underscores in kohya's files. Where they
come from: PEFT and diffusers (`transformer.`, `lora_A`, `lora_B`), kohya's sd-scripts and musubi-tuner (`lora_unet_`,
`lora_down`, `lora_up`, `alpha`), DiffSynth (`.default`), ComfyUI and LightX2V (`diffusion_model.`, `diff`, `diff_b`,
`diff_m`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

PREFIXES = ("", "transformer.", "diffusion_model.", "model.diffusion_model.")
FLAT_PREFIX = "lora_unet_"

SUFFIXES: dict[str, tuple[str, tuple[str, ...]]] = {
    ".lora_A.weight": ("down", (".weight",)),
    ".lora_B.weight": ("up", (".weight",)),
    ".lora_A.default.weight": ("down", (".weight",)),
    ".lora_B.default.weight": ("up", (".weight",)),
    ".lora_down.weight": ("down", (".weight",)),
    ".lora_up.weight": ("up", (".weight",)),
    ".alpha": ("alpha", (".weight",)),
    ".diff": ("diff", (".weight", "")),
    ".lora_B.bias": ("diff", (".bias",)),
    ".diff_b": ("diff", (".bias",)),
    ".diff_m": ("diff", (".modulation", ".scale_shift_table")),
}
"""What a suffix says: the tensor's part (down [r, in], up [out, r], alpha, diff) and the endings of the parameter."""

OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".lokr_": "LoKr",
    ".hada_": "LoHa",
    ".lora_mid.": "LoCon",
}
"""Adapters that are no plain LoRA, by what their keys contain."""

Naming = Callable[[str], str]
"""From the name of a parameter in the torch module to its name in a family of files."""

Match = tuple[str, str]
"""A parameter and the part of its change (see SUFFIXES)."""


def match_keys(keys: Sequence[str], parameters: Iterable[str], namings: Sequence[Naming]) -> dict[str, Match]:
    """Return the parameter and part of every key that has one, all read in the one naming that explains most.

    One naming for the whole file, since names may mean different layers: `norm3` of Wan's authors is diffusers' `norm2`.
    """
    parameters = list(parameters)
    readings = [_read(keys, _spellings(parameters, naming)) for naming in namings]
    return max(readings, key=len)


def other_kinds(keys: Iterable[str]) -> list[str]:
    """Return the kinds of adapter other than LoRA that the keys show."""
    keys = list(keys)
    return sorted({kind for mark, kind in OTHER_KINDS.items() if any(mark in key for key in keys)})


def _read(keys: Iterable[str], spellings: dict[str, str]) -> dict[str, Match]:
    matches = {}
    for key in keys:
        for spelled, part in _candidates(key):
            if spelled in spellings:
                matches[key] = (spellings[spelled], part)
    return matches


def _candidates(key: str) -> Iterator[tuple[str, str]]:
    for suffix, (part, endings) in SUFFIXES.items():
        if key.endswith(suffix):
            for ending in endings:
                yield key.removesuffix(suffix) + ending, part


def _spellings(parameters: Iterable[str], naming: Naming) -> dict[str, str]:
    """Return parameters by every way a file may spell them."""
    spellings: dict[str, str] = {}
    for parameter in parameters:
        name = naming(parameter)
        spellings |= {prefix + name: parameter for prefix in PREFIXES}
        module, _, ending = name.rpartition(".")
        spellings[f"{FLAT_PREFIX}{module.replace('.', '_')}.{ending}"] = parameter
    return spellings
