"""What is to be measured: one row for each bundle, engine, number of steps, size and length, checked before any work."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from ..bundle.manifest import Manifest
from ..bundle.reader import Bundle, open_bundle
from ..core.errors import UsageError
from ..core.machine import check_threads
from ..core.paths import demo_bundle_path
from ..core.progress import Progress
from ..core.units import parse_bytes
from ..engines import get_engine
from ..runtime.memory.fit import plan_bundle
from ..runtime.request import OpenRequest, Request
from ..runtime.text.tokens import PromptTokenizer
from .contenders.base import Peer, RowPlan
from .records.record import BundleFacts, ClipSettings
from .words import plural

MOST_ROWS = 100
FEW_STEPS = (4, 2, 1)


def plan_rows(
    bundles: Sequence[Path | None],
    engines: Sequence[str],
    steps: Sequence[int] | None,
    sizes: Sequence[tuple[int, int] | None],
    frames: Sequence[int | None],
    prompts: Sequence[str],
    threads: int | None,
    peers: Mapping[str, Peer] | None = None,
    on_progress: Progress | None = None,
) -> list[RowPlan]:
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
    plans: list[RowPlan] = []
    each = [
        (bundle, label, count)
        for bundle, label in zip(opened, _labels(opened), strict=True)
        for count in (default_steps(bundle.manifest) if steps is None else steps)
    ]
    for (bundle, label, count), engine, size, length in product(each, engines, sizes, frames):
        request = OpenRequest(prompts[0], steps=count, size=size, frames=length).complete(bundle.manifest)
        parts = [label, *([f"on {engine}"] if len(engines) > 1 else []), plural(request.steps, "step")]
        parts += [f"{request.width}x{request.height}"] if len(sizes) > 1 else []
        parts += [f"{request.frames} frames"] if len(frames) > 1 else []
        own = RowPlan(", ".join(parts), "edgereel", bundle, engine, request, threads)
        plans.append(own)
        if engine == engines[0]:  # a peer runs on none of ours: another one's row would be the same again
            beside = [name for name, peer in (peers or {}).items() if bundle is opened[0] or not peer.runs_checkpoint]
            plans += [replace(own, name=f"{name}, {own.name}", contender=name) for name in beside]
    if len(plans) > MOST_ROWS:
        raise UsageError(f"{len(plans)} rows are too many for one report: choose at most {MOST_ROWS}")
    return _unique(plans)


def plan_one(
    bundle: Path | None,
    engine: str,
    prompts: Sequence[str],
    threads: int | None = None,
    memory: str | None = None,
    on_progress: Progress | None = None,
) -> RowPlan:
    """Return the plan of a bundle's default clips (None: the built-in bundle).

    Raises as `plan_rows` does, UsageError, and PlanError where they do not fit into memory.
    """
    if memory is not None:
        parse_bytes(memory)
    planned = plan_rows([bundle], [engine], None, [None], [None], prompts, threads, on_progress=on_progress)[0]
    plan_bundle(planned.bundle.folder, memory=memory, engine=engine)
    request = OpenRequest(prompts[0]).complete(planned.bundle.manifest)
    name = f"{planned.bundle.manifest.name}, {plural(request.steps, 'step')}"
    return replace(planned, name=name, request=request, memory=memory)


def references(plans: Sequence[RowPlan]) -> dict[str, str]:
    """Return the name of the row that each row is compared with, for all rows but the first.

    It is the first bundle's first row of the same engine, steps, size and frames; where that is the row itself, or there is
    none, the first row of all.
    """
    first = plans[0]
    alike: dict[tuple[str, int, int, int, int], RowPlan] = {}
    for plan in plans:
        if plan.bundle is first.bundle:
            alike.setdefault(_what_is_made(plan), plan)
    found = {plan.name: alike.get(_what_is_made(plan), first).name for plan in plans[1:]}
    return {name: first.name if other == name else other for name, other in found.items()}


def _what_is_made(plan: RowPlan) -> tuple[str, int, int, int, int]:
    request = plan.request
    return plan.engine, request.steps, request.width, request.height, request.frames


def default_steps(manifest: Manifest) -> list[int]:
    """Return the numbers of steps that are measured where none is asked for, the most first.

    Of a distilled bundle those of 4, 2 and 1 that its recipes list; of any other the default recipe's.
    """
    listed = {recipe.steps for recipe in manifest.recipes if recipe.is_fixed} & set(FEW_STEPS)
    return sorted(listed, reverse=True) or [manifest.recipes[0].steps]


def _check_prompts(bundle: Bundle, prompts: Sequence[str]) -> None:
    rules = bundle.manifest.text
    tokenizer = PromptTokenizer(bundle.path(rules.tokenizer), rules)
    for prompt in prompts:
        tokenizer.encode(prompt)


def _labels(bundles: Sequence[Bundle]) -> list[str]:
    """Return the bundles' names; where two have the same, with the precision, and then with the folder, added."""
    labels = [bundle.manifest.name for bundle in bundles]
    precisions = [bundle.manifest.precision.weights for bundle in bundles]
    for more in (precisions, [f"({bundle.folder.name})" for bundle in bundles]):
        if len(set(labels)) < len(labels):
            labels = [f"{label} {word}" for label, word in zip(labels, more, strict=True)]
    return labels


def _unique(plans: Sequence[RowPlan]) -> list[RowPlan]:
    seen: Counter[str] = Counter()
    unique = []
    for plan in plans:
        seen[plan.name] += 1
        again = seen[plan.name]
        unique.append(plan if again == 1 else replace(plan, name=f"{plan.name} (again, {again})"))
    return unique


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """Return a bundle as the record has it."""
    manifest = bundle.manifest
    return BundleFacts(
        name=manifest.name,
        digest=manifest.digest,
        precision=manifest.precision.weights,
        bytes=sum(record.size for record in manifest.files.values()),
    )


def settings_of(request: Request, prompts: Sequence[str]) -> ClipSettings:
    """Return what a row's clips are made with; prompt n has seed n."""
    same = ("width", "height", "frames", "fps", "steps", "recipe", "sampler")
    return ClipSettings(
        **{name: getattr(request, name) for name in same},
        guidance=list(request.guidances),
        prompts=len(prompts),
        prompts_sha256=hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        seeds=list(range(len(prompts))),
    )
