"""Write tests/data/denoiser_without_context.onnx anew, where the built-in model has changed: python tests/helpers/words_graph.py

It is the denoiser's graph of an export without `streaming.json`, told to read the same weights in demo.reel/denoiser.data.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT.parent))


def stored(tensor: Any, folder: Path) -> bytes:
    """Return a weight's bytes, which lie in a file beside the graph."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / told["location"]).open("rb") as file:
        file.seek(int(told["offset"]))
        return file.read(int(told["length"]))


def main() -> None:
    from edgereel.export import export_checkpoint

    demo = ROOT / "demo"
    with tempfile.TemporaryDirectory() as name:
        checkpoint, words = Path(name) / "checkpoint", Path(name) / "words.reel"
        shutil.copytree(demo / "checkpoint", checkpoint, ignore=shutil.ignore_patterns("streaming.json"))
        export_checkpoint(checkpoint, words, transformer=demo / "student")
        model = onnx.load(words / "denoiser.onnx", load_external_data=False)
        whole = onnx.load(demo / "demo.reel" / "denoiser.onnx", load_external_data=False)
        there = {
            stored(tensor, demo / "demo.reel"): tensor for tensor in whole.graph.initializer if tensor.external_data
        }
        for tensor in model.graph.initializer:
            if tensor.external_data:
                same = there[stored(tensor, words)]
                assert same.data_type == tensor.data_type
                del tensor.external_data[:]
                tensor.external_data.extend(same.external_data)
    onnx.save(model, HERE.parents[1] / "data" / "denoiser_without_context.onnx")


if __name__ == "__main__":
    main()
