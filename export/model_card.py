"""The bundle's MODEL_CARD.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bundle.manifest import Parity, Recipe
from ..bundle.words import describe_guidance, describe_rule, describe_second
from .families.base import Facts


def model_card(labels: Mapping[str, Any], facts: Facts, parity: Mapping[str, Parity], precision: str) -> str:
    """Return the card's Markdown: what the bundle is, whose it is, how to sample, how exact it is."""
    defaults = facts.defaults
    recipes = [
        f"| {r.name} | {r.sampler} | {r.steps} | {describe_guidance(r)} | {_levels(r)} | {r.source} |"
        for r in facts.recipes
    ]
    proofs = [f"| {name} | {proof.relative:.1e} | {proof.limit:.0e} |" for name, proof in parity.items()]
    lines = [
        f"# {labels['name']}",
        "",
        "A text-to-video model as an edgereel bundle. Videos made with it are AI-generated.",
        "",
        f"- Licence of the weights: {labels['license']}",
        f"- Origin of the weights: {labels['origin']}",
        f"- Computes in {precision}; {defaults.width}x{defaults.height} pixels, {defaults.frames} frames, "
        f"{defaults.fps} frames per second unless asked otherwise",
        "",
        "## Recipes",
        "",
        "| name | sampler | steps | guidance | noise levels | source |",
        "|---|---|---|---|---|---|",
        *recipes,
        "",
        *_loras(facts),
        "## Difference to the torch modules",
        "",
        "‖a − b‖₂ / ‖b‖₂ on random inputs, the worst over the shapes tried, when the bundle was made.",
        "",
        "| graph | difference | allowed |",
        "|---|---|---|",
        *proofs,
    ]
    return "\n".join(lines) + "\n"


def _levels(recipe: Recipe) -> str:
    return ", ".join(filter(None, (describe_rule(recipe), describe_second(recipe))))


def _loras(facts: Facts) -> list[str]:
    if not facts.loras:
        return []
    rows = [
        f"| {lora.name.replace('|', chr(92) + '|')} | {lora.scale:g} | {lora.denoiser} | {lora.sha256} |"
        for lora in facts.loras
    ]
    head = ["## LoRAs fused into the weights", "", "| file | scale | graph | sha256 |", "|---|---|---|---|"]
    return [*head, *rows, ""]
