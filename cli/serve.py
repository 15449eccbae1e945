"""The command that serves videos over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError
from .application import app
from .options import EngineOption, MemoryOption, PrivateOption, ThreadsOption


@app.command()
def serve(
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            help="A .reel folder or a model's name; several times for several. The built-in demo if left out."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where jobs and videos are kept. Default: the user's data folder."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="EDGEREEL_TOKEN_FILE", help="A file with the secret that clients must send."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that this server is reached by; several times for several."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A site whose pages may use this server, such as https://example.org."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Worker processes. Default: one a GPU; on a CPU two for small bundles, else one."
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, max=100_000, help="Jobs that may wait.")] = 100,
    keep_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Disk that finished videos may take; the oldest go first. 0: no bound.")
    ] = "10GiB",
    keep_days: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Days of serving that finished videos are kept. 0: no bound.")
    ] = 0,
    leave_free: Annotated[
        str, typer.Option(metavar="SIZE", help="Disk that is left alone: with less, no job is taken in.")
    ] = "256MiB",
    keep_latents: Annotated[bool, typer.Option("--keep-latents", help="Keep latents once a video is there.")] = False,
    worker_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="End a worker that holds more memory than this.")
    ] = None,
    unload_after: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Let go of the model when nothing was asked for so long. 0: never."
        ),
    ] = 0,
    stage_timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="End a worker whose job makes no progress for so long.")
    ] = 900,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Check prompts against a file's policy, booth, private, or none. Default: booth; none on 127.0.0.1.",
        ),
    ] = None,
    mark: Annotated[
        str,
        typer.Option(
            help="watermark, signature, all, none, or auto: what the size and this device's key allow.",
            envvar="EDGEREEL_MARK",
        ),
    ] = "auto",
    kiosk: Annotated[
        bool, typer.Option("--kiosk", help="The page has large buttons, and its settings ask for the PIN.")
    ] = False,
    pin_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the PIN, at least 4 figures.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Videos can be taken along by a link on the local network.")
    ] = False,
    title: Annotated[str, typer.Option(help="What the page calls itself.")] = "edgereel",
    idle_seconds: Annotated[int, typer.Option(min=5, max=86400, help="After which the page begins anew.")] = 60,
    presets: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Named settings for the page, TOML: [[preset]] name, label, size, …"),
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as JSON, an object a line.")] = False,
    print_unit: Annotated[
        bool, typer.Option("--print-unit", help="Print the unit that systemd runs this by, and serve nothing.")
    ] = False,
    private: PrivateOption = False,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve videos over HTTP: an interface for programs, and a page."""
    if print_unit:
        from ..server.unit import unit_text

        print(unit_text(), end="")
        return
    from ..core.paths import home_folder
    from ..server.bundles import name_bundles
    from ..server.configuration import Configuration, Limits, is_loopback, read_pin, read_presets, read_secret
    from ..server.run import serve as run

    if mark not in ("auto", "none", "watermark", "signature", "all"):
        raise UsageError(f"unknown mark {mark!r}: choose from auto, none, watermark, signature, all")
    chosen = policy if policy is not None else None if is_loopback(host) else "booth"
    limits = Limits(
        waiting=queue,
        keep_bytes=_size("--keep-size", keep_size),
        keep_seconds=keep_days * 86400 or None,
        free_bytes=_size("--leave-free", leave_free) or 0,
        stage_seconds=stage_timeout,
        worker_bytes=None if worker_memory is None else _size("--worker-memory", worker_memory),
        unload_seconds=unload_after or None,
    )
    configuration = Configuration(
        data=home_folder() if data is None else data.absolute(),
        bundles=name_bundles(bundle or []),
        host=host,
        port=port,
        token=None if token_file is None else read_secret(token_file, "token"),
        engine=engine,
        threads=threads,
        workers=workers,
        memory=memory,
        mark=mark,
        policy=None if chosen == "none" else chosen,
        private=private,
        keep_latents=keep_latents,
        log_prompts=log_prompts,
        log_json=log_json,
        allowed_hosts=tuple(name.lower() for name in allow_host or []),
        allowed_origins=tuple(allow_origin or []),
        kiosk=kiosk,
        share=share,
        pin=None if pin_file is None else read_pin(pin_file),
        title=title,
        idle_seconds=idle_seconds,
        presets=() if presets is None else read_presets(presets),
        limits=limits,
    )
    if exit_code := run(configuration):
        raise typer.Exit(exit_code)


def _size(option: str, text: str) -> int | None:
    """Return the bytes that an option says, None for 0, which stands for no bound. Raises UsageError."""
    from ..core.units import parse_bytes

    if text.strip() == "0":
        return None
    try:
        return parse_bytes(text)
    except UsageError as error:
        raise UsageError(str(error).replace("--memory", option)) from error
