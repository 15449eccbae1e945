"""Weights that stay in their files: what is computed with them, and the bundle made of them, are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import lora_files
from helpers.tiny_wan import write_tiny_wan
from safetensors.torch import save_file
from torch import nn

from edgereel.core.errors import ParityError
from edgereel.export import Lora, export_checkpoint, parity, weights
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint, open_safetensors
from edgereel.export.graphs import DataFile
from edgereel.export.weights import Blanks, StoredWeight, blank_weights, cast_weights

SMALL = 1025
"""Above the number of values up to which the exporter compares constants, so that it must not look into a blank."""
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def write(folder: Path, dtype: torch.dtype) -> Path:
    return write_tiny_wan(folder / "checkpoint", seed=31, depth=1, heads=4, vae_levels=2, dtype=dtype, sharded=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights"), torch.bfloat16)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The bundle of that checkpoint, and its manifest."""
    bundle = tmp_path_factory.mktemp("exported") / "x.reel"
    return bundle, export_checkpoint(checkpoint, bundle)


@pytest.fixture
def all_stored(monkeypatch):
    monkeypatch.setattr(weights, "STORED_SIZE", SMALL)


def stored_in(module: nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if isinstance(weight, StoredWeight)}


def loaded(checkpoint: Path, name: str):
    return next(part for part in open_family(open_checkpoint(checkpoint)).parts if part.name == name).load()


def store(tensor: torch.Tensor, folder: Path, dtype: torch.dtype = torch.float32) -> StoredWeight:
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    save_file({"weight": tensor}, path)
    return StoredWeight(open_safetensors, path, "weight", tensor.shape, dtype)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        (None, "fp32"),
        pytest.param("fp32", "fp32", marks=pytest.mark.full),
        pytest.param("bf16", "fp16", marks=pytest.mark.full),
    ],
    ids=["bf16-fp32", "fp32-fp32", "bf16-fp16"],
)
def test_the_bundle_is_the_same_to_the_byte(kind, precision, tmp_path, monkeypatch, request):
    if kind is None:
        checkpoint, (read, _) = request.getfixturevalue("checkpoint"), request.getfixturevalue("exported")
    else:
        checkpoint, read = write(tmp_path, KINDS[kind]), tmp_path / "read" / "x.reel"
        read.parent.mkdir()
        export_checkpoint(checkpoint, read, precision=precision)
    restored = []
    restore = Blanks.restore

    def watch(self, *place):
        found = restore(self, *place)
        if found is not None:
            restored.append(tuple(found.stride()))
        return found

    monkeypatch.setattr(Blanks, "restore", watch)
    monkeypatch.setattr(weights, "STORED_SIZE", SMALL)
    export_checkpoint(checkpoint, tmp_path / "x.reel", precision=precision)
    assert len(restored) > 20
    assert any(strides[0] < strides[-1] for strides in restored), "none was transposed"
    assert {path.name: path.read_bytes() for path in (tmp_path / "x.reel").iterdir()} == {
        path.name: path.read_bytes() for path in read.iterdir()
    }


def test_graphs_too_large_to_fold_are_proved_unfolded(checkpoint, exported, tmp_path, monkeypatch):
    folded = exported[1].parity
    monkeypatch.setattr(parity, "FOLDED_BYTES", 0)
    unfolded = export_checkpoint(checkpoint, tmp_path / "unfolded.reel").parity
    assert folded.keys() == unfolded.keys()
    for name, proof in unfolded.items():
        assert 0 < proof.relative < 1e-5
        assert proof.shapes == folded[name].shapes


def test_a_wrong_graph_is_noticed_unfolded(checkpoint, all_stored, tmp_path, monkeypatch):
    """One weight in a thousand off by a tenth, as a wrong conversion might leave it."""
    add = DataFile.add

    def perturb(self, tensor, name):
        if tensor.ndim == 2:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            tensor.view(-1)[::1000] += 0.1
        return add(self, tensor, name)

    monkeypatch.setattr(DataFile, "add", perturb)
    monkeypatch.setattr(parity, "FOLDED_BYTES", 0)
    with pytest.raises(ParityError, match=r"text_encoder: .* 1e-04 is allowed"):
        export_checkpoint(checkpoint, tmp_path / "x.reel")


@torch.no_grad()
def test_modules_compute_the_same(checkpoint, monkeypatch):
    plain = {name: loaded(checkpoint, name) for name in ("text_encoder", "decoder")}
    monkeypatch.setattr(weights, "STORED_SIZE", SMALL)
    stored = {name: loaded(checkpoint, name) for name in plain}
    assert all(len(stored_in(module)) > 2 for module in stored.values())
    assert not any(stored_in(module) for module in plain.values())
    ids, mask = torch.randint(0, 64, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    latents = torch.randn(1, 4, 2, 3, 5)
    for run in (
        lambda modules: modules["text_encoder"](ids, mask).last_hidden_state,
        lambda modules: modules["decoder"].decode(latents, return_dict=False)[0],
    ):
        torch.testing.assert_close(run(stored), run(plain), rtol=1e-6, atol=1e-6)


def test_tied_weights_stay_tied_and_come_back(checkpoint, all_stored):
    module = loaded(checkpoint, "text_encoder")
    before = stored_in(module)
    with blank_weights(module):
        assert not stored_in(module)
        assert module.shared.weight.data_ptr() == module.encoder.embed_tokens.weight.data_ptr()
    assert stored_in(module) == before


def test_loras_are_fused_into_stored_weights(checkpoint, tmp_path, monkeypatch):
    shapes = loaded(checkpoint, "denoiser")
    torch.manual_seed(32)
    path = tmp_path / "lora.safetensors"
    save_file(lora_files.peft(shapes), path)

    def fused():
        family = open_family(open_checkpoint(checkpoint))
        family.add_loras([Lora.of(path)])
        return family.parts[1].load()

    plain = fused()
    monkeypatch.setattr(weights, "STORED_SIZE", SMALL)
    stored = dict(fused().named_parameters())
    for name, expected in plain.named_parameters():
        assert torch.equal(stored[name] + 0, expected), name


@pytest.mark.parametrize("dtype", KINDS.values(), ids=KINDS)
def test_values_are_read_and_cast(dtype, tmp_path):
    tensor = torch.randn(5, 7).to(dtype)
    weight = store(tensor, tmp_path)
    assert weight.dtype == torch.float32
    assert type(weight + 0) is torch.Tensor
    assert torch.equal(weight.values(), tensor.float())
    assert weight.exact().dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert torch.equal(weight.exact().float(), tensor.float())
    assert str(weight.path) in repr(weight)
    linear = nn.Linear(7, 5, bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    cast_weights(linear, torch.float16)
    assert isinstance(linear.weight, StoredWeight)
    assert linear.weight.dtype == torch.float16
    assert torch.equal(linear.weight.values(), tensor.to(torch.float32).to(torch.float16))


def test_rows_of_a_table_are_those_of_the_wide_one(tmp_path):
    table = torch.randn(50, 6).to(torch.bfloat16)
    ids = torch.randint(0, 50, (3, 4))
    rows = nn.functional.embedding(ids, store(table, tmp_path))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, table.float()[ids])


def test_blanks_remember_how_they_were_turned(tmp_path):
    tensors = [torch.randn(4, 5, 6), torch.randn(7, 3)]
    stored = [store(tensor, tmp_path) for tensor in tensors]
    blanks = Blanks(stored)
    for tensor, weight in zip(tensors, stored, strict=True):
        axes = tuple(reversed(range(tensor.ndim)))
        turned = blanks.blank(weight).permute(axes)
        found = blanks.restore(turned.data_ptr(), turned.shape, turned.stride())
        assert found is not None
        assert torch.equal(found, tensor.permute(axes))
    other = np.zeros(3, np.float32)
    assert blanks.restore(other.ctypes.data, (3,), (1,)) is None
    part = blanks.blank(stored[0])[1]
    with pytest.raises(RuntimeError, match="part of a stored weight"):
        blanks.restore(part.data_ptr(), part.shape, part.stride())
