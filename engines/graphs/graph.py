"""An ONNX graph being rewritten: who makes which value, replacing nodes where they stand, dropping what nobody reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"


class Graph:
    """The main graph of a model. Nodes keep their order: what replaces a node stands where it stood."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.nodes: list[Any] = list(model.graph.node)
        self._replacements: dict[int, list[Any]] = {}
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = {*self._makers, *self._initializers, *(value.name for value in model.graph.input)}
        self._shared: dict[tuple[str, ...], str] = {}

    def find(self, *op_types: str) -> Iterator[tuple[int, Any]]:
        """Yield (position, node) of the standard operators of these types that no rewrite has replaced yet."""
        for position, node in enumerate(self.nodes):
            if node.op_type in op_types and node.domain in ("", "ai.onnx") and position not in self._replacements:
                yield position, node

    def maker(self, name: str) -> Any | None:
        """Return the canonical node that makes a value, None for inputs and constants."""
        return self._makers.get(name)

    def constant(self, name: str) -> Any | None:
        """Return the TensorProto of an initializer (its data may lie outside), None for any other value."""
        return self._initializers.get(name)

    def replace(self, position: int, nodes: Sequence[Any]) -> None:
        """Put nodes in the place of the one at a position; together they must make the same values."""
        self._replacements[position] = list(nodes)

    def add_initializer(self, tensor: Any) -> None:
        """Add a constant that is a TensorProto."""
        self._model.graph.initializer.append(tensor)

    def new_name(self, stem: str) -> str:
        """Return a value name that is not in use yet."""
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return name

    def add_constant(self, stem: str, array: NDArray[np.generic]) -> str:
        """Add a small constant (or find an equal one of that stem) and return its name."""
        key = (stem, str(array.dtype), str(array.shape), array.tobytes().hex())
        if key not in self._shared:
            name = self._shared[key] = self.new_name(stem)
            self._model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return self._shared[key]

    def shared(self, *key: str) -> str | None:
        """Return what `share` was told under this key."""
        return self._shared.get(key)

    def share(self, value: str, *key: str) -> None:
        """Remember a value that later nodes may read too."""
        self._shared[key] = value

    def finish(self) -> None:
        """Write the nodes back into the model, without those (and the constants) that nothing reads any more."""
        nodes = [new for at, node in enumerate(self.nodes) for new in self._replacements.get(at, [node])]
        read = {value.name for value in self._model.graph.output}
        kept = []
        for node in reversed(nodes):
            if read.intersection(node.output):
                kept.append(node)
                read.update(names_read(node))
        tensors = [tensor for tensor in self._model.graph.initializer if tensor.name in read]
        del self._model.graph.node[:], self._model.graph.initializer[:]
        self._model.graph.node.extend(reversed(kept))
        self._model.graph.initializer.extend(tensors)
        used = any(node.domain == MICROSOFT for node in kept)
        if used and all(opset.domain != MICROSOFT for opset in self._model.opset_import):
            self._model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def names_read(node: Any) -> Iterator[str]:
    """Yield what a node reads, the graphs inside it included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from (value.name for value in inner.output)
            for nested in inner.node:
                yield from names_read(nested)
