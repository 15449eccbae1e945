"""`python -m edgereel.bench.peers.openvino_worker PRECISION CACHE`: bench/worker.py with OpenVINO for an engine."""

from __future__ import annotations

import sys
from pathlib import Path

from ...engines import ENGINES
from ..serving import Server, serve_pipes
from ..worker import ReelMaker
from .openvino_engine import OpenVino


def main() -> None:
    """Serve; the engine is known as `openvino` in this process only."""
    precision, cache = sys.argv[1:]
    ENGINES["openvino"] = lambda: OpenVino(precision, Path(cache))
    serve_pipes(lambda folder: Server(ReelMaker(), folder))


if __name__ == "__main__":
    main()
