"""Commands about models by name: which there are, how they come and go, and the archives that they travel in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import one_line
from ..core.interrupts import interrupts_wait
from ..core.units import format_bytes
from .application import app
from .options import JsonOption
from .terminal import print_json, print_models, show_note, stage_progress

models = typer.Typer(help="Models by name: bundles kept in one folder, which every command finds.")
app.add_typer(models, name="models")

_SHOWN = 5


@models.command("ls")
def list_models(as_json: JsonOption = False) -> None:
    """Show which models there are; any command takes one by its name instead of a bundle's folder."""
    with interrupts_wait():
        from ..bundle.library.models import list_models as run
        from ..core.paths import find_models_folder

    print_models(run(), find_models_folder(), as_json)


@models.command("add")
def add_model(
    source: Annotated[
        Path,
        typer.Argument(help="A .reel folder, or a tar or zip archive of one, wherever it is."),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it from now on; its name there if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a bundle into the models folder, whole or not at all; each file is hashed against the manifest."""
    with interrupts_wait():
        from ..bundle.library.models import add_model as run

    with stage_progress() as progress:
        added = run(source, name, progress)
    if added.left_out:
        more = len(added.left_out) - _SHOWN
        some = ", ".join(added.left_out[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        show_note(f"left out, since reel.json does not list it: {some}")
    if as_json:
        print_json({**added.model.to_json(), "left_out": added.left_out})
    else:
        print(f"{added.model.name}  {format_bytes(added.model.bytes)}  {one_line(added.model.path)}")


@models.command("rm")
def remove_models(
    names: Annotated[list[str], typer.Argument(help="Models by name.")], as_json: JsonOption = False
) -> None:
    """Remove models; where one of the names is none, nothing is removed."""
    with interrupts_wait():
        from ..bundle.library.models import remove_models as run

    freed = run(names)
    if as_json:
        print_json({"removed": names, "freed": freed})
    else:
        print(f"{format_bytes(freed)} freed")


@models.command("show")
def show_model(name: Annotated[str, typer.Argument(help="A model's name.")], as_json: JsonOption = False) -> None:
    """Show what a model is, as inspect does, at once: its content is not hashed."""
    with interrupts_wait():
        from ..bundle.library.models import find_model
        from ..runtime.describe import describe

    found = find_model(name)
    if as_json:
        print_json({"path": str(found.folder), **found.manifest.to_json()})
    else:
        print(describe(found))


@models.command("where")
def where_model(
    name: Annotated[str | None, typer.Argument(help="A model's name; the models folder if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print where a model is, or the folder that all are in."""
    with interrupts_wait():
        from ..bundle.library.models import path_of_model
        from ..bundle.library.names import models_folder

    path = models_folder() if name is None else path_of_model(name)
    if as_json:
        print_json({"path": str(path)})
    else:
        print(one_line(path))


@app.command()
def pack(
    bundle: Annotated[Path, typer.Argument(help="The .reel folder, or a model's name.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The .tar or .zip to write.")],
    as_json: JsonOption = False,
) -> None:
    """Pack a bundle into one file to carry, for models add; any system's own tools open it too."""
    with interrupts_wait():
        from ..bundle.library.packing import pack_bundle

    with stage_progress() as progress:
        size = pack_bundle(bundle, output, progress)
    if as_json:
        print_json({"output": str(output), "bytes": size})
    else:
        print(f"{one_line(output)}  {format_bytes(size)}")
