"""OpenVINO beside edgereel: it runs the bundle's own graphs, and our program runs around it.

So what is compared is OpenVINO's way of running graphs with ours, all else being equal; it has no pipeline of its own for
these models that could be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import require_packages
from ...core.processes import python_command
from ...engines.openvino.engine import EXTRA
from .base import Contender, RowPlan


class OpenVinoContender(Contender):
    """OpenVINO in a process of its own: bench/contenders/openvino_worker.py."""

    kind = "openvino"
    must_match = True
    packages = (*(name for name in Contender.packages if not name.startswith("onnx")), "openvino")

    def __init__(self, plan: RowPlan, precision: str, cache: Path) -> None:
        """precision: what OpenVINO is asked to calculate in. cache: the folder for what it compiles."""
        super().__init__(plan)
        self._arguments = [precision, str(cache)]

    def start(self) -> dict[str, float]:
        """See Contender.start. Raises MissingExtraError where OpenVINO is not installed."""
        require_packages(("openvino",), EXTRA, "comparing with OpenVINO")
        return super().start()

    def command(self) -> list[str]:
        """See Contender.command."""
        return python_command("edgereel.bench.contenders.openvino_worker", *self._arguments)

    def opening(self) -> dict[str, Any]:
        """See Contender.opening."""
        return {**super().opening(), "engine": "openvino"}
