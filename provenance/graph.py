"""An ONNX graph that a user names by path and hash: opened from memory, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import UsageError, brief, one_line, require_packages
from ..core.files import read_plain

_LARGEST = 2**29
_LARGEST_SIDE = 1024


def check_sha256(value: object, where: str) -> str:
    """Return a sha256 as a file of ours gives it. Raises UsageError."""
    if not isinstance(value, str) or len(value) != 64:
        raise UsageError(f"{where} is that of the graph's file, 64 digits, so that it is the one that was tried")
    return value.lower()


def open_graph(path: Path, sha256: str, name: str) -> Any:
    """Return an ONNX Runtime session of one thread. name: what it is, for messages.

    From memory, so that what was hashed is what runs, and the graph names no other files. Raises UsageError where it is
    another file or no graph, MissingExtraError.
    """
    require_packages(["onnxruntime"], "cpu", name)
    import hashlib  # loads OpenSSL

    import onnxruntime

    name = f"{name} {one_line(path)}"
    try:
        content = read_plain(path, _LARGEST, follow_links=True)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror or error}") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UsageError(f"{name}: is another file than the one that is named: its sha256 is {found}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises what it likes
        raise UsageError(f"{name}: cannot be opened: {brief(error)}") from error


def picture_size(shape: list[Any], usual: int, name: str) -> tuple[bool, int, int]:
    """Return whether a graph's picture, [1, 3, H, W] or [1, H, W, 3], has its colours first, and its height and width.

    usual: pixels a side where the graph leaves them open. Raises UsageError.
    """
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise UsageError(f"{name}: does not take one float32 picture, [1, 3, H, W] or [1, H, W, 3]")
    first = shape[1] == 3
    height, width = (side if isinstance(side, int) else usual for side in (shape[2:] if first else shape[1:3]))
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise UsageError(f"{name}: takes pictures of {width}x{height}, more than {_LARGEST_SIDE} a side")
    return first, height, width
