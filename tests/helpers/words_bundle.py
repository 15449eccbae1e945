"""The built-in model as one that makes clips of words alone: no context, no pictures, one decoder, 64x64 by default.

Its denoiser's graph without a context (`tests/data/denoiser_without_context.onnx`, which `words_graph.py` writes) reads the
same weights. `tests/demo/test_demo_bundle.py` compares the clips of both.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from conftest import DEMO_REEL

from edgereel.bundle.manifest import digest_of

GRAPH = Path(__file__).parents[1] / "data" / "denoiser_without_context.onnx"


def _write_words_bundle(folder: Path) -> Path:
    """Write the bundle and return its folder."""
    shutil.copytree(DEMO_REEL, folder, ignore=shutil.ignore_patterns("tiny_decoder*", "encoder*"))
    shutil.copyfile(GRAPH, folder / "denoiser.onnx")
    data: dict[str, Any] = json.loads((folder / "reel.json").read_text())
    for key in ("stream", "default_decoder"):
        data.pop(key, None)
    roles = data["roles"]
    roles.update(roles.pop("decoders")["full"])
    for name in ("encoder_first", "encoder_next"):
        roles.pop(name)
    denoiser = roles["denoiser"][0] if isinstance(roles["denoiser"], list) else roles["denoiser"]
    for key in ("inputs", "outputs"):
        denoiser[key] = {name: spec for name, spec in denoiser[key].items() if "context" not in name}
    denoiser["inputs"].pop("positions", None)
    denoiser["inputs"]["timestep"]["shape"] = ["batch"]
    data.update(
        name="edgereel words", schema=1, read_by="0.1.0", defaults={"width": 64, "height": 64, "frames": 17, "fps": 8}
    )
    data["parity"] = {name: proof for name, proof in data["parity"].items() if not name.startswith(("tiny", "encoder"))}
    data["files"] = {name: entry for name, entry in data["files"].items() if (folder / name).exists()}
    content = GRAPH.read_bytes()
    data["files"]["denoiser.onnx"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    data["digest"] = digest_of(data)
    (folder / "reel.json").write_text(json.dumps(data, indent=2, sort_keys=True))
    return folder


def _for_this_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgereel-words-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _write_words_bundle(folder / "words.reel")


WORDS_REEL = _for_this_process()
"""The bundle's folder, which no test changes."""
