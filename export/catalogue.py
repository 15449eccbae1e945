"""Which model families there are: a pipeline's class name leads to its family, and only that one is imported.

Needs no torch: a family's recipes stand in a module of their own, and its adapter is imported when a checkpoint is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bundle.manifest import Recipe
from ..core.errors import CheckpointError, UsageError
from .layout import INDEX_NAME

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .families.base import Adapter


class Family(NamedTuple):
    """Where a family's parts stand, each as MODULE:NAME below this package.

    adapter: a class that takes a Checkpoint and is an Adapter. recipes: the published ways of sampling, a sequence of Recipe.
    recipe: name of the published recipe that checkpoints of a pipeline's class were distilled for. streams: the published
    ways of making clips chunk by chunk, Stream by name; None where there are none.
    """

    adapter: str
    recipes: str
    recipe: str | None = None
    streams: str | None = None


_WAN = Family(
    "families.wan.adapter:WanAdapter",
    "families.wan.recipes:WAN_RECIPES",
    streams="families.wan.conditioning.streams:PUBLISHED_STREAMS",
)
_LTX = Family("families.ltx.adapter:LtxAdapter", "families.ltx.recipes:LTX_RECIPES")

FAMILIES = {
    "WanPipeline": _WAN,
    "WanVideoToVideoPipeline": _WAN,
    "WanImageToVideoPipeline": _WAN,
    "WanVACEPipeline": _WAN,
    "WanDMDPipeline": _WAN._replace(recipe="fastwan"),
    "LTXPipeline": _LTX,
    "LTXConditionPipeline": _LTX,
}
"""Families by the class name of their pipeline, as `model_index.json` has it."""


def family_of(pipeline: str, folder: Path) -> Family:
    """Return the family of a pipeline's class name; raise CheckpointError, which names the checkpoint's folder."""
    if pipeline not in FAMILIES:
        raise CheckpointError(
            f"{folder / INDEX_NAME}: a {pipeline} checkpoint is of an unknown family; known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[pipeline]


def open_family(checkpoint: Checkpoint) -> Adapter:
    """Return the adapter of a checkpoint's family, which checks it; raise CheckpointError."""
    adapter: Adapter = _load(family_of(checkpoint.family, checkpoint.folder).adapter)(checkpoint)
    return adapter


def published_recipes(family: Family) -> Sequence[Recipe]:
    """Return a family's published recipes, one of which may be chosen at export."""
    recipes: Sequence[Recipe] = _load(family.recipes)
    return recipes


def published_recipe(name: str, published: Sequence[Recipe]) -> Recipe:
    """Return the recipe of that name. Raises UsageError where there is none."""
    found = next((recipe for recipe in published if recipe.name == name), None)
    if found is None:
        known = ", ".join(recipe.name for recipe in published) or "none for this family"
        raise UsageError(f"unknown recipe {name!r}: choose from {known}")
    return found


def check_stream(name: str, family: Family) -> None:
    """Raise UsageError where a family has no published stream of that name."""
    published = _load(family.streams) if family.streams else {}
    if name not in published:
        known = ", ".join(published) or "none for this family"
        raise UsageError(
            f"unknown stream {name!r}: choose from {known}, or describe it in the checkpoint's edgereel.json"
        )


def put_first(name: str, published: Sequence[Recipe], own: Sequence[Recipe], denoisers: int) -> list[Recipe]:
    """Return the published recipe of that name, followed by a checkpoint's own ones of other names.

    denoisers: how many the checkpoint has; what a recipe says of two is left out where it has one. Raises UsageError.
    """
    found = published_recipe(name, published)
    chosen = found if denoisers == 2 else found.model_copy(update={"boundary": None, "expert_guidance": None})
    return [chosen, *(recipe for recipe in own if recipe.name != name)]


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f".{module}", __package__), name)
