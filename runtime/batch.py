"""From a command's arguments to finished files: one prompt, or a file with one prompt a line."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.errors import EngineError, OutputError, UsageError, one_line
from ..core.machine import peak_host_memory
from ..core.progress import Progress, report_progress
from ..media.label import Label
from ..provenance.claim import Origin
from ..provenance.marks import Marks
from .clip import Video, file_metadata
from .continuation import continue_file as continue_video_file
from .continuation import continue_video
from .decoding.frame_check import FrameCheck
from .latents_file import SUFFIX as LATENTS_SUFFIX
from .latents_file import latents_path, read_video, write_latents
from .memory.plan import MemoryPlan
from .reel import Reel, load
from .request import OpenRequest, Request
from .streaming import Stream
from .video.output import SUFFIXES, Output, check_format, format_of

if TYPE_CHECKING:
    from ..provenance.policy.classifier import FrameClassifier

_LARGEST_PROMPT_FILE = 2**24
_LARGEST_LATENTS = 2**33


@dataclass(frozen=True)
class Job:
    """One video to make."""

    prompt: str
    output: Output

    @staticmethod
    def plan(
        prompt: str | None, prompts: Path | None, output: Path | None = None, format: str | None = None
    ) -> list[Job]:
        """Return what is to be made, after checking that it can be written.

        With a file of prompts, `output` is a folder (`out` if None; `run_jobs` makes it) of 001.mp4, 002.mp4, … in the file's
        order, or of what `format` says; without, its suffix says the format (None: out.mp4, or `out` in that format).
        Raises UsageError, OutputError.
        """
        suffix = SUFFIXES[check_format(format or "mp4")]
        if (prompt is None) == (prompts is None):
            raise UsageError("give either a prompt or --prompts FILE")
        if prompts is None:
            assert prompt is not None
            output = Path(f"out{suffix}") if output is None else output
            if format and SUFFIXES[format_of(output)] != suffix:
                raise UsageError(f"-o {output} says another format than --format {format}: leave one of them out")
            return [Job(prompt, Output.check(output))]
        lines = read_prompts(prompts)
        folder = output or Path("out")
        if folder.suffix.lower() in filter(None, SUFFIXES.values()):
            raise UsageError(f"with --prompts, -o names a folder for the videos; {folder} looks like a file")
        digits = max(3, len(str(len(lines))))
        paths = [folder / f"{number:0{digits}}{suffix}" for number in range(1, len(lines) + 1)]
        if os.path.lexists(folder):
            _make_folder(folder)
            outputs = Output.check_all(paths)
        elif folder.parent.is_dir():
            outputs = [Output.in_new_folder(path) for path in paths]
        else:
            raise OutputError(f"{folder}: cannot make this folder: {folder.parent} does not exist")
        return [Job(line, each) for line, each in zip(lines, outputs, strict=True)]

    def screened(self, check: Callable[[str], str]) -> Job:
        """Return the job with the prompt that a policy leaves of it. check: see Policy.check, which raises PromptRefused."""
        return replace(self, prompt=check(self.prompt))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a file of prompts, empty ones left out. Raises UsageError."""
    try:
        information = path.stat()
        if not stat.S_ISREG(information.st_mode):
            raise UsageError(f"{path}: is not a file of prompts")
        if information.st_size > _LARGEST_PROMPT_FILE:
            raise UsageError(f"{path}: is too large for a file of prompts")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text") from error
    if not any(lines):
        raise UsageError(f"{path}: holds no prompt: write one per line")
    return [line for line in lines if line]


def read_latents(path: Path) -> NDArray[np.float32]:
    """Return the array of a .npy file, its declared size checked before it is allocated. Raises UsageError."""
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) not in ((1, 0), (2, 0)):
                raise UsageError(f"{path}: this version of the .npy format is not supported")
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST_LATENTS:
                raise UsageError(f"{path}: {size} bytes is too large for latents")
        array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or 'it is not a .npy file'}") from error
    except Exception as error:  # numpy's parser of headers is Python's own, and raises all that it can
        raise UsageError(f"{path}: is not a .npy file of numbers: {error}") from error
    return np.array(array)


class ReelOptions(NamedTuple):
    """How a bundle is opened to make videos.

    memory: see budget_of. cache: see reel.load. on_pick: told what `auto` picked and why; on_plan, on_step_down: of the memory
    plan and what changes it.
    """

    engine: str = "auto"
    threads: int | None = None
    memory: str | None = None
    cache: bool = True
    on_pick: Callable[[str], object] | None = None
    on_plan: Callable[[MemoryPlan], object] | None = None
    on_step_down: Callable[[str], object] | None = None

    def open(self, bundle: Path | None, on_progress: Progress | None = None) -> Reel:
        """Open a bundle; see reel.load."""
        reel = load(bundle, self.engine, self.threads, on_progress, self.cache, self.memory)
        if self.on_pick is not None and reel.engine_picked:
            self.on_pick(reel.engine_picked)
        reel.on_plan, reel.graphs.on_step = self.on_plan, self.on_step_down
        return reel


def run_jobs(
    jobs: list[Job],
    asked: OpenRequest,
    *,
    bundle: Path | None,
    options: ReelOptions,
    private: bool = False,
    keep_latents: bool = False,
    marks: Marks | None = None,
    label: Label | None = None,
    classifier: FrameClassifier | None = None,
    preview: Path | None = None,
    on_progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Make each job's video with one opened reel; yield a record of each as it is finished.

    asked: the settings of all of them, each with its own prompt. keep_latents: put each clip's latents beside its output, once
    that is written. They are put there too where decoding fails. marks: what says of each clip that it is generated. label: what
    is written into its pictures. classifier: what judges those before. preview: where each clip is shown as far as it is known at
    each step, one after the other.
    """
    if preview is not None and (marks is not None or label is not None):
        raise UsageError("--preview has no marks and no label: leave it out where clips must have them")
    shown = None if preview is None else Output.check(preview)
    with options.open(bundle, on_progress) as reel:
        files = asked.files
        asked = asked.with_pictures(reel.bundle.manifest)
        request = asked.complete(reel.bundle.manifest)
        jobs = [replace(job, output=_ready(job.output, request, marks, label, classifier)) for job in jobs]
        _check_prompts(jobs, reel, on_progress)
        _make_folder(jobs[0].output.given.parent)
        for job in jobs:
            before = dict(reel.timings) if job is not jobs[0] else {}
            cached_before = reel.embedder.cached
            shows = None if shown is None else partial(_show, shown, private)
            video = reel.make(replace(asked, prompt=job.prompt), on_progress, shows)
            video.inputs = files
            marked = _write(video, job.output, reel, private, on_progress)
            cached = reel.embedder.cached - cached_before
            record = _record(video.request.settings(), job.output, reel, before, cached, marked)
            if keep_latents:
                record["latents"] = str(_keep_latents(video, job.output, reel, private))
            yield record


def _ready(
    output: Output,
    request: Request,
    marks: Marks | None,
    label: Label | None,
    classifier: FrameClassifier | None,
) -> Output:
    """Return an output that was checked, ready for a request's pictures. Raises UsageError, GeometryError."""
    return output.at(request.fps).marked(marks, label, *request.shown_size).judged(classifier)


def _show(output: Output, private: bool, video: Video) -> None:
    """Write a preview where the one of the step before is."""
    with suppress(EngineError):  # at first all pictures may be alike
        video.write(output.at(video.request.fps), private=private)


def decode_file(
    latents: Path,
    output: Path,
    *,
    bundle: Path | None,
    options: ReelOptions,
    private: bool = False,
    decoder: str | None = None,
    marks: Marks | None = None,
    label: Label | None = None,
    classifier: FrameClassifier | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the video of latents that were kept, and return a record as run_jobs yields.

    decoder: see read_video. marks, label, classifier: see run_jobs.

    Raises UsageError, OutputError, BundleError, EngineError, Cancelled.
    """
    checked = Output.check(output)
    with options.open(bundle, on_progress) as reel:
        reel.only_decodes = True
        video = read_video(latents, reel, decoder)
        request = video.request
        written = _ready(checked, request, marks, label, classifier)
        marked = video.write(written, private=private, on_progress=on_progress)
        return _record(request.settings(), written, reel, {}, 0, marked)


def continue_file(
    clip: Path,
    asked: OpenRequest,
    seconds: float | None,
    output: Path,
    *,
    bundle: Path | None,
    options: ReelOptions,
    private: bool = False,
    keep_latents: bool = False,
    marks: Marks | None = None,
    label: Label | None = None,
    classifier: FrameClassifier | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the video that follows a clip, kept latents or a video file, and return a record as run_jobs yields.

    seconds: see Video.continue_. marks, label, classifier: see run_jobs. Raises UsageError, OutputError, BundleError,
    EngineError, Cancelled.
    """
    checked = Output.check(output)
    with options.open(bundle, on_progress) as reel:
        reel.check_prompt(asked.prompt)
        if clip.suffix.lower() == LATENTS_SUFFIX:
            video = continue_video(reel, read_video(clip, reel), asked, seconds, on_progress)
        else:
            video = continue_video_file(reel, clip, asked, seconds, on_progress)
        request = video.request
        written = _ready(checked, request, marks, label, classifier)
        marked = _write(video, written, reel, private, on_progress)
        record = _record(request.settings(), written, reel, {}, reel.embedder.cached, marked)
        if keep_latents:
            record["latents"] = str(_keep_latents(video, written, reel, private))
        return record


def write_stream(
    asked: OpenRequest,
    seconds: float,
    then: Sequence[tuple[float, str]],
    output: Path,
    *,
    bundle: Path | None,
    options: ReelOptions,
    private: bool = False,
    marks: Marks | None = None,
    label: Label | None = None,
    classifier: FrameClassifier | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write so many seconds of a stream to a file as they are made, and return a record as run_jobs yields.

    then: see Reel.stream. marks, label, classifier: see run_jobs. In the record, `stream` has the seconds that sampling
    took and that pictures waited for it. Raises what decode_file raises, and PromptError.
    """
    checked = Output.check(output)
    with options.open(bundle, on_progress) as reel, Stream(reel, asked, seconds, then, on_progress) as stream:
        request = stream.request
        written = _ready(checked, request, marks, label, classifier)
        count = max(1, round(seconds * stream.request.fps))
        check = FrameCheck()

        def counted() -> Iterator[NDArray[np.uint8]]:
            report_progress(on_progress, "decode", 0, count)
            for done, picture in enumerate(stream, start=1):
                check.add(picture)
                yield picture
                report_progress(on_progress, "decode", done, count)
            check.finish()

        metadata = file_metadata(None if private else asked.prompt, stream.settings(private=private))
        marked = written.write(counted(), metadata, count, Origin(stream.settings(private=True), stream.inputs)).marks
        record = _record(stream.settings(private=private), written, reel, {}, reel.embedder.cached, marked)
        waited = {"sampled": round(stream.sampled_seconds, 4), "waited": round(stream.waited_seconds, 4)}
        return {**record, "stream": waited}


def _check_prompts(jobs: list[Job], reel: Reel, on_progress: Progress | None) -> None:
    """Raise PromptError for any job: a mistake in the last should not come to light after hours."""
    reel.embedder.check_all([job.prompt for job in jobs], on_progress)


def _write(
    video: Video, output: Output, reel: Reel, private: bool, on_progress: Progress | None
) -> dict[str, Any] | None:
    """Decode and write a clip, return what became of its marks; where that fails, what was sampled is not lost."""
    try:
        return video.write(output, private=private, on_progress=on_progress)
    except (EngineError, OutputError) as error:
        try:
            path = _keep_latents(video, output, reel, private)
        except OutputError:
            raise error from None
        raise type(error)(f"{error}. The latents are kept: edgereel decode {one_line(path)}") from error


def _keep_latents(video: Video, output: Output, reel: Reel, private: bool) -> Path:
    """Write a clip's latents beside its output and return where. Raises OutputError."""
    path = latents_path(output.given)
    write_latents(path, video, reel.bundle, private=private)
    return path


def _record(
    settings: dict[str, Any],
    output: Output,
    reel: Reel,
    before: dict[str, float],
    cached: int,
    marked: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what a program wants to know of a finished video.

    That is the output, the settings, the engines that ran, the seconds of each stage since `before`, how many of the clip's
    prompts (the negative one counts) came out of the cache, the memory planned and taken, and what became of its marks.
    """
    plan = reel.graphs.plan
    record = {
        "output": str(output.given),
        "settings": settings,
        "bundle_digest": reel.bundle.manifest.digest,
        "engine": {**reel.facts(), "picked": reel.engine_picked},
        "seconds": {stage: round(total - before.get(stage, 0.0), 4) for stage, total in reel.timings.items()},
        "cached_prompts": cached,
        "memory": {
            "plan": None if plan is None else plan.to_json(),
            "peak_host_bytes": peak_host_memory(),
            "peak_device_bytes": reel.peak_device_bytes,
            "steps_down": list(reel.graphs.steps_down),
        },
    }
    return record if marked is None else {**record, "marks": marked}
