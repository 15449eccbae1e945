"""Commands about what is kept between runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError, one_line
from ..core.interrupts import interrupts_wait
from ..core.units import format_bytes
from .application import app
from .options import JsonOption
from .terminal import print_cache, print_json

if TYPE_CHECKING:
    from ..story.film.store import Store

cache = typer.Typer(help="What is kept in the user's cache folder: built engines, lowered graphs, embeddings.")
app.add_typer(cache, name="cache")


_STORIES = "stories"
"""What is kept of stories in the data folder, beside the parts of the cache folder."""


@cache.command("ls")
def list_cache(as_json: JsonOption = False) -> None:
    """Show what the cache holds, and each built engine."""
    with interrupts_wait():
        from ..bundle.reader import hashes_path
        from ..engines.cache.engines import EngineCache
        from ..engines.cache.files import count
        from ..engines.cache.parts import CachePart, cache_parts

    parts, path, store = cache_parts(), hashes_path(), _store()
    if path.is_file():
        parts.append(CachePart(path.name, path, path.stat().st_size, 1, ours=True))
    if store is not None and store.folder.is_dir():
        parts.append(CachePart(_STORIES, store.folder, *count(store.folder), ours=True))
    print_cache(parts, EngineCache().list_entries(), as_json)


@cache.command("rm")
def remove_from_cache(
    engines: Annotated[list[str] | None, typer.Argument(help="Built engines, by the beginning of their names.")] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Everything of one kind: engines, lowered, embeddings, costs, timings, pictures, pieces, speech or stories."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything but stories, whose scenes take long to make.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove built engines or other kept things; what is in use stays."""
    with interrupts_wait():
        from ..bundle.reader import forget_hashes
        from ..engines.cache.engines import EngineCache
        from ..engines.cache.parts import cache_parts, clear_part

    if sum((bool(engines), part is not None, everything)) != 1:
        raise UsageError("say what to remove: engines by name, --part KIND, or --all")
    if part == _STORIES:
        store = _store()
        freed = 0 if store is None else store.clear()
    elif engines:
        freed = EngineCache().remove(engines)
    else:
        parts = [found.name for found in cache_parts() if found.ours] if part is None else [part]
        freed = sum(clear_part(name) for name in parts) + (forget_hashes() if everything else 0)
    if as_json:
        print_json({"freed": freed})
    else:
        print(f"{format_bytes(freed)} freed")


@cache.command("verify")
def verify_cache(as_json: JsonOption = False) -> None:
    """Hash every built engine again; 1 if one is not as it was built. A damaged one is built again when it is needed."""
    with interrupts_wait():
        from ..engines.cache.engines import EngineCache

    found = EngineCache().verify()
    problems = {entry.digest: problem for entry, problem in found if problem is not None}
    if as_json:
        print_json({"engines": len(found), "problems": problems})
    else:
        for digest, problem in problems.items():
            print(f"{digest[:12]}  {one_line(problem)}")
        print(f"{len(found) - len(problems)} of {len(found)} built engines are as they were built")
    raise typer.Exit(1 if problems else 0)


def _store() -> Store | None:
    """Return the user's store of scenes, None without a home folder to have one in."""
    from ..story.film.store import Store

    try:
        return Store()
    except UsageError:
        return None
