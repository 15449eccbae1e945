"""How an LTX-Video checkpoint that brings no recipe is sampled: as its pipeline does with its scheduler."""

from __future__ import annotations

from ....bundle.manifest import Recipe
from ....core.errors import CheckpointError
from ...checkpoint import Checkpoint
from ...layout import read_json

STEPS, GUIDANCE = 50, 3.0  # both pipelines' defaults
SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def own_recipes(checkpoint: Checkpoint) -> list[Recipe]:
    """Return the one recipe; raise CheckpointError for a scheduler that is not the pipeline's."""
    path = checkpoint.folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    kind = config.get("_class_name")
    if kind != SCHEDULER:
        raise CheckpointError(f"{path}: unknown scheduler {kind}; known: {SCHEDULER}")
    common = {
        "name": "euler",
        "sampler": "euler",
        "steps": STEPS,
        "guidance": GUIDANCE,
        "train_timesteps": config.get("num_train_timesteps", 1000),
        "source": f"diffusers {checkpoint.family}",
    }
    return [Recipe.model_validate({**common, "shift": 1.0})]
