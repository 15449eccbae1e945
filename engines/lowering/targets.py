"""What a graph is lowered for: a runtime of a certain version, and what its parser or its kernels can do."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...core.errors import UsageError, one_line

FLOAT8_WEIGHTS = "float8 weight"
"""Counted among a lowered graph's rewrites: its weights in float8, which not every card multiplies."""

KNOWN_TARGETS = (
    "tensorrt-8.6",
    "tensorrt-10.0 and later (JetPack 6 has tensorrt-10.3)",
    "tensorrt-11.0 and later",
    "tensorrt-rtx (-1.7 and later read more)",
    "cuda (cuda-1.31, its onnxruntime, and later do more in bfloat16)",
)


@dataclass(frozen=True)
class Target:
    """A runtime that graphs are lowered for.

    opset: version of the standard operators that its graphs are written in. kept: operators above primitives that it
    reads; all others are expanded. fused_attention: a kernel of ONNX Runtime's own domain computes attention without a
    mask. quantized_opset: the opset of graphs that hold QuantizeLinear or DequantizeLinear with scales in half precision, or
    with float8 or int4 weights; None where it reads none of these. plain_weights: it reads no weights in bfloat16 or bytes:
    `with_plain_weights` writes them in floating point, and whatever else there is of these types is refused.
    float32_in_bfloat16: operators that it has no bfloat16 kernel for. bfloat16_attention: in a float16 graph attention alone is
    bfloat16, since the target's kernels sum float16 products in float16. whole_bfloat16_head: widest head of which attention in
    bfloat16 stays an Attention, although there is `fused_attention`; 0 for none. half_softmax: attention that is written out
    has its softmax in half precision too, for a compiler that does not fuse it otherwise. strongly_typed: types in the graph decide
    what is calculated in; otherwise the builder may choose others.
    """

    name: str
    opset: int
    kept: tuple[str, ...]
    fused_attention: bool = False
    quantized_opset: int | None = 21
    plain_weights: bool = False
    float32_in_bfloat16: tuple[str, ...] = ()
    bfloat16_attention: bool = False
    whole_bfloat16_head: int = 0
    half_inside: tuple[str, ...] = ()
    folds_modulation: bool = False
    rounds: bool = True
    half_softmax: bool = False
    strongly_typed: bool = True


# Primitives of opset 17 are read by every parser here. LayerNormalization is one of them since TensorRT 8.6.
_PRIMITIVES = Target("", 17, ("LayerNormalization",))
_TENSORRT_8 = replace(_PRIMITIVES, quantized_opset=None, plain_weights=True, strongly_typed=False)
_TENSORRT_10 = replace(_PRIMITIVES, bfloat16_attention=True)
# The canonical graphs' own opset, which is below the highest that these parsers read (11.0: 25).
_TENSORRT_10_14 = Target(
    "", 23, ("Attention", "Gelu", "LayerNormalization"), quantized_opset=23, bfloat16_attention=True
)
_TENSORRT_10_15 = replace(_TENSORRT_10_14, kept=(*_TENSORRT_10_14.kept, "RotaryEmbedding", "RMSNormalization"))
# The parser of TensorRT-RTX 1.7 has importers for all of these. Releases before it were not looked at: they get primitives,
# as a name without a version does.
_RTX_READS_MORE = 7
# From the kernels in onnxruntime-gpu 1.23.2 and 1.31.1: both have RotaryEmbedding and RMSNormalization of opset 23, Attention
# of opset 23 is only in the newer, and no bfloat16 kernels are in one or both of them for the operators in the last list.
_CUDA = Target(
    "cuda",
    23,
    ("Gelu", "LayerNormalization", "RotaryEmbedding", "RMSNormalization"),
    fused_attention=True,
    quantized_opset=23,
    float32_in_bfloat16=("Conv", "DequantizeLinear", "Pad", "QuantizeLinear", "Resize"),
    half_inside=("RMSNormalization", "RotaryEmbedding"),
    rounds=False,
)
# Seen in the kernels that onnxruntime-gpu 1.31.1 launches: in bfloat16 MultiHeadAttention is not flash attention, Attention is.
_CUDA_FLASH_BFLOAT16 = 31
_WIDEST_FLASH_HEAD = 256


def parse_target(text: str) -> Target:
    """Return the target of a name such as `tensorrt-10.3`, `tensorrt-rtx`, `tensorrt-rtx-1.7`, `cuda` or `cuda-1.31`.

    Raises UsageError, naming those there are, where there is no such target or its version is not known.
    """
    name = text.strip().lower()
    if name == "cuda":
        return _CUDA
    if cuda := re.fullmatch(r"cuda-1\.(\d{1,3})(\.\d+)*", name):
        widest = _WIDEST_FLASH_HEAD if int(cuda[1]) >= _CUDA_FLASH_BFLOAT16 else 0
        return replace(_CUDA, name=f"cuda-1.{int(cuda[1])}", whole_bfloat16_head=widest)
    rtx = re.fullmatch(r"tensorrt-rtx(-1\.(\d{1,3})(\.\d+)*)?", name)
    if rtx:
        newer = rtx[2] is not None and int(rtx[2]) >= _RTX_READS_MORE
        full = f"tensorrt-rtx-1.{int(rtx[2])}" if rtx[2] is not None else "tensorrt-rtx"
        return replace(_TENSORRT_10_15 if newer else _TENSORRT_10, name=full)
    version = re.fullmatch(r"tensorrt-(\d{1,3})\.(\d{1,3})(\.\d+)*", name)
    known = version and _tensorrt(int(version[1]), int(version[2]))
    if not version or known is None:
        raise UsageError(f"unknown target {one_line(text)}: there are {', '.join(KNOWN_TARGETS)}")
    return replace(known, name=f"tensorrt-{int(version[1])}.{int(version[2])}")


def _tensorrt(major: int, minor: int) -> Target | None:
    """Return what a version of TensorRT reads, None where that is not known."""
    if (major, minor) == (8, 6):
        return _TENSORRT_8
    if major == 10 and minor < 14:
        return _TENSORRT_10
    if major == 10 and minor == 14:
        return _TENSORRT_10_14
    return _TENSORRT_10_15 if major in (10, 11) else None
