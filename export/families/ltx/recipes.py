"""Published ways of sampling LTX-Video checkpoints that were distilled to few steps, as data."""

from __future__ import annotations

from ....bundle.manifest import Recipe

LTX_RECIPES = (
    Recipe(
        name="ltx-0.9.8-distilled",
        sampler="euler",
        steps=7,
        sigmas=[1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725],
        guidance=1,
        source="LTX-Video, configs/ltxv-2b-0.9.8-distilled.yaml, first pass; 0.9.7 alike",
    ),
    Recipe(
        name="ltx-0.9.6-distilled",
        sampler="sde",
        steps=8,
        sigmas=[1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875],
        guidance=1,
        source="LTX-Video, configs/ltxv-2b-0.9.6-distilled.yaml (8 steps, stochastic sampling) and schedulers/rf.py",
    ),
)
