"""NVIDIA's TensorRT-RTX, told to build for an Ada card instead of one that is present: it needs no GPU for that.

Importing this skips the tests where it is not installed: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
"""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


class Builder:
    """The real builder, told to build for an Ada card."""

    def __init__(self, log: Any) -> None:
        self._builder = rtx.Builder(log)

    def create_builder_config(self) -> Any:
        config = self._builder.create_builder_config()
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)


class Listener(rtx.ILogger):  # type: ignore[misc]  # its bindings have no types
    """Notes what the builder says that an engine takes of a card's memory: bytes of `Activation` and of `Weights`."""

    def __init__(self) -> None:
        rtx.ILogger.__init__(self)
        self.messages: list[str] = []
        self.warning = ""
        self.memory: dict[str, int] = {}

    def log(self, severity: Any, msg: str) -> None:
        if match := re.match(r"Total (Activation|Weights) Memory: (\d+) bytes", msg):
            self.memory[match[1]] = int(match[2])


def bindings() -> Any:
    """Return what stands for the module `tensorrt`."""
    return SimpleNamespace(**{name: getattr(rtx, name) for name in dir(rtx) if name[0] != "_"} | {"Builder": Builder})
