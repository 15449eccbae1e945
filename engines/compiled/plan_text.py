"""What a plan of TensorRT-RTX says of itself: its schedule lies in it as text, and the source of its attention kernels.

A plan has sections `descriptors { … } main { … }`: first that of the whole graph, then one for each product that others were
fused to (`runtime_fusion`), which names the product's real factors. Read off plans of TensorRT-RTX 1.7.1, for compute
capabilities 8.6, 8.9 and 12.0; lines that are not known are passed over.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...core.errors import EngineError
from .facts import UNKNOWN, CompiledAttention, CompiledGraph, CompiledKernel, CompiledProduct, HeldValue

_TYPES = {
    "half": ("float16", 2.0),
    "float": ("float32", 4.0),
    "bf16": ("bfloat16", 2.0),
    "int8": ("int8", 1.0),
    "uint8": ("uint8", 1.0),
    "fp8_e4m3": ("float8", 1.0),
    "fp4_e2m1": ("float4", 0.5),
    "int4": ("int4", 0.5),
    "int32": ("int32", 4.0),
    "int64": ("int64", 8.0),
    "bool": ("bool", 1.0),
}
_SUMMED = {"fp16": "float16", "fp32": "float32", "bf16": "float32", "int32": "int32"}
"""What a kernel's traits sum in: `Ampere_hmma_fp16_traits` in half, `_fp32_` and `_bf16_` in float32."""
_LARGEST_LISTED = 32
_SECTION = re.compile(rb"\ndescriptors \{\n(.*?)\n\}\nmain \{\n(.*?)\n\}\n", re.S)
_TENSOR = re.compile(r"^\s*(?:sub_)?tensor=\{(.*)\}$", re.M)
_STEP = re.compile(r"^\s*(\w+)=\{ name=\"?([^\" ]+)\"? (.*)\}$", re.M)
_TRAITS = re.compile(rb"using Kernel_traits = fmha::\w+<\s*fmha::(\w+),\s*fmha::(\w+),")
_KERNEL_ID = re.compile(rb"(_\w*mha\w*_0x[0-9a-f]{32})[^\w]")
_QUOTED = re.compile(r'"([^"]*)"')
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_KINDS = {"fully_connected": "gemm", "corrltn": "convolution", "convolution": "convolution", "gemm": "gemm"}
# Work on the extents of shapes, on the host or before the first kernel.
_NO_KERNELS = frozenset(("assert", "copy", "memset", "shape_call", "tensor", "sub_tensor"))


@dataclass(frozen=True)
class _Tensor:
    type: str
    shape: tuple[int | str, ...]
    bytes: int | None
    constant: bool


@dataclass
class _Section:
    """One schedule: what its names are, and its steps (kind, name, the rest of the line)."""

    tensors: dict[str, _Tensor] = field(default_factory=dict)
    steps: list[tuple[str, str, str]] = field(default_factory=list)

    def tensor(self, name: str) -> _Tensor | None:
        return self.tensors.get(name) or self.tensors.get(name.removesuffix("^deref"))


def read_plan(plan: bytes | memoryview, source: str) -> CompiledGraph:
    """Return what a plan tells. source: who compiled it. Raises EngineError where it has no schedule that can be read."""
    sections = [_section(*match.groups()) for match in _SECTION.finditer(plan)]
    if not sections:
        raise EngineError(f"the plan of {source} has no schedule that this release can read")
    whole, inside = sections[0], sections[1:]
    summed = _attention_sums(plan)
    kernels, held = _kernels(whole), _held(whole)
    card = re.search(rb"accelerators=\{\s*(sm\d+)", plan)
    return CompiledGraph(
        source=source,
        card=card[1].decode() if card else UNKNOWN,
        plan_bytes=memoryview(plan).nbytes,
        attention=_attention(whole, summed),
        products=_products([whole, *inside]),
        kernels=kernels,
        held=tuple(held[:_LARGEST_LISTED]),
        held_bytes=_sum(None if value.bytes is None else value.bytes * value.count for value in held),
    )


def _section(descriptors: bytes, main: bytes) -> _Section:
    section = _Section()
    for line in _TENSOR.findall(descriptors.decode("utf-8", "replace")):
        name = re.search(r'name="([^"]+)"', line)
        if name is not None:
            section.tensors[name[1]] = _tensor(line)
    section.steps = [
        (match[1], match[2], match[3]) for match in _STEP.finditer(main.decode("utf-8", "replace"))
    ]  # fmt: skip
    return section


def _tensor(line: str) -> _Tensor:
    told = re.search(r" type=(\w+)", line)
    known, size = _TYPES.get(told[1] if told else "", (told[1] if told else UNKNOWN, 0.0))
    extents = re.search(r"dims=\{([^}]*)\}", line)
    shape = tuple(
        int(extent) if extent.lstrip("-").isdigit() else extent.strip('"')
        for extent in (extents[1].split() if extents else ())
    )
    numbers = [extent for extent in shape if isinstance(extent, int)]
    fixed = len(numbers) == len(shape) and size > 0
    region = re.search(r'region="?([^" ]*)', line)
    constant = region is not None and region[1].endswith("consts")
    return _Tensor(known, shape, int(math.prod(numbers) * size) if fixed else None, constant)


def _names(step: str, *keys: str) -> list[str]:
    for key in keys:
        if (listed := re.search(rf"(?:^| ){key}=\{{([^}}]*)\}}", step)) is not None:
            return _QUOTED.findall(listed[1])
    return []


def _attention_sums(plan: bytes | memoryview) -> dict[str, tuple[str, str]]:
    """Return what both products of each attention kernel sum in, by the kernel's own name: its source is in the plan."""
    names = [(match.start(), match[1].decode()) for match in _KERNEL_ID.finditer(plan)]
    found = {}
    for traits in _TRAITS.finditer(plan):
        before = [name for at, name in names if at < traits.start()]
        if before:
            found[before[-1]] = (_summed(traits[1]), _summed(traits[2]))
    return found


def _summed(traits: bytes) -> str:
    for part in reversed(traits.decode().removesuffix("_traits").split("_")):
        if part in _SUMMED:
            return _SUMMED[part]
    return UNKNOWN


def _attention(section: _Section, summed: dict[str, tuple[str, str]]) -> tuple[CompiledAttention, ...]:
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for _, name, step in section.steps:
        if "mha" not in name:
            continue
        identity = re.search(r"fqn=(\S+)", step)
        scores, output = summed.get(identity[1] if identity else "", (UNKNOWN, UNKNOWN))
        query = section.tensor(next(iter(_names(step, "input_args")), ""))
        counts[name.strip("_"), query.type if query else UNKNOWN, scores, output] += 1
    return tuple(CompiledAttention(*facts, count) for facts, count in sorted(counts.items()))


def _products(sections: list[_Section]) -> tuple[CompiledProduct, ...]:
    counts: Counter[tuple[str, tuple[str, str], str]] = Counter()
    examples: dict[tuple[str, tuple[str, str], str], str] = {}
    for section in sections:
        for kind, name, step in section.steps:
            if kind not in _KINDS:
                continue
            given, made = _names(step, "input"), _names(step, "output")
            types = [_type(section, value) for value in (*given[:2], *made[:1])]
            if len(types) != 3:
                continue
            key = (_KINDS[kind], (types[0], types[1]), types[2])
            counts[key] += 1
            examples.setdefault(key, next(iter(_NODE.findall(step)), name))
    return tuple(CompiledProduct(*key, count, examples[key]) for key, count in counts.most_common())


def _type(section: _Section, name: str) -> str:
    found = section.tensor(name)
    return UNKNOWN if found is None else found.type


def _kernels(section: _Section) -> tuple[CompiledKernel, ...]:
    sizes: dict[str, list[int | None]] = defaultdict(list)
    nodes: Counter[str] = Counter()
    for name, step, values in _device_steps(section):
        found = [section.tensor(value) for value in values]
        sizes[name].append(_sum(None if each is None else each.bytes for each in found))
        nodes[name] += len(_NODE.findall(step))
    return tuple(
        CompiledKernel(name, len(moved), nodes[name], _sum(moved))
        for name, moved in sorted(sizes.items(), key=lambda item: -nodes[item[0]])
    )


def _device_steps(section: _Section) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the steps that are kernels: those that read or write something larger than one number."""
    for kind, name, step in section.steps:
        if kind in _NO_KERNELS:
            continue
        values = [*_names(step, "input_args", "input"), *_names(step, "output_args", "output")]
        tensors = [section.tensor(value) for value in values]
        if "ONNX Layer" in step or any(each is not None and each.type.startswith(("float", "bf")) for each in tensors):
            label = f"{_KINDS[kind]}" if kind in _KINDS else name.removeprefix("__myl_").strip("_")
            yield label, step, values


def _held(section: _Section) -> list[HeldValue]:
    """Return what kernels write, the largest first: each once, however many read it; those that are alike together."""
    found: dict[str, _Tensor] = {}
    for kind, _, step in section.steps:
        if kind in _NO_KERNELS:
            continue
        for name in _names(step, "output_args", "output"):
            tensor = section.tensor(name)
            if tensor is not None and not tensor.constant:
                found[name] = tensor
    alike: dict[_Tensor, list[str]] = defaultdict(list)
    for name, tensor in found.items():
        alike[tensor].append(name)
    values = [HeldValue(names[0], each.type, each.shape, each.bytes, len(names)) for each, names in alike.items()]
    return sorted(values, key=lambda value: -(value.bytes or 0) * value.count)


def _sum(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total
