"""Token embeddings outside the text encoder's graph: the same embeddings, and nothing but whole tables is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DEMO_REEL, edit_manifest

import edgereel
from edgereel.bundle.manifest import EmbeddingTable
from edgereel.bundle.reader import hash_file, open_bundle
from edgereel.calibration import quantize
from edgereel.calibration.graph_file import GraphFile
from edgereel.calibration.table import table_of
from edgereel.core.errors import BundleError, UsageError
from edgereel.runtime.describe import describe
from edgereel.runtime.text.embedder import Prompt
from edgereel.runtime.text.token_table import TokenTable

PROMPT = "a red ball bounces over the ocean"


def embedding_of(bundle: Path) -> np.ndarray:
    with edgereel.load(bundle, cache=False) as reel:
        return reel.embedder.embed([Prompt(PROMPT)], None)[0].numpy()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, its text encoder as it was but for the table."""
    path: Path = tmp_path_factory.mktemp("outside") / "outside.reel"
    quantize(DEMO_REEL, path, precision="int8", text_encoder="keep", table_outside=True, compare=False)
    return path


def test_embeddings_are_the_same(outside: Path) -> None:
    assert np.array_equal(embedding_of(outside), embedding_of(DEMO_REEL))


def test_a_float32_table_of_another_model(random_reel: Path, tmp_path: Path) -> None:
    quantize(random_reel, tmp_path / "x.reel", precision="int8", text_encoder="keep", table_outside=True, compare=False)
    table = open_bundle(tmp_path / "x.reel").manifest.text.embedding_table
    assert table is not None
    assert table.dtype == "float32"
    assert np.array_equal(embedding_of(tmp_path / "x.reel"), embedding_of(random_reel))


def test_the_table_is_in_its_file_alone_and_the_manifest_says_so(outside: Path) -> None:
    bundle = open_bundle(outside)
    table = bundle.manifest.text.embedding_table
    assert table is not None
    assert (table.dtype, table.columns) == ("bfloat16", 128)
    assert bundle.path(table.file).stat().st_size == 2 * table.rows * table.columns
    data = [folder / "text_encoder.data" for folder in (DEMO_REEL, outside)]
    assert data[0].stat().st_size - data[1].stat().st_size >= 2 * table.rows * table.columns
    graph = onnx.load(outside / "text_encoder.onnx", load_external_data=False).graph
    assert {value.name for value in graph.input} == {"token_embeds", "attention_mask"}
    assert bundle.manifest.roles.text_encoder.inputs["token_embeds"].shape[-1] == 128
    assert f"{table.rows} tokens in token_embeddings.bin" in describe(bundle)
    onnx.checker.check_model(str(outside / "text_encoder.onnx"))


def test_another_table_is_another_embedding(outside: Path, tmp_path: Path) -> None:
    """The cache must not give what another table made."""
    other = Path(shutil.copytree(outside, tmp_path / "other.reel"))
    path = other / "token_embeddings.bin"
    path.write_bytes(bytes(path.stat().st_size))
    record = {"size": path.stat().st_size, "sha256": hash_file(path)}
    edit_manifest(other, lambda data: data["files"].update({path.name: record}))
    with edgereel.load(outside) as reel:
        before = reel.embedder.embed([Prompt(PROMPT)], None)[0].numpy()
    with edgereel.load(other) as reel:
        after = reel.embedder.embed([Prompt(PROMPT)], None)[0].numpy()
        assert reel.embedder.cached == 0
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_are_read_exactly(dtype: str, tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    values = np.random.default_rng().standard_normal((11, 6)).astype(kind)
    (tmp_path / "t.bin").write_bytes(values.tobytes())
    table = TokenTable(tmp_path / "t.bin", EmbeddingTable(file="t.bin", dtype=dtype, rows=11, columns=6))
    ids = np.random.default_rng().integers(0, 11, (2, 5))
    found = table.look_up(ids)
    assert (found.dtype, found.shape) == (np.float32, (2, 5, 6))
    assert np.array_equal(found, values[ids].astype(np.float32))
    for wrong in (11, -1):
        with pytest.raises(BundleError, match="has 11 rows"):
            table.look_up(np.array([[0, wrong]]))


def test_a_table_that_shrinks_while_it_is_used(tmp_path: Path) -> None:
    """Were it mapped into memory, the system would end the process here."""
    (tmp_path / "t.bin").write_bytes(bytes(2**20))
    table = TokenTable(tmp_path / "t.bin", EmbeddingTable(file="t.bin", dtype="float16", rows=2**13, columns=64))
    assert table.look_up(np.array([[8000]])).shape == (1, 1, 64)
    os.truncate(tmp_path / "t.bin", 128)
    assert table.look_up(np.array([[0, 0]])).shape == (1, 2, 64)
    with pytest.raises(BundleError, match="has become shorter since it was opened"):
        table.look_up(np.array([[0, 8000]]))
    (tmp_path / "t.bin").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        table.look_up(np.array([[0]]))


def test_a_table_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(bytes(100))
    with pytest.raises(BundleError, match="100 bytes are not a table of 11 x 6 float16"):
        TokenTable(tmp_path / "t.bin", EmbeddingTable(file="t.bin", dtype="float16", rows=11, columns=6))
    with pytest.raises(BundleError, match="cannot be read"):
        TokenTable(tmp_path / "none.bin", EmbeddingTable(file="none.bin", dtype="float16", rows=11, columns=6))


@pytest.mark.parametrize(
    ("name", "complaint"), [("../t.bin", "embedding_table"), ("other.bin", "not listed under files")]
)
def test_a_table_outside_the_bundle_is_refused(demo_copy: Path, name: str, complaint: str) -> None:
    table = {"file": name, "dtype": "float32", "rows": 72, "columns": 128}
    edit_manifest(demo_copy, lambda data: data["text"].update(embedding_table=table))
    with pytest.raises(BundleError, match=complaint):
        open_bundle(demo_copy)


def test_a_text_encoder_without_a_table(outside: Path) -> None:
    with pytest.raises(UsageError, match="has no table of token embeddings that could be taken out"):
        table_of(GraphFile(outside / "text_encoder.onnx", "text_encoder"))
