"""What a compiled graph calculates in, what was fused and what lies in memory between kernels: as facts and in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from ...core.units import format_bytes

UNKNOWN = "unknown"
_SHOWN = 5
_LONG = 60


@dataclass(frozen=True)
class CompiledAttention:
    """Attention kernels that are alike. operands: type of query, key and value. scores, output: what the first and the second
    product are summed in, `unknown` where the compiler does not tell."""

    kernel: str
    operands: str
    scores: str
    output: str
    count: int


@dataclass(frozen=True)
class CompiledProduct:
    """Matrix products or convolutions that are alike. kind: `gemm` or `convolution`. operands: types of both factors.

    result: the type that the product gives. example: a node of the graph that is one of them.
    """

    kind: str
    operands: tuple[str, str]
    result: str
    count: int
    example: str


@dataclass(frozen=True)
class CompiledKernel:
    """Kernels of one name. nodes: of the graph, that are fused in them all. bytes: what they read and write, None if it varies."""

    name: str
    count: int
    nodes: int
    bytes: int | None


@dataclass(frozen=True)
class HeldValue:
    """Values of a type and shape that kernels write to memory for others to read.

    name: of one of them. bytes: of each, None where the shape varies.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]
    bytes: int | None
    count: int = 1


@dataclass(frozen=True)
class CompiledGraph:
    """source: who tells it, such as `TensorRT-RTX 1.7.1`. card: compute capability that it was compiled for, `sm89`.

    plan_bytes: of the whole plan; 0 where only the inspector told. held: the largest values between kernels; held_bytes: of all.
    """

    source: str
    card: str
    plan_bytes: int
    attention: tuple[CompiledAttention, ...]
    products: tuple[CompiledProduct, ...]
    kernels: tuple[CompiledKernel, ...]
    held: tuple[HeldValue, ...]
    held_bytes: int | None

    @property
    def product_operands(self) -> Counter[tuple[str, str]]:
        """How many products have which types of factors."""
        counts: Counter[tuple[str, str]] = Counter()
        for product in self.products:
            counts[product.operands] += product.count
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return asdict(self)


def describe_compiled(name: str, compiled: CompiledGraph) -> list[str]:
    """Return what was made of a graph as lines of text."""
    kernels = sum(kernel.count for kernel in compiled.kernels)
    nodes = sum(kernel.nodes for kernel in compiled.kernels)
    size = f", plan {format_bytes(compiled.plan_bytes)}" if compiled.plan_bytes else ""
    lines = [f"graph        {name}: {kernels} kernels for {nodes} nodes, {compiled.source} for {compiled.card}{size}"]
    for attention in compiled.attention:
        lines.append(
            f"  attention  {attention.count} x {attention.kernel}: {attention.operands}, scores summed in "
            f"{attention.scores}, output in {attention.output}"
        )
    for product in compiled.products:
        lines.append(
            f"  products   {product.count} x {product.kind} {' x '.join(product.operands)} -> {product.result} "
            f"({_short(product.example)})"
        )
    fused = [kernel for kernel in compiled.kernels if kernel.nodes > kernel.count]
    for kernel in sorted(fused, key=lambda each: -each.nodes)[:_SHOWN]:
        moved = "" if kernel.bytes is None else f", {format_bytes(kernel.bytes)} moved"
        lines.append(f"  fused      {kernel.count} x {_short(kernel.name)}: {kernel.nodes} nodes{moved}")
    if compiled.held_bytes is not None:
        lines.append(f"  memory     {format_bytes(compiled.held_bytes)} written between kernels, largest:")
    for value in compiled.held[:_SHOWN]:
        size = "" if value.bytes is None else f", {format_bytes(value.bytes)} each"
        shape = "x".join(str(extent) if isinstance(extent, int) else "?" for extent in value.shape)
        lines.append(f"    {value.count} x {value.type} {shape}{size} ({_short(value.name)})")
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
