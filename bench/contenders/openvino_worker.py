"""`python -m edgereel.bench.contenders.openvino_worker PRECISION CACHE`: worker.py with OpenVINO set up as a peer.

PRECISION: what it calculates in. CACHE: the folder that it keeps what it compiled in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ...bundle.reader import open_bundle
from ...engines import EngineOptions
from ...engines.openvino.engine import OpenVino
from ...runtime.reel import Reel
from .protocol import ClipWorker, serve_pipes
from .worker import ReelMaker


class OpenVinoMaker(ReelMaker):
    """Makes clips with an engine of its own settings, which no name stands for."""

    def __init__(self, engine: OpenVino) -> None:
        super().__init__()
        self._engine = engine

    def _load(self, request: dict[str, Any]) -> Reel:
        options = EngineOptions(threads=request["threads"])
        return Reel(open_bundle(request["bundle"]), self._engine, options, None, request.get("memory"))


def main() -> None:
    """Serve."""
    precision, cache = sys.argv[1:]
    engine = OpenVino(precision, Path(cache))  # type: ignore[arg-type]  # one of bench/contenders/peers.py's
    serve_pipes(lambda folder: ClipWorker(OpenVinoMaker(engine), folder))


if __name__ == "__main__":
    main()
