"""Commands that look at bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.interrupts import interrupts_wait
from .application import app
from .options import JsonOption
from .terminal import print_json, stage_progress


@app.command()
def inspect(
    bundle: Annotated[
        Path | None, typer.Argument(help="The .reel folder or a model's name; the built-in demo if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds: model, recipes, sizes, precision, parity and quality."""
    with interrupts_wait():
        from ..bundle.reader import open_bundle
        from ..core.paths import demo_bundle_path
        from ..runtime.describe import describe

    opened = open_bundle(bundle or demo_bundle_path())
    if as_json:
        print_json(opened.manifest.to_json())
    else:
        print(describe(opened))


@app.command()
def verify(
    bundle: Annotated[
        Path | None, typer.Argument(help="The .reel folder or a model's name; the built-in demo if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of a bundle again and check it against the manifest."""
    with interrupts_wait():
        from ..bundle.reader import verify_bundle
        from ..core.paths import demo_bundle_path

    with stage_progress() as progress:
        opened = verify_bundle(bundle or demo_bundle_path(), on_progress=progress)
    if as_json:
        print_json(
            {"bundle": str(opened.folder), "digest": opened.manifest.digest, "files": len(opened.manifest.files)}
        )
    else:
        print(f"{opened.folder}: {len(opened.manifest.files)} files are as declared, digest {opened.manifest.digest}")
