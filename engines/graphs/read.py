"""How graphs are read: files that may be anything, and what libraries say of graphs that are not as ours.

Whatever reads a graph does so inside `reading`, the one wall between these libraries and the user.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...core.errors import EdgereelError, EngineError, OutOfMemory, brief, one_line
from ...core.files import read_plain

LARGEST: Final = 2**31 - 1
"""Bytes of a serialized graph: protobuf takes no more, and weights lie in files of their own."""
_LONGEST_QUOTE: Final = 500


def read_graph(path: Path) -> bytes:
    """Return the content of a graph's file. Raises EngineError where it is missing, too large or no regular file."""
    try:
        return read_plain(path, LARGEST, follow_links=True)
    except OSError as error:
        raise EngineError(f"cannot open {one_line(path.name)}: {brief(error)}") from error


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise EngineError, which names the graph, for whatever onnx, protobuf, numpy or an engine raises of it in the block.

    OutOfMemory for want of memory. Errors of ours are left as they are, given the name where they lack it; that onnx is not
    installed is left to who can say what to install.
    """
    name = one_line(name)
    try:
        yield
    except EngineError as error:
        if name in str(error):
            raise
        raise type(error)(f"cannot open {name}: {error}") from error
    except EdgereelError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"cannot open {name}: there is not enough memory") from error
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("onnx", "google", "ml_dtypes"):
            raise
        raise EngineError(f"cannot open {name}: {brief(error)}") from error
    except Exception as error:  # these libraries have no kind of their own for what they do not expect
        said = one_line(brief(error, _LONGEST_QUOTE)) or type(error).__name__
        raise EngineError(f"cannot open {name}: it is not a graph as edgereel writes them: {said}") from error
