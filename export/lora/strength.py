"""How strong a LoRA is meant to be: where its file, or the file beside it, says its alpha.

Looked for in this order, the first that speaks decides: an `alpha` tensor of the layer; PEFT's configuration in the
header, as diffusers writes it; an alpha in the header in another spelling; `adapter_config.json` beside the file. Where
none does, alpha / rank counts as 1, as in diffusers and ComfyUI, and that is said: it is a guess of every program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import CheckpointError, brief, one_line
from ..layout import read_json
from .keys import strip_wrappers

CONFIG_KEY = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's configuration in a file's metadata."""
ADAPTER_CONFIG = "adapter_config.json"
"""Where PEFT keeps it, beside `adapter_model.safetensors`."""
PEFT_ALPHA = 8
"""PEFT's default."""
ALPHAS = ("lora_alpha", "alpha", "network_alpha")
RANKS = ("r", "rank", "lora_rank", "network_rank", "network_dim")
STABILISED = ("use_rslora", "rs_lora", "rslora", "rank_stabilized")
NESTED_SIZE = 2**20
"""Longest text of the header that is looked into for JSON, in characters."""
KOHYA = "ss_network_alpha"
"""Kohya's note on training. Converters that fold alpha into the weights keep it, so it is not relied on."""
NOTHING_FOUND = "no alpha found: fused at 1"


@dataclass(frozen=True)
class Strength:
    """What is said beside the tensors. alpha: None where nothing is said. source: who says it, or that nobody does."""

    source: str
    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    rank: float | None = None
    stabilised: bool = False

    def alpha_of(self, names: tuple[str, ...]) -> float | None:
        """Return the alpha of a module, given every name it has."""
        return _of(self.patterns, names, self.alpha)

    def rank_of(self, names: tuple[str, ...]) -> float | None:
        """Return the rank of a module as it is said, None where it is not."""
        return _of(self.ranks, names, self.rank)

    def factor(self, alpha: float, rank: float) -> float:
        """Return what a change of this rank is multiplied by: alpha / r or, rank-stabilised, alpha / sqrt(r)."""
        return alpha / (math.sqrt(rank) if self.stabilised else rank)


def read_strength(path: Path, metadata: Mapping[str, str], expert: int, ranks: set[int]) -> Strength:
    """Return what header and `adapter_config.json` say. Raises CheckpointError where it cannot be read.

    expert: the denoiser that the keys in question name (1 where they name none). ranks: of the file's layers.
    """
    if (text := metadata.get(CONFIG_KEY)) is not None:
        return _of_peft(path, _peft(path, text, expert), CONFIG_KEY)
    found = list(_spelled(path, metadata))
    said = {strength.alpha for strength in found}
    if len(said) > 1:
        listed = ", ".join(f"{strength.source} {strength.alpha:g}" for strength in found)
        return Strength(f"{NOTHING_FOUND} (its header has alphas that disagree: {listed})")
    if found:
        rank = next((strength.rank for strength in found if strength.rank is not None), None)
        if rank is not None and rank not in ranks:
            return Strength(
                f"{NOTHING_FOUND} (its header has an alpha for rank {rank:g}; the ranks are {_listed(ranks)})"
            )
        return next((strength for strength in found if strength.stabilised), found[0])
    return _beside(path, metadata)


def _beside(path: Path, metadata: Mapping[str, str]) -> Strength:
    config = path.with_name(ADAPTER_CONFIG)
    if config.is_file():
        others = [file for file in path.parent.glob("*.safetensors") if file.name != path.name]
        if path.name == "adapter_model.safetensors" or not others:
            return _of_peft(config, read_json(config), ADAPTER_CONFIG)
        return Strength(f"{NOTHING_FOUND} ({ADAPTER_CONFIG} beside it may be another file's)")
    if KOHYA in metadata:
        said = one_line(metadata[KOHYA])[:20]
        return Strength(f"{NOTHING_FOUND} (its header's {KOHYA} {said} is not relied on: converters keep it)")
    return Strength(NOTHING_FOUND)


def _peft(path: Path, text: str, expert: int) -> dict[str, Any]:
    """Return PEFT's configuration of one denoiser, the component's prefix off."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {CONFIG_KEY} is not valid JSON: {brief(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: {CONFIG_KEY} holds a JSON {type(data).__name__}, not an object")
    prefixes = {key.rpartition(".")[0] for key in data}
    if not data or "" in prefixes:
        return {key: value for key, value in data.items() if "." not in key}
    named = {prefix: strip_wrappers(prefix) for prefix in sorted(prefixes)}
    for wanted in (expert, None):
        for prefix, (rest, of) in named.items():
            if not rest and of == wanted:
                return {_bare(key): value for key, value in data.items() if key.rpartition(".")[0] == prefix}
    listed = ", ".join(one_line(prefix) for prefix in sorted(prefixes)[:5])
    raise CheckpointError(
        f"{path}: {CONFIG_KEY} is for {listed}, not for the transformer that the tensors are for; "
        "how strong they are meant to be is unknown: save the LoRA again"
    )


def _of_peft(path: Path, config: Mapping[str, Any], source: str) -> Strength:
    """Return what PEFT's LoraConfig or LoKrConfig says."""
    for key in ("alpha_pattern", "rank_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise CheckpointError(f"{path}: {source} has an {key} that is no object")
    alpha = config.get("lora_alpha", config.get("alpha", PEFT_ALPHA))
    patterns = {
        str(key): _number(path, f"{source} has alpha", value, key)
        for key, value in (config.get("alpha_pattern") or {}).items()
    }
    ranks = {
        str(key): _number(path, f"{source} has rank", value, key)
        for key, value in (config.get("rank_pattern") or {}).items()
    }
    rank = config.get("r")
    return Strength(
        f"alpha from {source}",
        _number(path, f"{source} has alpha", alpha, "every module"),
        patterns,
        ranks,
        None if rank is None else _number(path, f"{source} has rank", rank, "every module"),
        config.get("use_rslora") is True,
    )


def _spelled(path: Path, metadata: Mapping[str, str]) -> Iterator[Strength]:
    """Yield every alpha that the header has in a spelling of its own, or in JSON under any key."""
    tables: dict[str, dict[str, Any]] = {"the header's ": dict(metadata)}
    for key, text in metadata.items():
        if key.startswith("ss_") or not text.lstrip().startswith("{") or len(text) > NESTED_SIZE:
            continue
        try:
            nested = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(nested, dict):
            tables[f"the header's {one_line(key)[:40]}, "] = nested
    for where, table in tables.items():
        if table.get("alpha_pattern") or table.get("peft_type"):
            yield _of_peft(path, table, where.removesuffix(", "))
            continue
        bare = {_bare(str(key)): value for key, value in table.items() if _is_ours(str(key))}
        rank = next((number for name in RANKS if (number := _read_number(bare.get(name))) is not None), None)
        stabilised = any(str(bare.get(name)).lower() == "true" for name in STABILISED)
        for name in ALPHAS:
            if (alpha := _read_number(bare.get(name))) is not None:
                yield Strength(f"alpha from {where}{name}", alpha, rank=rank, stabilised=stabilised)


def _bare(key: str) -> str:
    return key.rpartition(".")[2]


def _is_ours(key: str) -> bool:
    """Tell whether a key has no prefix but a denoiser's."""
    prefix = key.rpartition(".")[0]
    return not key.startswith("ss_") and not strip_wrappers(prefix)[0]


def _read_number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _number(path: Path, what: str, value: Any, module: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{path}: {what} {value!r} for {module}, not a number")
    return float(value)


def _of(patterns: Mapping[str, float], names: tuple[str, ...], default: float | None) -> float | None:
    return next((value for pattern, value in patterns.items() if is_of(pattern, names)), default)


def is_of(pattern: str, names: tuple[str, ...]) -> bool:
    """Tell whether a pattern names a module. PEFT takes regular expressions; diffusers writes names, with ^ in front."""
    name, _ = strip_wrappers(pattern.removeprefix("^").removesuffix("$"))
    return any(module == name or module.endswith(f".{name}") for module in names)


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:5]))
