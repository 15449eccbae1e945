"""A text encoder's token embeddings, kept outside its graph: rows are looked up on the host, the rest stays on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import EmbeddingTable
from ...core.errors import BundleError

# numpy has no bfloat16: its two bytes are the upper half of a float32.
_STORED_AS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


class TokenTable:
    """The rows of a table file, memory-mapped."""

    def __init__(self, path: Path, table: EmbeddingTable) -> None:
        """Raises BundleError where the file does not have the bytes that its shape takes."""
        self._path, self._table = path, table
        dtype = _STORED_AS[table.dtype]
        try:
            size = path.stat().st_size
            if size != table.rows * table.columns * dtype.itemsize:
                raise BundleError(
                    f"{path}: {size} bytes are not a table of {table.rows} x {table.columns} {table.dtype}"
                )
            self._rows: NDArray[Any] = np.memmap(path, dtype, "r", shape=(table.rows, table.columns))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from error

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings, float32 [B, L, E], of token ids [B, L]. Raises BundleError for ids that have no row."""
        if ids.size and not (ids.min() >= 0 and ids.max() < self._table.rows):
            raise BundleError(f"{self._path}: has {self._table.rows} rows, the tokenizer asks for {int(ids.max())}")
        rows = self._rows[ids]
        if self._table.dtype == "bfloat16":
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)
