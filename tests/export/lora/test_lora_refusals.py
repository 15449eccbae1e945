"""LoRAs that cannot be fused: one line that names the file, and nothing left behind."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import lora_files
from helpers.tiny_wan import write_tiny_wan

from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import Lora, export_checkpoint
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("lora") / "checkpoint", seed=21, vae_levels=2)


KEY = "transformer.blocks.0.attn1.to_q"


def lora(path: Path, **changes: torch.Tensor | None) -> None:
    """Write a good pair for one layer (24 x 24), with changes; A, B, alpha stand for the keys of that layer."""
    names = {"A": f"{KEY}.lora_A.weight", "B": f"{KEY}.lora_B.weight", "alpha": f"{KEY}.alpha", "diff": f"{KEY}.diff"}
    tensors = {"A": torch.zeros(4, 24), "B": torch.zeros(24, 4)} | changes
    lora_files.save(path, {names.get(key, key): t for key, t in tensors.items() if t is not None})


class _Bomb:
    """Unpickling this ends the process: proof that nobody unpickles."""

    def __reduce__(self):
        return (sys.exit, (99,))


def configured(**config) -> Callable[[Path], object]:
    tensors = {f"{KEY}.lora_A.weight": torch.zeros(4, 24), f"{KEY}.lora_B.weight": torch.zeros(24, 4)}
    return lambda path: lora_files.save(path, tensors, config)


ZERO = torch.zeros(24, 24)


REFUSED = {
    "no file": (lambda p: None, "no such LoRA file"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "pickle in disguise": (lambda p: p.write_bytes(pickle.dumps(_Bomb())), "not a whole safetensors file"),
    "truncated": (lambda p: (lora(p), p.write_bytes(p.read_bytes()[:-8])), "not a whole safetensors file"),
    "empty": (lambda p: lora_files.save(p, {}), "holds no tensors"),
    "unknown keys": (
        lambda p: lora(p, **{f"blocks.{index}.attn9.to_q.lora_A.weight": ZERO for index in range(7)}),
        r"7 of 9 keys match nothing in this model: blocks\.0\.attn9\.to_q\.lora_A\.weight, .* and 2 more; to leave "
        "out what does not fit, write :partial behind the file",
    ),
    "deeper model": (
        lambda p: lora(p, **{"transformer.blocks.2.attn1.to_q.diff_b": ZERO}),
        "1 of 3 keys match nothing",
    ),
    "image-to-video": (
        lambda p: lora(p, **{"diffusion_model.blocks.0.cross_attn.k_img.diff_b": ZERO}),
        "1 of 3 keys match nothing",
    ),
    "second expert's prefix": (
        lambda p: lora(p, **{"transformer_2.proj_out.diff_b": ZERO}),
        "holds LoRAs for two denoisers, and this checkpoint has one",
    ),
    "namings mixed": (
        lambda p: lora(p, **{"diffusion_model.blocks.0.cross_attn.q.diff_b": torch.zeros(24)}),
        "1 of 3 keys match nothing",
    ),
    "DoRA": (lambda p: lora(p, **{f"{KEY}.dora_scale": ZERO}), "DoRA is not supported"),
    "LoHa": (lambda p: lora(p, A=None, B=None, **{f"{KEY}.hada_w1_a": ZERO}), "LoHa is not supported"),
    "ranks disagree": (lambda p: lora(p, A=torch.zeros(8, 24)), r"ranks disagree: .*lora_A.* \[8, 24\], .*\[24, 4\]"),
    "no rank": (lambda p: lora(p, A=torch.zeros(0, 24), B=torch.zeros(24, 0)), "changes nothing"),
    "vector": (lambda p: lora(p, A=torch.zeros(24)), "ranks disagree"),
    "wider model": (
        lambda p: lora(p, A=torch.zeros(4, 48), B=torch.zeros(48, 4)),
        r"wrong shape for blocks\.0\.attn1\.to_q\.weight \[24, 24\] .*\[4, 48\].*another model",
    ),
    "difference of another shape": (lambda p: lora(p, A=None, B=None, diff=torch.zeros(24)), "wrong shape"),
    "LoRA of a norm": (
        lambda p: lora(
            p, **{f"blocks.0.norm2.lora_{part}.weight": torch.zeros(s) for part, s in (("A", (4, 24)), ("B", (24, 4)))}
        ),
        r"wrong shape for blocks\.0\.norm2",
    ),
    "A without B": (lambda p: lora(p, B=None), r"to_q\.lora_A\.weight has no lora_B"),
    "B without A": (lambda p: lora(p, A=None), r"to_q\.lora_B\.weight has no lora_A"),
    "alpha alone": (lambda p: lora(p, A=None, B=None, alpha=torch.tensor(1.0)), "has no lora_A"),
    "alpha with many values": (lambda p: lora(p, alpha=torch.ones(2)), "not one number"),
    "twice": (
        lambda p: lora(p, **{f"{KEY}.lora_down.weight": torch.zeros(4, 24)}),
        r"lora_A\.weight and .*lora_down\.weight are the same part",
    ),
    "difference and LoRA": (lambda p: lora(p, diff=ZERO), "both a full difference and a LoRA"),
    "NaN": (lambda p: lora(p, A=torch.full((4, 24), torch.nan)), "not finite"),
    "infinite alpha": (lambda p: lora(p, alpha=torch.tensor(torch.inf)), "not finite"),
    "integers": (lambda p: lora(p, A=torch.zeros(4, 24, dtype=torch.int8)), "is I8"),
    "configuration is a list": (
        lambda p: configured(lora_alpha=[3])(p),
        r"lora_adapter_metadata has alpha \[3\] for every module, not a number",
    ),
    "configuration of another file": (
        lambda p: configured(lora_alpha=1, alpha_pattern={r".*\.to_[qk]": 2})(p),
        "no module of the file",
    ),
    "alpha pattern is a number": (lambda p: configured(alpha_pattern=3)(p), "alpha_pattern that is no object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_fused(case, checkpoint, tmp_path):
    damage, message = REFUSED[case]
    file = tmp_path / "file.safetensors"
    damage(file)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=message) as caught:
        export_checkpoint(checkpoint, tmp_path / "x.reel", loras=[file])
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_pickled_lora(checkpoint, tmp_path):
    (tmp_path / "lora.pt").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError, match="pickled weights can run code"):
        export_checkpoint(checkpoint, tmp_path / "x.reel", loras=[tmp_path / "lora.pt"])


def test_overflow(checkpoint, tmp_path):
    family = open_family(open_checkpoint(checkpoint))
    denoiser = next(part for part in family.parts if part.name == "denoiser")
    file = lora_files.save(tmp_path / "lora.safetensors", lora_files.kohya(denoiser.load()))
    family.add_loras([Lora(file, 1e39)])
    with pytest.raises(CheckpointError, match=r"overflows at scale 1e\+39"):
        denoiser.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.safetensors:strong", r"scale 'strong' is not a number; write FILE\[:SCALE\]"),
        ("a.safetensors:", "scale '' is not a number"),
        ("a.safetensors:nan", "not a finite number"),
        ("a.safetensors:inf@2", "not a finite number"),
        ("a.safetensors@3", "there is no denoiser 3"),
        ("a.safetensors@0", "there is no denoiser 0"),
        ("good.safetensors@2", "this checkpoint has one denoiser; leave out @2"),
    ],
)
def test_what_cannot_be_asked_for(text, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora(Path("good.safetensors"))
    with pytest.raises(UsageError, match=message):
        export_checkpoint(checkpoint, Path("x.reel"), loras=[text])
    assert not Path("x.reel").exists()
