"""What each engine makes of quantized linears: whether it multiplies them as they are stored, or widens them first.

Read from what the engines really do: the plans of NVIDIA's compiler (tests/engines/compiled/) and the kernels that ONNX
Runtime's CUDA provider starts (tests/gpu_stand_ins/). No card was at hand: this is about types, not times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.errors import EngineError
from .nvidia import Capability, capability_of, nvidia_gpus

Weights = Literal["int8", "int4", "fp8"]
Multiplied = Literal["float", "dynamic", "static"]
"""What quantized weights meet; see bundle.roles.Quantization."""

COMPILERS = ("rtx", "tensorrt")
INT8_SINCE: Capability = (7, 5)
FLOAT8_SINCE: Capability = (8, 9)
"""Compute capability of the first cards whose tensor cores take a type; NVIDIA's compiler refuses float8 before."""


@dataclass(frozen=True)
class QuantizedFit:
    """narrow: products take the stored type. why: in words for the user, what happens to them and what would do better."""

    narrow: bool
    why: str


def quantized_fit(engine: str, weights: Weights, activations: Multiplied, card: Capability | None) -> QuantizedFit:
    """Return what an engine does with linears of these weights. card: of the GPU, None where it is not known or none."""
    if engine == "cpu":
        return _on_processor(weights, activations)
    if engine not in COMPILERS:
        name = "OpenVINO" if engine == "openvino" else "ONNX Runtime's CUDA provider"
        why = f"{name} widens {weights} weights before each product: they save memory, not time"
        return QuantizedFit(False, f"{why}{'' if engine == 'openvino' else '; ' + better_for(card)}")
    if activations == "static" and weights == "int8" and (card is None or card >= INT8_SINCE):
        return QuantizedFit(True, f"{engine} multiplies its linears in int8")
    if activations == "static" and weights == "fp8":
        if card is None or card >= FLOAT8_SINCE:
            return QuantizedFit(True, f"{engine} multiplies its linears in float8")
        return QuantizedFit(
            False, f"float8 needs compute capability 8.9, this card has {_words(card)}; {better_for(card)}"
        )
    reason = (
        "NVIDIA's compilers have no scale for each token" if activations == "dynamic" else "its activations are float"
    )
    return QuantizedFit(
        False, f"{engine} widens {weights} weights to float16 before each product, since {reason}; {better_for(card)}"
    )


def better_for(card: Capability | None) -> str:
    """Return in words what bundle would be multiplied in a narrow type on a card by the engines that can."""
    if card is None or card >= FLOAT8_SINCE:
        return "quantize --precision fp8 --stats FILE is multiplied in float8 by rtx and tensorrt"
    if card >= INT8_SINCE:
        return "quantize --precision int8 --activations static is multiplied in int8 by tensorrt" + (
            " and rtx" if card >= (8, 6) else ""
        )
    return "this card multiplies neither int8 nor float8 on tensor cores: use the bundle that is not quantized"


def first_card() -> Capability | None:
    """Return the compute capability of the first NVIDIA GPU, None where there is none or it does not tell."""
    gpus, _ = nvidia_gpus()
    return capability_of(gpus[0]) if gpus else None


def refuse_float8(engine: str, graph_name: str, float8: bool, card: Capability | None) -> None:
    """Raise EngineError where a graph is multiplied in float8 and the card cannot: its compiler says so in no useful words."""
    if float8 and card is not None and card < FLOAT8_SINCE:
        raise EngineError(
            f"{graph_name} is multiplied in float8, which {engine} has for compute capability 8.9 and newer, and this card "
            f"has {_words(card)}: {better_for(card)}"
        )


def _on_processor(weights: Weights, activations: Multiplied) -> QuantizedFit:
    if weights == "int8" and activations != "float":
        return QuantizedFit(True, "the processor multiplies its linears in int8")
    return QuantizedFit(
        False, f"the processor widens {weights} weights before each product: they save memory, not time"
    )


def _words(card: Capability) -> str:
    return f"{card[0]}.{card[1]}"
