"""From torch modules to canonical ONNX files: traced, cleaned of everything incidental, weights beside the graph.

The same module gives the same bytes: no time stamps, paths, stack traces or versions are written.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir
import torch

from .families.base import GraphSource
from .weights import Blanks, blank_weights

OPSET = 23
INLINE_BYTES = 1024
"""Constants up to this size stay in the graph; larger ones go to the data file."""
ALIGNMENT = 4096
"""Of tensors of a page or more in the data file, so that they can be memory-mapped."""
HALVED_SIZE = 1024
"""Number of values from which a float32 matrix (or a tensor of more axes) is stored as bfloat16, where that is exact."""
COMPARED = 2**24
"""Number of values that are compared at once with their bfloat16 ones."""

NOISY_LOGGERS = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


class DataFile:
    """External data of one or more graphs. Equal tensors are stored once, so graphs that share weights share bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored_bytes: dict[str, int] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> DataFile:
        self._file = self.path.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, tensor: torch.Tensor, name: str) -> ir.ExternalTensor:
        """Append a tensor (or find it there already) and return the reference a graph keeps of it."""
        if self._file is None:
            raise RuntimeError("the data file is not open")
        # numpy has no bfloat16; a view as plain bytes serves every type.
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
        dtype = _onnx_type(tensor.dtype)
        key = (dtype.name, hashlib.sha256(content).hexdigest())
        if key not in self._places:
            step = ALIGNMENT if content.nbytes >= ALIGNMENT else 64
            self._file.write(bytes(-self._file.tell() % step))
            self._places[key] = self._file.tell()
            self._file.write(content)
            self.stored_bytes[dtype.name] = self.stored_bytes.get(dtype.name, 0) + content.nbytes
        return ir.ExternalTensor(
            self.path.name,
            self._places[key],
            content.nbytes,
            dtype,
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=self.path.parent,
        )


def save_graph(source: GraphSource, folder: Path, data: DataFile) -> None:
    """Write NAME.onnx into the folder and its weights into the data file."""
    with blank_weights(source.module) as blanks:
        model = trace(source)
        _name_interface(model.graph, source)
        _name_linears(model.graph)
        _strip(model)
        _move_weights(model.graph, data, blanks)
    proto = ir.to_proto(model)
    proto.graph.ClearField("value_info")  # inferred while tracing; once a graph is rewritten, a trap for its readers
    (folder / f"{source.name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))


def trace(source: GraphSource) -> ir.Model:
    """Return the module as an ONNX model of opset 23, constants folded."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            source.module.eval(),
            source.examples,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=source.dynamic,
            input_names=list(source.inputs),
            output_names=list(source.outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own remarks (deprecations inside torch, axis renamings) from the user."""
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in NOISY_LOGGERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in before:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in before:
                logger.setLevel(level)


def _name_interface(graph: ir.Graph, source: GraphSource) -> None:
    """Give inputs and outputs the axis names of the manifest in place of the tracer's symbols."""
    for values, specs in ((graph.inputs, source.inputs), (graph.outputs, source.outputs)):
        if [value.name for value in values] != list(specs):
            raise RuntimeError(f"{source.name}: traced {[value.name for value in values]}, wanted {list(specs)}")
        for value, spec in zip(values, specs.values(), strict=True):
            value.shape = ir.Shape(spec.shape)


def _name_linears(graph: ir.Graph) -> None:
    """Name matrix products and convolutions after their torch modules, and weights that the tracer transposed too.

    Whoever chooses precision layer by layer needs names that mean something: `blocks.0.attn1.to_q`, not `node_MatMul_235`.
    """
    for node in graph:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or node.inputs[1] is None:
            continue
        weight = node.inputs[1]
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        if weight.name not in graph.initializers or len(scopes) < 2:
            continue
        module = scopes[-2]
        node.name = module.removeprefix("model.")
        if str(weight.name).startswith("val_") and f"{module}.weight" not in graph.initializers:
            graph.initializers.pop(str(weight.name))
            weight.name = f"{module}.weight"
            graph.register_initializer(weight)


def _strip(model: ir.Model) -> None:
    """Drop what says nothing about the computation: stack traces, module names, versions."""
    if model.functions:
        raise RuntimeError(f"local functions left in the graph: {sorted(map(str, model.functions))}")
    model.producer_name, model.producer_version, model.doc_string = "edgereel", None, None
    model.metadata_props.clear()
    graph = model.graph
    graph.name, graph.doc_string = "main", None
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    for node in graph:
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None


def _move_weights(graph: ir.Graph, data: DataFile, blanks: Blanks) -> None:
    """Put large constants into the data file, as bfloat16 where that is exact: half the bytes, the same numbers."""
    for value in list(graph.initializers.values()):
        constant = value.const_value
        if constant is None or value.name is None:
            raise RuntimeError(f"initializer {value.name} has no value")
        if constant.nbytes <= INLINE_BYTES:
            continue
        tensor = _halved(_values(constant, blanks))
        stored = data.add(tensor, value.name)
        if stored.dtype == constant.dtype:
            value.const_value = stored
        else:
            _widen(graph, value, stored)


def _widen(graph: ir.Graph, value: ir.Value, stored: ir.ExternalTensor) -> None:
    """Replace a float32 constant by its bfloat16 one and a Cast.

    The Cast stands after a Gather rather than before it: an embedding table is not widened to read a few rows.
    """
    name = str(value.name)
    uses = list(value.uses())
    del graph.initializers[name]
    value.name = f"{name}_unused"
    constant = ir.Value(name=name, shape=stored.shape, type=ir.TensorType(stored.dtype), const_value=stored)
    graph.register_initializer(constant)
    if uses and all(use.node.op_type == "Gather" and use.idx == 0 for use in uses):
        for use in uses:
            rows = use.node.outputs[0]
            use.node.replace_input_with(0, constant)
            cast = ir.node("Cast", [rows], {"to": ir.DataType.FLOAT}, name=f"{use.node.name}_widen")
            cast.outputs[0].name = f"{rows.name}_float32"
            readers = [reader for reader in rows.uses() if reader.node is not cast]
            for reader in readers:
                reader.node.replace_input_with(reader.idx, cast.outputs[0])
            graph.insert_after(use.node, cast)
        return
    cast = ir.node("Cast", [constant], {"to": ir.DataType.FLOAT}, name=f"{name}_widen")
    cast.outputs[0].name = f"{name}_float32"
    for use in uses:
        use.node.replace_input_with(use.idx, cast.outputs[0])
    graph.insert_before(graph[0], cast)


def _values(constant: Any, blanks: Blanks) -> torch.Tensor:
    """Return a constant's values: its own or, for a blank, those of the weight that it stands for."""
    raw = constant.raw
    if isinstance(raw, torch.Tensor):
        found = blanks.restore(raw.data_ptr(), raw.shape, raw.stride())
        return raw.detach().cpu() if found is None else found
    array = constant.numpy()
    strides = [stride // array.itemsize for stride in array.strides]
    found = blanks.restore(array.ctypes.data, array.shape, strides)
    return torch.from_numpy(array.copy()) if found is None else found


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a large float32 matrix as bfloat16 where that is exact, anything else as it is."""
    if tensor.dtype != torch.float32 or tensor.ndim < 2 or tensor.numel() < HALVED_SIZE:
        return tensor
    halved = torch.empty(tensor.shape, dtype=torch.bfloat16)
    # In parts, since a table of embeddings is 4 GB.
    for part, whole in zip(
        torch.split(halved.flatten(), COMPARED), torch.split(tensor.flatten(), COMPARED), strict=True
    ):
        if not torch.equal(part.copy_(whole).to(torch.float32), whole):
            return tensor
    return halved


def _onnx_type(dtype: torch.dtype) -> ir.DataType:
    names = {
        torch.float32: ir.DataType.FLOAT,
        torch.float16: ir.DataType.FLOAT16,
        torch.bfloat16: ir.DataType.BFLOAT16,
        torch.int64: ir.DataType.INT64,
        torch.int32: ir.DataType.INT32,
        torch.bool: ir.DataType.BOOL,
    }
    return names[dtype]
