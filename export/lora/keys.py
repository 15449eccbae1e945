"""How LoRA files name their tensors, as data, and which parameter of a model each one is for. Needs no torch.

A key is WRAPPERS + module + SUFFIX: `base_model.model.` + `blocks.0.self_attn.q` + `.lora_A.weight`. Trainers and wrappers
of modules put names in front and in between, which say nothing about the layer; the module is spelled in one of the
model's namings (its own or its original authors'), dots replaced by underscores in kohya's and LyCORIS' files. A key is
understood only where everything in front of the module is known: what is not is named, never skipped.

Where they come from: PEFT (`base_model.model.`, `lora_A`, `lora_B`), diffusers (`transformer.`, `lora.down`), kohya's
sd-scripts and musubi-tuner (`lora_unet_`, `lora_down`, `lora_up`, `alpha`), LyCORIS (`lycoris_`, `lokr_`), OneTrainer
(`lora_transformer_`), DiffSynth (`.default`, `dit.`), ComfyUI and LightX2V (`diffusion_model.`, `diff`, `diff_b`, `diff_m`),
torch's compiler and parallel wrappers (`_orig_mod.`, `module.`, `_fsdp_wrapped_module.`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

WRAPPERS = frozenset(
    ("base_model", "model", "transformer", "diffusion_model", "dit", "pipe", "denoiser", "generator", "net", "lora")
)
"""Segments in front of a module that say nothing about the layer."""

INNER = frozenset(
    ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer", "processor")
)
"""Segments that say nothing wherever they stand."""

FLAT_WRAPPERS = ("lora_unet", "lora_transformer", "lora_dit", "lycoris")
FLAT_INNER = ("model", "diffusion_model", "base_model", "dit", "module")
"""What a flat name begins with, and what may follow it before the module."""

EXPERTS = {
    "transformer_2": 2,
    "dit2": 2,
    "low_noise": 2,
    "low_noise_model": 2,
    "high_noise": 1,
    "high_noise_model": 1,
}
"""Segments that say which of two denoisers a key is for, 1 that of the high noise levels."""

_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"  # a name that PEFT gives an adapter: `lora_A.default.weight`
_PATTERNS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (rf"\.lora_A{_ADAPTER}(?:\.weight)?", "down", (".weight",)),
    (rf"\.lora_B{_ADAPTER}\.bias", "up_bias", (".bias",)),
    (rf"\.lora_B{_ADAPTER}(?:\.weight)?", "up", (".weight",)),
    (r"(?:\.|_)lora(?:_linear_layer)?\.down(?:\.weight)?", "down", (".weight",)),
    (r"(?:\.|_)lora(?:_linear_layer)?\.up(?:\.weight)?", "up", (".weight",)),
    (r"[._]lora_down(?:\.weight)?", "down", (".weight",)),
    (r"[._]lora_up(?:\.weight)?", "up", (".weight",)),
    (r"\.(?:lora\.|lora_|network_)?alpha", "alpha", (".weight",)),
    (r"\.diff", "diff", (".weight", "")),
    (r"\.diff_b", "diff", (".bias",)),
    (r"\.diff_m", "diff", (".modulation", ".scale_shift_table")),
    *((rf"\.lokr_{part}{_ADAPTER}", f"lokr_{part}", (".weight",)) for part in ("w1_a", "w1_b", "w2_a", "w2_b")),
    *((rf"\.lokr_{part}{_ADAPTER}", f"lokr_{part}", (".weight",)) for part in ("w1", "w2")),
)
SUFFIXES = tuple((re.compile(f"^(.*){pattern}$"), part, endings) for pattern, part, endings in _PATTERNS)
"""What a suffix says: the tensor's part (down [r, in], up [out, r], its bias, alpha, diff, the factors of LoKr) and the
endings of the parameter."""

OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".lokr_t2": "LoKr with a Tucker core",
    ".hada_": "LoHa",
    ".lora_mid.": "LoCon",
}
"""Adapters that cannot be fused, by what their keys contain."""

SEARCHED = 200
LONGEST_KEY = 500
"""How many keys that match nothing are looked into for what stands in front, and how long they may be."""

Naming = Callable[[str], str]
"""From the name of a parameter in the torch module to its name in a family of files."""


class Match(NamedTuple):
    """What a key is: the parameter it changes, the part of the change (see SUFFIXES), the module's spelling in the file,
    and the denoiser that the key itself names, None where it names none."""

    parameter: str
    part: str
    module: str
    expert: int | None


class Reading(NamedTuple):
    """A key taken apart. spelled: the module, wrappers off."""

    spelled: str
    part: str
    endings: tuple[str, ...]
    expert: int | None


def match_keys(keys: Sequence[str], parameters: Iterable[str], namings: Sequence[Naming]) -> dict[str, Match]:
    """Return what every key is that fits a parameter, all read in the one naming that explains most.

    One naming for the whole file, since names may mean different layers: `norm3` of Wan's authors is diffusers' `norm2`.
    """
    parameters = list(parameters)
    readings = [_matches(keys, spellings(parameters, naming)) for naming in namings]
    return max(readings, key=len)


def spellings(parameters: Iterable[str], naming: Naming) -> dict[str, str]:
    """Return parameters by their names in a naming, dots and underscores alike."""
    return {_flat(naming(parameter)): parameter for parameter in parameters}


def named_experts(keys: Iterable[str]) -> set[int | None]:
    """Return the denoisers that the keys themselves name, None among them where some name none."""
    return {reading.expert for key in keys for reading in _readings(key)}


def other_kinds(keys: Iterable[str]) -> list[str]:
    """Return the kinds of adapter that cannot be fused and that the keys show."""
    keys = list(keys)
    return sorted({kind for mark, kind in OTHER_KINDS.items() if any(mark in key for key in keys)})


def strange_beginnings(keys: Iterable[str], parameters: Iterable[str], namings: Sequence[Naming]) -> list[str]:
    """Return what stands, not understood, in front of layers that the model has, in keys that match nothing."""
    parameters = list(parameters)
    names = sorted({name for naming in namings for name in spellings(parameters, naming)}, key=len, reverse=True)
    found = []
    for key in islice((key for key in keys if len(key) <= LONGEST_KEY), SEARCHED):
        wanted = {f"{_flat(stem)}_{ending[1:]}" for stem, _, endings in _split(key) for ending in endings if ending}
        for name, full in ((name, full) for full in wanted for name in names if full.endswith(f"_{name}")):
            begin = key[: _end_of(key, len(full) - len(name))]
            if begin not in found:
                found.append(begin)
            break
    return found


def strip_wrappers(name: str) -> tuple[str, int | None]:
    """Return a dotted name without the segments that say nothing, and the denoiser that it names."""
    segments = [segment for segment in name.split(".") if segment and segment not in INNER]
    expert = None
    while segments and (segments[0] in WRAPPERS or segments[0] in EXPERTS):
        expert = EXPERTS.get(segments[0], expert)
        segments.pop(0)
    return ".".join(segments), expert


def _matches(keys: Iterable[str], known: Mapping[str, str]) -> dict[str, Match]:
    matches = {}
    for key in keys:
        for reading in _readings(key):
            for ending in reading.endings:
                if (parameter := known.get(_flat(reading.spelled + ending))) is not None:
                    matches[key] = Match(parameter, reading.part, reading.spelled, reading.expert)
    return matches


def _readings(key: str) -> Iterator[Reading]:
    """Yield the ways to take a key apart, wrappers off."""
    for stem, part, endings in _split(key):
        spelled, expert = strip_wrappers(stem)
        yield Reading(spelled, part, endings, expert)
        for bare in _bare(spelled):
            yield Reading(bare, part, endings, expert)


def _split(key: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for pattern, part, endings in SUFFIXES:
        if (found := pattern.match(key)) is not None:
            yield found[1], part, endings
            return


def _bare(name: str) -> Iterator[str]:
    """Yield a flat name without its wrappers, one more off at a time."""
    for wrapper in FLAT_WRAPPERS:
        if name.startswith(f"{wrapper}_"):
            rest = name.removeprefix(wrapper).lstrip("_").removeprefix("orig_mod_")
            yield rest
            while wrapper := next((inner for inner in FLAT_INNER if rest.startswith(f"{inner}_")), ""):
                rest = rest.removeprefix(wrapper).lstrip("_").removeprefix("orig_mod_")
                yield rest


def _flat(name: str) -> str:
    """Return a name with every separator an underscore, one where there are several."""
    return re.sub(r"[._]+", "_", name.replace("._orig_mod", "").replace("__orig_mod_", "_")).strip("_")


def _end_of(key: str, length: int) -> int:
    """Return how much of a key makes up that many characters of its flat form."""
    return next((end for end in range(len(key)) if len(_flat(key[:end] + "x")) - 1 >= length), len(key))
