"""The peers by name, and the checkpoint that those run which do not run a bundle's graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ...core.errors import UsageError, require_packages
from ...core.interrupts import temporary_folder
from ...core.paths import demo_bundle_path
from ...engines.openvino.engine import EXTRA
from .base import Peer
from .diffusers import NEEDED, DiffusersCheckpoint, DiffusersContender
from .openvino import OpenVinoContender

PEERS = ("diffusers", "diffusers-bfloat16", "openvino", "openvino-bfloat16")
"""What can be asked for. diffusers stands for two rows: eager, and compiled by torch."""


@contextmanager
def find_peers(
    names: Sequence[str], first_bundle: Path | None, checkpoint: Path | None = None, transformer: Path | None = None
) -> Iterator[dict[str, Peer]]:
    """Give the peers of these names (see PEERS) for `run_bench`; what they compile is kept until the block ends.

    first_bundle: the first that is measured, None for the built-in one, whose checkpoint is known. checkpoint, transformer:
    see DiffusersCheckpoint. Raises UsageError for a name that is none, and where there is no checkpoint for a peer that needs one;
    MissingExtraError where what a peer needs is not installed.
    """
    if unknown := [name for name in names if name not in PEERS]:
        raise UsageError(
            f"there is no peer {unknown[0]!r}: choose from {', '.join(PEERS)}, or the JSON record of an earlier run"
        )
    runs_checkpoint = any(name.startswith("diffusers") for name in names)
    if runs_checkpoint:
        require_packages(NEEDED, "export", "comparing with diffusers")
    if any(name.startswith("openvino") for name in names):
        require_packages(("openvino",), EXTRA, "comparing with OpenVINO")
    found = find_checkpoint(first_bundle, checkpoint, transformer) if runs_checkpoint else None
    with temporary_folder("edgereel-bench-peers-") as folder:
        peers: dict[str, Peer] = {}
        for name in dict.fromkeys(names):
            program, _, precision = name.partition("-")
            suffix, cache = f" {precision}" * bool(precision), folder / name
            precision = precision or "float32"
            if program == "openvino":
                peers[f"OpenVINO{suffix}"] = Peer(partial(OpenVinoContender, precision=precision, cache=cache))
            elif found is not None:
                make = partial(DiffusersContender, checkpoint=found, dtype=precision, cache=cache)
                for how, compiled in (("eager", False), ("compiled", True)):
                    peers[f"diffusers {how}{suffix}"] = Peer(partial(make, compiled=compiled), runs_checkpoint=True)
        yield peers


def find_checkpoint(
    bundle: Path | None, checkpoint: Path | None = None, transformer: Path | None = None
) -> DiffusersCheckpoint:
    """Return the checkpoint that was asked for, or that of the built-in bundle (None, or its folder).

    Raises UsageError where neither is there, naming what is missing.
    """
    demo = demo_bundle_path()
    if checkpoint is None and transformer is not None:
        raise UsageError("--transformer takes the place of a checkpoint's own: say which with --checkpoint FOLDER")
    if checkpoint is None:
        if bundle is not None and bundle.resolve() != demo.resolve():
            raise UsageError(f"diffusers needs the checkpoint that {bundle} was exported from: --checkpoint FOLDER")
        checkpoint, transformer = demo.parent / "checkpoint", demo.parent / "student"
        if not (checkpoint / "model_index.json").is_file():
            raise UsageError(
                "the built-in bundle's checkpoint is not installed with the package: take demo/checkpoint and demo/student "
                "from edgereel's repository, and say where they are with --checkpoint FOLDER --transformer FOLDER"
            )
    for folder, file in ((checkpoint, "model_index.json"), (transformer, "config.json")):
        if folder is not None and not (folder / file).is_file():
            raise UsageError(f"{folder} has no {file}: a folder as diffusers' save_pretrained writes it is needed")
    return DiffusersCheckpoint(checkpoint.resolve(), None if transformer is None else transformer.resolve())
