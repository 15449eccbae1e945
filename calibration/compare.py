"""What a smaller bundle loses: the same prompts, seeds and noise through two bundles, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..bundle.reader import Bundle, open_bundle
from ..core.errors import UsageError
from ..core.interrupts import temporary_folder
from ..core.progress import Progress, report_progress
from ..demo.clips import Subject, split
from ..demo.scorer import Reading, read, score_readings
from ..engines import EngineOptions, Tensor, get_engine
from ..engines.wrapped import ObservedEngine
from ..quality import metrics
from ..quality.metrics import Clip
from ..runtime.clip import Video
from ..runtime.reel import Reel
from ..runtime.request import Request
from .clips import ClipSettings, check_count, estimate_in_words

DEFAULT_PROMPTS = 8
_AS_THE_BUNDLE = ClipSettings()
_FEWEST_FRAMES = 5  # that the scorer can read


@dataclass(frozen=True)
class ClipFigures:
    """One clip of the second bundle beside the first one's.

    psnr_db: at most 100, where they are equal. ssim: at most 1. gradient_deviation: GMSD, 0 where they are equal.
    motion: change from frame to frame, as a ratio to the first bundle's. drift: relative difference of the latents before
    each step after the first, and at the end.
    """

    prompt: str
    seed: int
    psnr_db: float
    ssim: float
    gradient_deviation: float
    motion: float
    drift: list[float]


@dataclass(frozen=True)
class Side:
    """One of the two bundles: identity, bytes of all files, share of clips that show their prompt (demo prompts only).

    decoder: what decoded its clips, None where it has only one.
    """

    path: str
    name: str
    digest: str
    bytes: int
    shown: dict[str, float] | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class Pictures:
    """The frames of one of the clips, by its index, as both bundles made it."""

    clip: int
    first: Clip
    second: Clip


@dataclass(frozen=True)
class BundleComparison:
    """The whole result. Means are over clips. made_as: recipe, steps, size and length of the clips, by name."""

    first: Side
    second: Side
    clips: list[ClipFigures]
    made_as: dict[str, Any]
    budget_db: float | None = None
    pictures: list[Pictures] = field(default_factory=list, repr=False, compare=False)
    """Frames of the worst clips, worst first, where they were asked for."""

    @property
    def psnr_db(self) -> float:
        """Mean of the clips' PSNR."""
        return float(np.mean([clip.psnr_db for clip in self.clips]))

    @property
    def within_budget(self) -> bool | None:
        """Whether the mean PSNR is what was asked for; None where nothing was."""
        return None if self.budget_db is None else self.psnr_db >= self.budget_db

    def figures(self) -> dict[str, float]:
        """Return the means over all clips by name, and the worst clip's PSNR."""
        names = ("psnr_db", "ssim", "gradient_deviation", "motion")
        means = {name: float(np.mean([getattr(clip, name) for clip in self.clips])) for name in names}
        return {**means, "worst_psnr_db": min(clip.psnr_db for clip in self.clips)}

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "first": asdict(self.first),
            "second": asdict(self.second),
            "made_as": self.made_as,
            "mean": self.figures(),
            "drift": self.drift(),
            "budget_db": self.budget_db,
            "within_budget": self.within_budget,
            "clips": [asdict(clip) for clip in self.clips],
        }

    def drift(self) -> list[float]:
        """Return the mean drift after each step."""
        means: list[float] = np.mean([clip.drift for clip in self.clips], axis=0).tolist()
        return means


def compare_bundles(
    first: Path,
    second: Path,
    *,
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    settings: ClipSettings = _AS_THE_BUNDLE,
    second_decoder: str | None = None,
    engine: str = "auto",
    threads: int | None = None,
    budget_db: float | None = None,
    pictures: int = 0,
    on_estimate: Callable[[str], object] | None = None,
    on_progress: Progress | None = None,
) -> BundleComparison:
    """Make every prompt with every seed by both bundles and measure how far the second's clips are from the first's.

    prompts: None takes held-out captions, where both are demo models. settings: how the clips are made; what is left
    open is each bundle's own. second_decoder: decodes the second bundle's clips in the place of the settings'; both bundles may be
    one. budget_db: mean PSNR that the second bundle should keep. pictures: of how many of the worst clips to
    keep the frames. on_estimate: told how long this will take, before it begins.
    on_progress: told of the stages `first` and `second`. One bundle is open at a time; the first one's frames wait on disk.

    Raises UsageError where the bundles make clips of different sizes or there are no prompts, BundleError, PromptError.
    """
    bundles = open_bundle(first), open_bundle(second)
    chosen = list(prompts) if prompts is not None else default_prompts(*(bundle.manifest for bundle in bundles))
    check_count(chosen, seeds)
    jobs = [(prompt, seed) for prompt in chosen for seed in seeds]
    _check_alike(*bundles)
    each = settings, settings if second_decoder is None else replace(settings, decoder=second_decoder)
    request, other_request = _check_settings(bundles, each)
    if on_estimate is not None:
        on_estimate(estimate_in_words(bundles, len(jobs), settings, engine, threads))
    figures: list[ClipFigures] = []
    kept: list[Pictures] = []
    subjects = _subjects(chosen)
    scored = subjects is not None and _can_be_scored(bundles[0].manifest, request)
    readings: tuple[list[Reading], list[Reading]] = ([], [])
    with temporary_folder("edgereel-compare-") as waiting:
        runs = (_clips(bundle, jobs, own, engine, threads) for bundle, own in zip(bundles, each, strict=True))
        for index, (clip, latents) in enumerate(next(runs)):
            np.save(waiting / f"{index}.npy", clip)
            np.save(waiting / f"{index}.latents.npy", latents)
            report_progress(on_progress, "first", index + 1, len(jobs))
        for index, (clip, latents) in enumerate(next(runs)):
            reference = np.load(waiting / f"{index}.npy")
            figures.append(_figures(*jobs[index], reference, clip, np.load(waiting / f"{index}.latents.npy"), latents))
            if scored:
                for found, frames in zip(readings, (reference, clip), strict=True):
                    found.append(read(frames))
            kept = sorted(
                [*kept, Pictures(len(figures) - 1, reference, clip)], key=lambda pair: figures[pair.clip].psnr_db
            )
            del kept[pictures:]
            report_progress(on_progress, "second", index + 1, len(jobs))
    shown: list[dict[str, float] | None] = [None, None]
    if subjects is not None and scored:
        asked = [subjects[prompt] for prompt, _ in jobs]
        shown = [score_readings(zip(found, asked, strict=True)) for found in readings]
    one, other = (
        _side(bundle, score, made.decoder)
        for bundle, score, made in zip(bundles, shown, (request, other_request), strict=True)
    )
    return BundleComparison(one, other, figures, _made_as(request), budget_db, kept)


def _clips(
    bundle: Bundle, jobs: list[tuple[str, int]], settings: ClipSettings, engine: str, threads: int | None
) -> Iterator[tuple[Clip, NDArray[np.float32]]]:
    """Yield frames, and latents after each step [steps, C, F, H, W], of each job; the bundle is open meanwhile."""
    seen: list[NDArray[np.float32]] = []

    def observe(graph: str, inputs: Mapping[str, Tensor], _: Mapping[str, Tensor]) -> None:
        if graph.startswith("denoiser"):
            latents = inputs["latents"].numpy()[0]
            if not seen or not np.array_equal(seen[-1], latents):  # guidance asks twice about the same latents
                seen.append(latents.copy())

    with Reel(bundle, ObservedEngine(get_engine(engine), observe), EngineOptions(threads=threads)) as reel:
        for prompt, seed in jobs:
            seen.clear()
            video = reel.generate(prompt, seed=seed, **settings.given())
            yield np.stack(list(video)), _path(seen, video, bundle)


def _path(seen: list[NDArray[np.float32]], video: Video, bundle: Bundle) -> NDArray[np.float32]:
    """Return the latents after each step [steps, C, F, H, W] in the clip's own size; of a stream, those of its first chunk.

    A chunk is whole where the clip is its beginning, and a first stage is smaller.
    """
    final = video.latents[0]
    of_clip = seen[: video.request.steps] if bundle.manifest.stream is not None else seen
    frames = min(final.shape[1], of_clip[-1].shape[1])
    steps = [each[:, :frames] for each in of_clip[1:] if each.shape[2:] == final.shape[2:]]
    return np.stack([*steps, final[:, :frames]])


def _figures(
    prompt: str, seed: int, reference: Clip, clip: Clip, path: NDArray[np.float32], other: NDArray[np.float32]
) -> ClipFigures:
    moved = metrics.motion(reference)
    return ClipFigures(
        prompt=prompt,
        seed=seed,
        psnr_db=metrics.psnr(reference, clip),
        ssim=metrics.ssim(reference, clip),
        gradient_deviation=metrics.gradient_deviation(reference, clip),
        motion=metrics.motion(clip) / moved if moved else 1.0,
        drift=[float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in zip(path, other, strict=True)],
    )


def default_prompts(*manifests: Manifest) -> list[str]:
    """Return held-out captions where all of these are demo models, or were made from one. Raises UsageError."""
    for manifest in manifests:
        if "held_out_clips" not in {**manifest.quality, **manifest.quality.get("of_source", {})}:
            raise UsageError("this bundle brings no prompts of its own: give --prompts FILE, one prompt per line")
    _, held_out = split()
    return [subject.captions()[0] for subject in held_out[:DEFAULT_PROMPTS]]


def _check_alike(first: Bundle, second: Bundle) -> None:
    one, other = first.manifest, second.manifest
    for name, a, b in (
        ("latents", one.latent, other.latent),
        ("default sizes", one.defaults, other.defaults),
    ):
        if a != b:
            raise UsageError(f"{first.folder} and {second.folder} have different {name}: they are not the same model")


def _made_as(request: Request) -> dict[str, Any]:
    """Return what decides how near clips come, as plain data."""
    names = ("recipe", "steps", "width", "height", "frames")
    return {name: getattr(request, name) for name in names}


def _check_settings(
    bundles: tuple[Bundle, Bundle], settings: tuple[ClipSettings, ClipSettings]
) -> tuple[Request, Request]:
    """Return both bundles' requests. Raises UsageError where the two would make clips that cannot be compared."""
    one, other = settings[0].complete(bundles[0]), settings[1].complete(bundles[1])
    if one.steps != other.steps:
        raise UsageError(f"the bundles take {one.steps} and {other.steps} steps: give --steps")
    return one, other


def _can_be_scored(manifest: Manifest, request: Request) -> bool:
    """Tell whether the demo's scorer reads clips of this size and length: it knows the demo's own size."""
    own = (manifest.defaults.width, manifest.defaults.height)
    return (request.width, request.height) == own and request.frames >= _FEWEST_FRAMES


def _subjects(prompts: Sequence[str]) -> dict[str, Subject] | None:
    """Return what each prompt asks for; None where the demo's scorer does not know them all."""
    known = {caption: subject for part in split() for subject in part for caption in subject.captions()}
    return known if all(prompt in known for prompt in prompts) else None


def _side(bundle: Bundle, shown: dict[str, float] | None, decoder: str | None) -> Side:
    manifest = bundle.manifest
    size = sum(record.size for record in manifest.files.values())
    return Side(str(bundle.folder), manifest.name, manifest.digest, size, shown, decoder)
