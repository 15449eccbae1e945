"""Where an ONNX file says that its weights lie, read without trusting it and without the onnx package.

External data is how a graph names other files, and has let graphs read files outside their folder in several runtimes.
This walks the protobuf's bytes along the fields that can hold a tensor (initializers, attributes, subgraphs, functions)
and returns every reference, so that a bundle can refuse the ones it did not declare. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import BundleError
from .untrusted import open_plain

# message kind -> field number -> kind of the message in that field
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 64
# The denoiser of a 14 B model has some 100,000; passing over this many takes two seconds.
_MOST_FIELDS = 2**20
_LONGEST_ENTRY = 8192


@dataclass(frozen=True)
class ExternalData:
    """One tensor's place in another file: the file's name as written, first byte and number of bytes."""

    location: str
    offset: int
    length: int


def external_data_of(path: Path) -> list[ExternalData]:
    """Return every external data reference of an ONNX file, in the order they stand there.

    Raises BundleError where the bytes are not a well-formed ONNX protobuf, where parsers could differ in what they read
    from it, and where a reference does not say how many bytes it means; OSError where the file cannot be read.
    """
    with open_plain(path) as file:
        data = file.read()  # not mapped into memory: a file that shrinks meanwhile would end the process
    if not data:
        raise BundleError(f"{path.name} is empty: it is not an ONNX graph")
    try:
        return list(_Walk(data).references(0, len(data), "model", 0))
    except (IndexError, ValueError) as error:
        raise BundleError(f"{path.name} is not a readable ONNX graph: {error}") from error


class _Walk:
    """One pass over the bytes of a graph, in no more steps than the largest graphs of ours take."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields = 0

    def references(self, start: int, end: int, kind: str, depth: int) -> Iterator[ExternalData]:
        """Yield the references in a message of a kind (see _CHILDREN) that lies between two bytes."""
        if depth > _DEEPEST:
            raise ValueError(f"graphs are nested more than {_DEEPEST} deep")
        children = _CHILDREN[kind]
        entries: dict[str, str] = {}
        for field, first, last in self._fields_of_bytes(start, end):
            child = children.get(field)
            if child == "entry":
                key, value = self._entry(first, last)
                if key in entries:
                    raise ValueError(f"a tensor gives its {key} twice")
                entries[key] = value
            elif child is not None:
                yield from self.references(first, last, child, depth + 1)
        if entries:
            offset, length = _number(entries.get("offset", "0")), _number(entries.get("length", ""))
            yield ExternalData(entries.get("location", ""), offset, length)

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        texts: dict[int, str] = {}
        for field, first, last in self._fields_of_bytes(start, end):
            if last - first > _LONGEST_ENTRY:
                raise ValueError("a tensor's place is longer than a file's name and a number")
            texts[field] = self._data[first:last].decode()
        return texts.get(1, ""), texts.get(2, "")

    def _fields_of_bytes(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (field number, first byte, end) of the fields that hold bytes, passing over numbers."""
        position = start
        while position < end:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            key, position = self._varint(position, end)
            if not 8 <= key < 2**32:  # some parsers would drop the bits above and find another field
                raise ValueError("a field number is out of range")
            field, wire_type = key >> 3, key & 7
            if wire_type == 0:
                _, position = self._varint(position, end)
            elif wire_type == 1:
                position += 8
            elif wire_type == 5:
                position += 4
            elif wire_type == 2:
                size, position = self._varint(position, end)
                if position + size > end:
                    raise ValueError("a field runs past the end of its message")
                yield field, position, position + size
                position += size
            else:
                raise ValueError(f"unknown wire type {wire_type}")
        if position != end:
            raise ValueError("a field runs past the end of its message")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise ValueError("a number runs past the end of its message")
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise ValueError("a number is longer than 10 bytes")


def _number(text: str) -> int:
    # int() takes more than other parsers do: signs, spaces, underscores and the digits of every script.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} is not an offset or length of external data")
    return int(text)
