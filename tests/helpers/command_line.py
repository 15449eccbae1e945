"""Running the command line in a test's own process, and what is asked of how it ends."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from conftest import DEMO_REEL

PROMPT = "a red ball bounces over the ocean"

BUNDLE = ["--bundle", str(DEMO_REEL)]

NEGATIVE = ["--negative", "a green square", "--guidance", "4"]

QUICK = ["--steps", "2", "--frames", "5", "--size", "32x32", *BUNDLE]


def refused(result, code, part):
    """Check that a run ended with this code and one line on stderr with this part in it, and wrote nothing."""
    exit_code, out, err = result
    assert (exit_code, out) == (code, ""), err
    assert err.count("\n") == 1, err
    assert err.startswith("edgereel: ")
    assert part in err
    assert [path.name for path in Path.cwd().iterdir()] == []


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def metadata_of(path):
    with av.open(str(path)) as container:
        return dict(container.metadata)


def prompts_file(folder, text):
    (folder / "prompts.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "prompts.txt"
