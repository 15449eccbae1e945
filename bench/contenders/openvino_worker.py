"""`python -m edgereel.bench.contenders.openvino_worker PRECISION CACHE`: bench/contenders/worker.py with OpenVINO for an engine."""

from __future__ import annotations

import sys
from pathlib import Path

from ...engines import ENGINES
from ...engines.openvino.engine import OpenVino
from .protocol import ClipWorker, serve_pipes
from .worker import ReelMaker


def main() -> None:
    """Serve; the engine is known as `openvino` in this process only."""
    precision, cache = sys.argv[1:]
    ENGINES["openvino"] = lambda: OpenVino(precision, Path(cache))
    serve_pipes(lambda folder: ClipWorker(ReelMaker(), folder))


if __name__ == "__main__":
    main()
