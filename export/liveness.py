"""Whether a module is alive: a graph that equals a dead module proves nothing.

Tried on the torch module before its graph is traced: what comes out is finite, is not the same everywhere, and changes
with every input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..bundle.roles import STATE
from ..core.errors import ParityError
from .families.base import Array, GraphSource, Trial
from .parity import Run, traced_module

SEED = 5_000_029
LEAST_CHANGE = 1e-6
"""Of an output, relative, when an input becomes another. A dead input changes nothing at all."""
LARGEST_HALF = 65504
HINT = "the weights are damaged or not this model's: copy or download them again"


def check_trials(name: str, trials: Sequence[Trial]) -> None:
    """Raise ParityError where what the untouched module makes of a trial is not finite, or the same everywhere."""
    for trial in trials:
        _check_output(name, trial.expected)


def check_alive(name: str, source: GraphSource, trials: Sequence[Trial], precision: str) -> None:
    """Run a module that is about to be traced; raise ParityError where it overflows, is dead, or does without an input.

    name: of the part. precision: what the module computes in.
    """
    inputs = _inputs(source, trials)
    run = traced_module(source)
    made = run(inputs)
    if precision == "fp16" and not _all_finite(made):
        raise ParityError(overflow(name, source.module))
    _check_output(name, next(iter(made.values())))  # the others are states, which may be zeros
    blind = [
        key
        for key, values in inputs.items()
        if (other := _changed(key, values)) is not None and _change(run, inputs, key, other, made) <= LEAST_CHANGE
    ]
    states = {key for key in inputs if key.startswith(STATE)} if source.states_may_idle else set()
    wrong = [key for key in blind if key not in states or states <= set(blind)]
    if wrong:
        raise ParityError(f"{name}: what it computes does not depend on its input {wrong[0]}; {HINT}")


def overflow(name: str, module: torch.nn.Module) -> str:
    """Return the message about a module whose half-precision output is not finite."""
    weights = (key for key, value in module.named_parameters() if value.dtype == torch.float16)
    large = next((key for key in weights if not bool(torch.isfinite(module.get_parameter(key) + 0).all())), None)
    what = "its outputs" if large is None else f"its weight {large.removeprefix('model.')}"
    return f"{name}: overflows in float16, which ends at {LARGEST_HALF}: {what} became infinite; export with --precision fp32"


def _inputs(source: GraphSource, trials: Sequence[Trial]) -> dict[str, Array]:
    """Return the smallest trial's inputs or, for graphs that take a clip piece by piece, random ones like the examples."""
    fitting = [trial.inputs for trial in trials if set(source.inputs) <= set(trial.inputs)]
    if fitting:
        smallest = min(fitting, key=lambda inputs: sum(values.size for values in inputs.values()))
        return {key: smallest[key] for key in source.inputs}
    random = np.random.default_rng(SEED)
    return {key: _random(random, example.numpy()) for key, example in zip(source.inputs, source.examples, strict=True)}


def _random(random: np.random.Generator, example: Array) -> Array:
    if not np.issubdtype(example.dtype, np.floating):
        return example
    return np.asarray(random.standard_normal(example.shape), example.dtype)


def _changed(key: str, values: Array) -> Array | None:
    """Return other values for an input, None for one that has no say of its own: masks, positions, what is empty."""
    if not values.size or key.endswith(("mask", "positions")):
        return None
    if np.issubdtype(values.dtype, np.floating):
        # Turned round, since some layers take scale and mean away.
        return np.asarray(0.5 * values.ravel()[::-1].reshape(values.shape) + 0.25, values.dtype)
    return np.asarray(values.max() + values.min() - values) if values.max() > values.min() else None


def _change(run: Run, inputs: Mapping[str, Array], key: str, other: Array, made: Mapping[str, Array]) -> float:
    """Return the relative change of the outputs that changes most when one input becomes another."""
    changed = run({**inputs, key: other})
    changes = []
    for name, before in made.items():
        size = float(np.linalg.norm(before.astype(np.float64)))
        difference = float(np.linalg.norm(changed[name].astype(np.float64) - before.astype(np.float64)))
        changes.append(difference / size if size else difference)
    return max(changes)


def _check_output(name: str, output: Array) -> None:
    if not np.isfinite(output).all():
        raise ParityError(f"{name}: what its torch module computes is not finite; {HINT}")
    if output.size > 1 and output.max() == output.min():
        value = float(output.flat[0])
        raise ParityError(f"{name}: what its torch module computes is {value:g} everywhere; {HINT}")


def _all_finite(made: Mapping[str, Array]) -> bool:
    return all(bool(np.isfinite(values).all()) for values in made.values())
