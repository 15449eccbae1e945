"""Does ONNX Runtime multiply unsigned by signed bytes exactly on this processor?

x86 processors without dot-product instructions (VNNI) add pairs of such products in 16 bits, which overflow: 255·127·2 is
above 2**15. Of bytes up to 127 they do not, so that activations of seven bits are exact there in the fast kernels. Where scales
are fixed in a bundle (static activations) they stay bytes of eight bits; for those ONNX Runtime can use unsigned weights, which
takes twice as long.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

# MatMulInteger of a uint8 [1, 32] and b int8 [32, 16], as onnx writes it; the tests make it again.
PROBE = base64.b64decode(
    "CAo6YAoYCgFhCgFiEgFjIg1NYXRNdWxJbnRlZ2VyEgVwcm9iZVoTCgFhEg4KDAgCEggKAggBCgIIIFoTCgFiEg4KDAgDEggKAggg"
    "CgIIEGITCgFjEg4KDAgGEggKAggBCgIIEEIECgAQFQ=="
)


def activation_bits(onnxruntime: Any) -> int:
    """Return of how many bits dynamic activations may be that products are exact here: 8, or 7 without VNNI."""
    return 8 if byte_products_are_exact(onnxruntime, onnxruntime.SessionOptions()) else 7


def byte_products_are_exact(onnxruntime: Any, settings: Any, largest: int = 255) -> bool:
    """Return whether the largest products of bytes add up right; settings: onnxruntime.SessionOptions for the probe.

    largest: unsigned byte.
    """
    session = onnxruntime.InferenceSession(PROBE, settings, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((1, 32), largest, np.uint8), "b": np.full((32, 16), 127, np.int8)})
    return bool((sums == 32 * largest * 127).all())
