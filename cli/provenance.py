"""Commands about marks: the key they are signed with, the log, and what marks a file carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import EdgereelError, UsageError, one_line
from ..core.interrupts import interrupts_wait
from .application import app
from .options import JsonOption, MarkerOption
from .terminal import print_json, show_note

commands = typer.Typer(help="The key that clips are signed with, and the log of what was made.", no_args_is_help=True)
app.add_typer(commands, name="provenance")

NO_MARKS, ALTERED = 3, 1
"""Exit codes of verify-media, beside 0: all files carry an intact mark."""


@app.command("verify-media")
def verify_media(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Videos and pictures, anyone's.")],
    trust: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Root certificates to trust, beside this device's own.")
    ] = None,
    key: Annotated[
        str, typer.Option(help="The key of the watermark to look for.", envvar="EDGEREEL_WATERMARK_KEY")
    ] = "edgereel",
    marker: MarkerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what marks files carry: metadata, signature, watermark.

    Exit code 0: all say that a generative model made them, and no signature is broken. 1: one was changed after it was
    signed. 2: one cannot be read. 3: one has no such mark, which does not mean that no model made it.
    """
    with interrupts_wait():
        from ..core.files import read_plain
        from ..provenance.keys import own_root
        from ..provenance.verify.report import examine
        from ..provenance.watermark.marker import Marker

    other = None if marker is None else Marker.read(marker)
    anchors = own_root() or b""
    if trust is not None:
        try:
            anchors += read_plain(trust, 2**24, follow_links=True)
        except OSError as error:
            raise UsageError(f"{one_line(trust)}: cannot be read: {error.strerror or error}") from error
    reports, refused = [], ""
    for path in files:
        try:
            report = examine(path, anchors or None, key, other)
        except EdgereelError as error:
            refused = str(error)
            show_note(refused)
            continue
        reports.append(report)
        if not as_json:
            print(f"{one_line(path)}\n  " + "\n  ".join(report.words()))
    if as_json:
        print_json({"files": [report.to_json() for report in reports]})
    if any(report.altered for report in reports):
        raise typer.Exit(ALTERED)
    if refused:
        raise typer.Exit(UsageError.exit_code)
    if not all(report.generated for report in reports):
        raise typer.Exit(NO_MARKS)


@commands.command("init")
def init(
    name: Annotated[str, typer.Option(help="What verifiers show as the signer.")] = "edgereel device",
    key: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="A key of your own, unencrypted.")] = None,
    chain: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Its certificate, followed by those up to the root.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the key that this device signs with, and its certificate for ten years; or take your own."""
    with interrupts_wait():
        from ..provenance import keys

    if (key is None) != (chain is None):
        raise UsageError("--key and --chain belong together: give both, or neither")
    folder = keys.create(name) if key is None or chain is None else keys.adopt(key, chain)
    identity = keys.load()
    if as_json:
        facts = {"folder": str(folder), "name": identity.name, "maker": f"{identity.maker:06x}"}
        print_json({**facts, "expires": identity.expires.isoformat()})
        return
    print(f"{one_line(folder)}: signs as {one_line(identity.name)} until {identity.expires:%Y-%m-%d}")
    print(
        f"watermarks carry maker {identity.maker:06x}; give root.pem to who is to trust this device, key.pem to no one"
    )


@commands.command("log")
def show_log(
    wanted: Annotated[
        str, typer.Argument(metavar="[ID|HASH|FILE]", help="A watermark's id, a clip's id, a SHA-256, or a file.")
    ] = "",
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="The log that generate --log has kept.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether this machine made a clip, and with what settings. Exit code 3: it is not in the log."""
    with interrupts_wait():
        from ..provenance.log import Log, log_path
        from ..provenance.lookup import look_up

    entries = look_up(Log(log or log_path()), wanted)
    if as_json:
        print_json({"clips": entries})
    else:
        for entry in entries:
            print(f"{entry['id']}  watermark {entry['watermark'] or 'none'}  {entry['made'] or 'time unknown'}")
        if not entries:
            print("not in the log")
    if not entries and wanted:
        raise typer.Exit(NO_MARKS)
