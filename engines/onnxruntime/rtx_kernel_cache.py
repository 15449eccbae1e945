"""What TensorRT-RTX compiled for this card, kept for the next time.

The plugin reads a folder when a session is opened and writes into it when the session goes, in place: a process that is
killed then leaves half a file. So each session has a folder of its own, filled from the cache of built engines, and what is in it
afterwards goes into that cache as one archive, complete or not at all.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import weakref
import zipfile
from pathlib import Path

from ...core.errors import EdgereelError
from ...core.interrupts import interrupts_wait
from ..cache.engines import EngineCache, EngineKey
from ..cache.files import delete


class KernelCache:
    """The folder of one session, gone with it.

    folder: to be given to the plugin. source: `cache` where kernels of before are in it, otherwise `built`.
    """

    def __init__(self, key: EngineKey, cache: EngineCache | None = None) -> None:
        self._key = key
        self._cache = EngineCache() if cache is None else cache
        with interrupts_wait():  # between making it and knowing what to remove
            self.folder = Path(tempfile.mkdtemp(prefix="edgereel-kernels-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self.folder, True)
        self.source = "built"
        entry = self._cache.get(key)
        if entry is None:
            return
        with entry, contextlib.suppress(OSError, zipfile.BadZipFile):
            with zipfile.ZipFile(io.BytesIO(entry.data[:])) as archive:
                archive.extractall(self.folder)
            self.source = "cache"

    def start_over(self) -> None:
        """Forget kernels of before, which are of no use: what is compiled now is kept in their place."""
        with contextlib.suppress(EdgereelError):
            self._cache.remove([self._key.digest()])
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                delete(path)
        self.source = "built"

    def keep(self) -> None:
        """Put what is in the folder into the cache, unless it came from there, and remove the folder.

        Where it cannot be kept it is compiled again the next time, nothing else.
        """
        files = [path for path in sorted(self.folder.glob("*")) if path.is_file()]

        def pack(target: Path) -> None:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
                for path in files:
                    archive.write(path, path.name)

        with contextlib.suppress(OSError, EdgereelError):
            if files and self.source == "built":
                self._cache.get_or_build(self._key, pack).close()
        self._remove()
