"""A text encoder's token embeddings, kept outside its graph: rows are looked up on the host, the rest stays on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import EmbeddingTable
from ...bundle.untrusted import open_plain
from ...core.errors import BundleError

# numpy has no bfloat16: its two bytes are the upper half of a float32.
_STORED_AS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


class TokenTable:
    """The rows of a table file, each read when it is asked for.

    They are not mapped into memory: the system ends a process that reads behind the end of a file that has shrunk.
    """

    def __init__(self, path: Path, table: EmbeddingTable) -> None:
        """Raises BundleError where the file does not have the bytes that its shape takes."""
        self._path, self._table = path, table
        self._dtype = _STORED_AS[table.dtype]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
        if size != table.rows * table.columns * self._dtype.itemsize:
            raise BundleError(f"{path}: {size} bytes are not a table of {table.rows} x {table.columns} {table.dtype}")

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings, float32 [B, L, E], of token ids [B, L].

        Raises BundleError for ids that have no row, and where the file cannot be read or has shrunk.
        """
        if ids.size and not (ids.min() >= 0 and ids.max() < self._table.rows):
            raise BundleError(f"{self._path}: has {self._table.rows} rows, the tokenizer asks for {int(ids.max())}")
        wanted, places = np.unique(ids, return_inverse=True)  # of a padded prompt, most are alike
        rows = self._read(wanted)[places.reshape(ids.shape)]
        if self._table.dtype == "bfloat16":
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)

    def _read(self, wanted: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows of these ids, [N, E], in the type they are stored in."""
        rows = np.empty((len(wanted), self._table.columns), self._dtype)
        size = self._table.columns * self._dtype.itemsize
        try:
            with open_plain(self._path) as file:
                for row, index in zip(rows, wanted, strict=True):
                    file.seek(int(index) * size)
                    content = file.read(size)
                    if len(content) < size:
                        raise BundleError(
                            f"{self._path}: has become shorter since it was opened: copy the bundle again"
                        )
                    row[:] = np.frombuffer(content, self._dtype)
        except OSError as error:
            raise BundleError(f"{self._path}: cannot be read: {error.strerror}") from error
        return rows
