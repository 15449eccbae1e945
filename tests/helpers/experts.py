"""A random checkpoint of two experts for the noise levels, with recipes by rule and the few-step ones that are published."""

from __future__ import annotations

from pathlib import Path

from edgereel.export.families.wan.recipes import WAN_RECIPES

from .tiny_wan import write_tiny_wan

STEPS, SHIFT = 6, 3.0
GUIDANCES = [4.0, 2.5]
PUBLISHED = {recipe.name: recipe for recipe in WAN_RECIPES}
FEW = ("self-forcing", "causvid-3", "causvid-4", "fastwan", "lightx2v-4", "lightx2v-4-lcm", "rcm")


def write_experts(folder: Path) -> Path:
    """Write the checkpoint and return its folder."""
    common = {"steps": STEPS, "shift": SHIFT, "guidance": GUIDANCES[0], "expert_guidance": GUIDANCES}
    recipes = [{"name": name, "sampler": name, **common} for name in ("unipc", "euler")]
    recipes += [PUBLISHED[name].model_dump(mode="json") for name in FEW]
    return write_tiny_wan(folder, seed=5, depth=1, vae_levels=3, experts=True, extra={"recipes": recipes})
