"""OpenVINO beside edgereel: it runs the bundle's own graphs, and our program runs around it.

So what is compared is OpenVINO's way of running graphs with ours, all else being equal; it has no pipeline of its own for
these models that could be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import require_packages
from ...core.processes import python_command
from ...engines.openvino.engine import EXTRA
from .base import Contender, EdgereelContender, Job


@dataclass(frozen=True)
class OpenVinoPeer:
    """A way of running OpenVINO. precision: what it is asked to calculate in. cache: the folder for what it compiles."""

    precision: str
    cache: Path

    def __call__(self, name: str, job: Job) -> Contender:
        """Return the contender of that name: a PeerFactory."""
        return OpenVinoContender(name, job, self)


class OpenVinoContender(EdgereelContender):
    """OpenVINO in a process of its own: bench/contenders/openvino_worker.py."""

    kind = "openvino"
    must_match = True
    packages: tuple[str, ...] = (
        *(name for name in EdgereelContender.packages if name not in ("onnxruntime", "onnx")),
        "openvino",
    )

    def __init__(self, name: str, job: Job, peer: OpenVinoPeer) -> None:
        super().__init__(name, job)
        self._peer = peer

    def start(self) -> dict[str, float]:
        """See Contender.start. Raises MissingExtraError where OpenVINO is not installed."""
        require_packages(("openvino",), EXTRA, "comparing with OpenVINO")
        return super().start()

    def command(self) -> list[str]:
        """See ProcessContender.command."""
        return python_command("edgereel.bench.contenders.openvino_worker", self._peer.precision, str(self._peer.cache))

    def opening(self) -> dict[str, Any]:
        """See ProcessContender.opening."""
        return {**super().opening(), "engine": "openvino"}
