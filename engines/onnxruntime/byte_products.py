"""Does ONNX Runtime multiply unsigned by signed bytes exactly on this processor?

x86 processors without dot-product instructions (VNNI) add pairs of such products in 16 bits, which overflow. There ONNX
Runtime can use unsigned weights instead; where the products are exact, that would halve the speed.
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


def byte_products_are_exact(onnxruntime: Any, settings: Any) -> bool:
    """Return whether the largest products of bytes add up right; settings: onnxruntime.SessionOptions for the probe."""
    session = onnxruntime.InferenceSession(PROBE, settings, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((1, 32), 255, np.uint8), "b": np.full((32, 16), 127, np.int8)})
    return bool((sums == 32 * 255 * 127).all())
