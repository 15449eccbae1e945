"""A film as an edit list, OpenTimelineIO, and its scenes as files of their own, so that an editor takes over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import OutputError, UsageError, require_packages
from ...core.files import check_file_target, whole_file
from ...core.progress import Progress, report_progress
from ...media.cards import draw_card
from ...media.tracks import Tracks
from ...provenance.claim import Origin
from ...runtime.batch import ReelOptions
from ...runtime.clip import file_metadata
from ...runtime.pictures.fit import fit_picture
from ...runtime.video.output import Output
from .facts import film_settings
from .film import FilmOptions, check_apart, planned_film
from .plan import FilmPlan
from .scenes import SceneMaker
from .store import Store
from .timing import film_tracks


def write_timeline(
    path: Path, output: Path, options: FilmOptions, reel_options: ReelOptions, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Write a story's film as FILE.otio, and a folder FILE.media with an MP4 of each scene, whole, without transitions.

    Raises what make_film raises, MissingExtraError without opentimelineio.
    """
    require_packages(["opentimelineio"], "timeline", "an edit list")
    if output.suffix.lower() != ".otio":
        raise UsageError(f"{output}: an edit list is a .otio file")
    check_file_target(output)
    folder = output.with_suffix(".media")
    with planned_film(path, options, reel_options, on_progress) as (plan, reel, lettering):
        check_apart(plan.file, [output], options.font)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
        store = Store(options.store)
        store.need(scene.key for scene in plan.scenes if scene.key is not None)
        maker = SceneMaker(plan, reel, store, private=options.private)
        maker.make_all(on_progress)
        files = []
        for index, scene in enumerate(plan.scenes):
            report_progress(on_progress, "film", index, len(plan.scenes))
            target = Output.check(folder / f"{index + 1:03}-{re.sub(r'[^-A-Za-z0-9_]', '_', scene.name)}.mp4")
            target = replace(target.at(plan.fps), crf=plan.size.crf)
            target = target.marked(options.marks, options.label, *plan.size.shown)
            if scene.card is not None:
                assert lettering is not None
                pictures = iter([draw_card(scene.card, *plan.size.shown, lettering)] * scene.pictures)
            else:
                pictures = (fit_picture(each, *plan.size.shown, plan.fit) for each in maker.pictures([index]))
            metadata = file_metadata(None, film_settings(plan, reel, private=options.private))
            target.write(pictures, metadata, scene.pictures, Origin(film_settings(plan, reel, private=True)))
            files.append(target.path)
        report_progress(on_progress, "film", len(plan.scenes), len(plan.scenes))
    with whole_file(output) as temporary:
        temporary.write_text(_timeline(plan, film_tracks(plan), files, output.parent), encoding="utf-8")
    return {"output": str(output), "folder": str(folder), "files": [str(file) for file in files], "made": maker.made}


def _timeline(plan: FilmPlan, tracks: Tracks, files: Sequence[Path], folder: Path) -> str:
    """Return the edit list as JSON. Cuts lie in the middle of dissolves, where editors have them."""
    import opentimelineio as otio

    rate = float(plan.fps)

    def time(pictures: int) -> Any:
        return otio.opentime.RationalTime(pictures, rate)

    def span(start: int, pictures: int) -> Any:
        return otio.opentime.TimeRange(time(start), time(pictures))

    video = otio.schema.Track("scenes", kind=otio.schema.TrackKind.Video)
    for index, scene in enumerate(plan.scenes):
        following = plan.scenes[index + 1] if index + 1 < len(plan.scenes) else None
        first = scene.blend // 2 if scene.transition == "dissolve" else 0
        last = 0
        if following is not None and following.transition == "dissolve":
            last = following.blend - following.blend // 2
        if scene.transition == "dissolve":
            video.append(
                otio.schema.Transition(
                    "dissolve",
                    otio.schema.TransitionTypes.SMPTE_Dissolve,
                    in_offset=time(first),
                    out_offset=time(scene.blend - first),
                )
            )
        clip = otio.schema.Clip(
            scene.name,
            otio.schema.ExternalReference(_relative(files[index], folder), span(0, scene.pictures)),
            span(first, scene.pictures - first - last),
        )
        if scene.request is not None:
            clip.metadata["edgereel"] = {"prompt": scene.request.prompt, "seed": scene.request.seed}
            if scene.origin is not None:
                clip.metadata["edgereel"]["from"] = plan.scenes[scene.origin].name
        video.append(clip)
    for chapter in tracks.chapters:
        start = round(chapter.start * rate / 1000)
        video.markers.append(otio.schema.Marker(chapter.title, span(start, 0)))
    timeline = otio.schema.Timeline(plan.file.story.title)
    timeline.tracks.append(video)
    for sound in _sounds(plan, tracks, folder, otio):
        timeline.tracks.append(sound)
    return str(otio.adapters.write_to_string(timeline, "otio_json"))


def _sounds(plan: FilmPlan, tracks: Tracks, folder: Path, otio: Any) -> list[Any]:
    """Return a track of what is spoken, and one of music."""
    rate, found = 1000.0, []

    def span(start: float, seconds: float) -> Any:
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(round(start * rate), rate),
            otio.opentime.RationalTime(round(seconds * rate), rate),
        )

    if tracks.sound.speeches:
        track = otio.schema.Track("narration", kind=otio.schema.TrackKind.Audio)
        at = 0.0
        for speech in sorted(tracks.sound.speeches, key=lambda each: each.start):
            if speech.start > at:
                track.append(otio.schema.Gap(source_range=span(0, speech.start - at)))
            reference = otio.schema.ExternalReference(_relative(speech.path, folder), span(0, speech.seconds))
            track.append(otio.schema.Clip(speech.path.stem, reference, span(0, speech.seconds)))
            at = max(at, speech.start) + speech.seconds
        found.append(track)
    if tracks.sound.music is not None:
        track = otio.schema.Track("music", kind=otio.schema.TrackKind.Audio)
        path = tracks.sound.music.path
        reference = otio.schema.ExternalReference(_relative(path, folder))
        track.append(otio.schema.Clip(path.stem, reference, span(0, float(plan.seconds))))
        found.append(track)
    return found


def _relative(path: Path, folder: Path) -> str:
    """Return a file's address as an edit list has it: relative to the list where it can be."""
    from urllib.parse import quote

    folder = folder.resolve()
    return quote(path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else path.as_uri()
