"""What the manifest says about a tokenizer: the ids of its padding and of its unknown word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..bundle.tokenizer import load_tokenizer
from ..core.errors import BundleError, CheckpointError
from .layout import read_json


def pad_token_id(tokenizer: Path, default: int) -> int:
    """Return the id of the padding token that the tokenizer's configuration names, the default where it names none."""
    config = tokenizer.with_name("tokenizer_config.json")
    token = read_json(config).get("pad_token") if config.exists() else None
    if isinstance(token, dict):
        token = token.get("content")
    loaded = _load(tokenizer)
    found = loaded.token_to_id(token) if isinstance(token, str) else default
    if found is None:
        raise CheckpointError(f"{config}: pad_token {token!r} is not in tokenizer.json")
    return int(found)


def unknown_token_id(tokenizer: Path) -> int | None:
    """Return the id that stands for unknown words, None for tokenizers that spell any word out of pieces."""
    model: Any = read_json(tokenizer).get("model")
    if not isinstance(model, dict) or model.get("type") != "WordLevel":
        return None
    return _load(tokenizer).token_to_id(str(model.get("unk_token")))


def check_token_ids(tokenizer: Path, rows: int) -> None:
    """Raise CheckpointError where the tokenizer pads on the left, or has ids that the embedding table has no row for."""
    config = tokenizer.with_name("tokenizer_config.json")
    side = read_json(config).get("padding_side", "right") if config.exists() else "right"
    if side != "right":
        raise CheckpointError(f"{config}: padding_side is {side!r}; edgereel pads prompts on the right")
    largest = max(_load(tokenizer).get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= rows:
        raise CheckpointError(
            f"{tokenizer}: has the id {largest}, and the text encoder's table {rows} rows; "
            "is it the tokenizer of another model?"
        )


def _load(path: Path) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(f"{path}: file is missing; {_fast(path)}")
    try:
        return load_tokenizer(path, follow=True).tokenizer
    except BundleError as error:  # what the runtime would refuse is refused here
        raise CheckpointError(str(error)) from error


def _fast(path: Path) -> str:
    """Return the command that makes a fast tokenizer of what stands in the folder."""
    return (
        "save the checkpoint's tokenizer as a fast one: python -c \"from transformers import AutoTokenizer as A; "
        f"A.from_pretrained('{path.parent}').save_pretrained('{path.parent}')\""
    )
