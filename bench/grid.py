"""What is to be measured: one row for each bundle, engine, number of steps, size and length, checked before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ..bundle.manifest import Manifest
from ..bundle.reader import Bundle, open_bundle
from ..core.errors import UsageError
from ..core.machine import check_threads
from ..core.paths import demo_bundle_path
from ..core.progress import Progress
from ..engines import get_engine
from ..runtime.request import OpenRequest
from ..runtime.text.tokens import PromptTokenizer
from .contenders.base import CheckpointPeer, Job, PeerFactory
from .records.record import BundleFacts, Settings

MOST_ROWS = 100
FEW_STEPS = (4, 2, 1)


@dataclass(frozen=True)
class Plan:
    """A row to be measured. name: unique among all rows; contender: `edgereel`, or a peer's name."""

    name: str
    contender: str
    job: Job


def plan_rows(
    bundles: Sequence[Path | None],
    engines: Sequence[str],
    steps: Sequence[int] | None,
    sizes: Sequence[tuple[int, int] | None],
    frames: Sequence[int | None],
    prompts: Sequence[str],
    threads: int | None,
    peers: Mapping[str, PeerFactory] | None = None,
    on_progress: Progress | None = None,
) -> list[Plan]:
    """Return the rows in order; None stands for the built-in bundle, and for a bundle's own defaults (`default_steps`).

    Raises BundleError, GeometryError, PromptError, UsageError: a mistake in the last row should not come to light after hours.
    """
    threads = check_threads(threads)
    if not prompts:
        raise UsageError("there is no prompt to make clips of")
    for engine in engines:
        if reason := get_engine(engine).unavailable():
            raise UsageError(f"the engine {engine} cannot run here: {reason}")
    opened = [open_bundle(demo_bundle_path() if path is None else path, on_progress=on_progress) for path in bundles]
    for bundle in opened:
        _check_prompts(bundle, prompts)
    labels, taking_part = _labels(opened), dict(peers or {})
    plans: list[Plan] = []
    each = [
        (bundle, label, count) for bundle, label in zip(opened, labels, strict=True) for count in _steps(bundle, steps)
    ]
    for (bundle, label, count), engine, size, length in product(each, engines, sizes, frames):
        request = OpenRequest(prompts[0], steps=count, size=size, frames=length).complete(bundle.manifest)
        job = Job(bundle, engine, request, threads)
        name = [label, *([f"on {engine}"] if len(engines) > 1 else [])]
        name.append(f"{request.steps} step{'s' * (request.steps != 1)}")
        name += [f"{request.width}x{request.height}"] if len(sizes) > 1 else []
        name += [f"{request.frames} frames"] if len(frames) > 1 else []
        own = Plan(", ".join(name), "edgereel", job)
        plans.append(own)
        if engine == engines[0]:  # a peer runs on none of ours: another one's row would be the same again
            beside = [
                peer
                for peer, make in taking_part.items()
                if bundle is opened[0] or not isinstance(make, CheckpointPeer)
            ]
            plans += [Plan(", ".join([peer, *name]), peer, job) for peer in beside]
    if len(plans) > MOST_ROWS:
        raise UsageError(f"{len(plans)} rows are too many for one report: choose at most {MOST_ROWS}")
    return _unique(plans)


def references(plans: Sequence[Plan]) -> dict[str, str]:
    """Return the name of the row that each row is compared with, for all rows but the first.

    It is the first bundle's first row of the same engine, steps, size and frames; where that is the row itself, or there is
    none, the first row of all.
    """
    first = plans[0]
    alike: dict[tuple[str, int, int, int, int], Plan] = {}
    for plan in plans:
        if plan.job.bundle is first.job.bundle:
            alike.setdefault(_what_is_made(plan), plan)
    found = {plan.name: alike.get(_what_is_made(plan), first).name for plan in plans[1:]}
    return {name: first.name if other == name else other for name, other in found.items()}


def _what_is_made(plan: Plan) -> tuple[str, int, int, int, int]:
    request = plan.job.request
    return plan.job.engine, request.steps, request.width, request.height, request.frames


def default_steps(manifest: Manifest) -> list[int]:
    """Return the numbers of steps that are measured where none is asked for, the most first.

    Of a distilled bundle those of 4, 2 and 1 that its recipes list; of any other the default recipe's.
    """
    listed = {recipe.steps for recipe in manifest.recipes if recipe.is_fixed} & set(FEW_STEPS)
    return sorted(listed, reverse=True) or [manifest.recipes[0].steps]


def _steps(bundle: Bundle, asked: Sequence[int] | None) -> list[int]:
    return default_steps(bundle.manifest) if asked is None else list(asked)


def _check_prompts(bundle: Bundle, prompts: Sequence[str]) -> None:
    rules = bundle.manifest.text
    tokenizer = PromptTokenizer(bundle.path(rules.tokenizer), rules)
    for prompt in prompts:
        tokenizer.encode(prompt)


def _labels(bundles: Sequence[Bundle]) -> list[str]:
    """Return the bundles' names; where two have the same, with the precision, and then with the folder, added."""
    labels = [bundle.manifest.name for bundle in bundles]
    if len(set(labels)) < len(labels):
        labels = [f"{name} {precision_of(bundle)}" for name, bundle in zip(labels, bundles, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{name} ({bundle.folder.name})" for name, bundle in zip(labels, bundles, strict=True)]
    return labels


def _unique(plans: Sequence[Plan]) -> list[Plan]:
    seen: dict[str, int] = {}
    unique = []
    for plan in plans:
        seen[plan.name] = seen.get(plan.name, 0) + 1
        again = seen[plan.name]
        unique.append(plan if again == 1 else replace(plan, name=f"{plan.name} (again, {again})"))
    return unique


def precision_of(bundle: Bundle) -> str:
    """Return in a word or two how a bundle's weights are stored."""
    return bundle.manifest.precision.weights


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """Return a bundle as the record has it."""
    manifest = bundle.manifest
    size = sum(record.size for record in manifest.files.values())
    return BundleFacts(name=manifest.name, digest=manifest.digest, precision=precision_of(bundle), bytes=size)


def settings_of(job: Job, prompts: Sequence[str]) -> Settings:
    """Return what a row's clips are made with; prompt n has seed n."""
    request = job.request
    return Settings(
        width=request.width,
        height=request.height,
        frames=request.frames,
        fps=int(request.fps),
        steps=request.steps,
        recipe=request.recipe,
        sampler=request.sampler,
        guidance=list(request.guidances),
        prompts=len(prompts),
        prompts_sha256=hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        seeds=list(range(len(prompts))),
    )
