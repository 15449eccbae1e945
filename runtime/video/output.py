"""Where a clip is written and as what: checked once, at the door; below it nothing is checked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...core.errors import UsageError, one_line
from ...core.files import check_file_target
from ...media.label import Label
from ...media.spatial import Spatial
from ...media.tracks import Tracks
from ...provenance.claim import Origin
from ...provenance.marks import Marks
from .frame_rate import FrameRate, told
from .gif import GifSink
from .joined import join_pieces
from .mp4 import Mp4Sink
from .png import PngFolderSink, check_folder_target
from .sink import Frame, Sink, write_frames
from .webp import WebPSink

if TYPE_CHECKING:
    from ...provenance.policy.classifier import FrameClassifier

SUFFIXES = {"mp4": ".mp4", "gif": ".gif", "webp": ".webp", "png": ""}
"""Suffix by format; that of a folder of PNGs is none."""
_FASTEST = {"gif": GifSink.fastest, "webp": WebPSink.fastest}
_KNOWN = "end it in .mp4, .gif or .webp, or leave the suffix out for a folder of PNGs"


class Written(NamedTuple):
    """What was written. frames: how many. marks: what became of the marks, None where the output has none."""

    frames: int
    marks: dict[str, Any] | None


@dataclass(frozen=True)
class Output:
    """Where a clip goes. Make one with `check`, `check_all` or `in_new_folder`: then it can be written.

    given: the path as it was asked for. path: absolute, links followed. format: a key of SUFFIXES. fps: frames per second,
    known once the request is complete. marks: what says that the clip is generated, None for the note in its metadata alone.
    label: what is written into its pictures. classifier: what judges them before they are written. tracks: what goes beside
    them, into an MP4 alone. crf, spatial: of an MP4, see Mp4Sink.
    """

    given: Path
    path: Path
    format: str
    fps: FrameRate | None = None
    marks: Marks | None = None
    label: Label | None = None
    classifier: FrameClassifier | None = None
    tracks: Tracks | None = None
    crf: int = 18
    spatial: Spatial | None = None

    @staticmethod
    def check(path: str | Path) -> Output:
        """Return the output of that name after making sure that it can be written.

        Raises UsageError for a name of no known format, OutputError where it cannot be written; see check_folder_target
        for what a folder of PNGs may replace.
        """
        return Output.check_all([path])[0]

    @staticmethod
    def check_all(paths: Iterable[str | Path]) -> list[Output]:
        """Return the outputs of those names, as `check` does; a folder that several lie in is tried once."""
        tried: set[Path] = set()
        outputs = []
        for path in map(Path, paths):
            name = format_of(path)
            check = check_folder_target if name == "png" else check_file_target
            outputs.append(Output(path, check(path, tried), name))
        return outputs

    @staticmethod
    def in_new_folder(path: Path) -> Output:
        """Return an output in a folder that is still to be made, where nothing can be in the way. Raises UsageError."""
        return Output(path, Path(path).absolute(), format_of(path))

    def at(self, fps: FrameRate) -> Output:
        """Return the output at a speed. Raises UsageError where players show its format at a lower speed than this."""
        if fps > _FASTEST.get(self.format, fps):
            raise UsageError(
                f"{told(fps)} frames per second are too fast for {self.format}: browsers play at most "
                f"{_FASTEST[self.format]}; choose a lower --fps or .mp4"
            )
        return replace(self, fps=fps)

    def marked(self, marks: Marks | None, label: Label | None, width: int, height: int) -> Output:
        """Return the output with marks and label, after making sure that pictures of that size bear them.

        See Marks.check, Label.check.
        """
        if marks is not None:
            marks.check(self.format, width, height)
        if label is not None:
            label.check(width, height)
        return replace(self, marks=marks, label=label)

    def judged(self, classifier: FrameClassifier | None) -> Output:
        """Return the output with what judges its pictures before they are written."""
        return replace(self, classifier=classifier)

    def write(
        self,
        frames: Iterable[Frame],
        metadata: Mapping[str, str],
        count: int | None = None,
        origin: Origin | None = None,
        *,
        watch: Callable[[Frame], None] | None = None,
        finish: Callable[[Path], None] | None = None,
    ) -> Written:
        """Write frames, uint8 [H, W, 3], RGB, of one shape, as they come, with the output's label and marks.

        The order is fixed: judgement, label, watermark, encoding, whatever else changes the file, signature. metadata: what the
        clip says of itself, see the format's sink. count: how many frames to expect. origin: what marks claim that it is made
        of; an output with marks needs it. watch: is shown each picture as it is encoded. finish: changes the complete file
        before it is signed.
        The output is complete, or what was there before still is. Raises OutputError where writing fails, or signing where
        that is required; ClipRefused where a picture is refused; GeometryError for a size that the format has no pictures of;
        what `frames` raises passes through unchanged.
        """
        marking = None
        if self.classifier is not None:
            frames = self.classifier.over(frames)
        if self.label is not None:
            frames = self.label.over(frames)
        if self.marks is not None:
            assert origin is not None, "an output with marks says what it is made of"
            marking = self.marks.begin(self.format, origin)
            frames = marking.over(frames)
        if watch is not None:
            frames = _watched(frames, watch)

        def seal(path: Path) -> None:
            if finish is not None:
                finish(path)
            if marking is not None:
                marking.seal(path)

        number = write_frames(self.path, frames, self._sink(metadata, count), seal)
        return Written(number, None if marking is None else marking.record())

    def join(self, pieces: Iterable[Path], metadata: Mapping[str, str], origin: Origin) -> Written:
        """Write an MP4 of pieces that `piece` made, by their packets; see join_pieces. Nothing is laid over them any more.

        Marks must have no watermark. Raises OutputError where writing fails, or signing where that is required.
        """
        assert self.fps is not None, "an output is written at a speed: see Output.at"
        marking = None
        if self.marks is not None:
            assert not self.marks.watermark, "a watermark is laid over all pictures of a clip"
            marking = self.marks.begin(self.format, origin)
        seal = None if marking is None else marking.seal
        number = join_pieces(self.path, pieces, self.fps, metadata, self.tracks, self.spatial, seal)
        return Written(number, None if marking is None else marking.record())

    def piece(self, path: Path, frames: Iterable[Frame]) -> None:
        """Write frames, with the output's label, as a piece of this MP4, to a file of its own, which says what it is called.

        Raises what write raises.
        """
        assert self.fps is not None, "an output is written at a speed: see Output.at"
        if self.label is not None:
            frames = self.label.over(frames)
        write_frames(path, frames, Mp4Sink(self.fps, {"comment": path.stem}, self.crf))

    def _sink(self, metadata: Mapping[str, str], count: int | None) -> Sink:
        assert self.fps is not None, "an output is written at a speed: see Output.at"
        if self.format == "mp4":
            return Mp4Sink(self.fps, metadata, self.crf, self.tracks, self.spatial)
        if self.format == "gif":
            return GifSink(self.fps, metadata)
        if self.format == "webp":
            return WebPSink(self.fps, metadata)
        return PngFolderSink(metadata, count)


def _watched(frames: Iterable[Frame], watch: Callable[[Frame], None]) -> Iterator[Frame]:
    for frame in frames:
        watch(frame)
        yield frame


def format_of(path: str | Path) -> str:
    """Return the format that a name asks for, a key of SUFFIXES. Raises UsageError where there is none of that suffix."""
    path = Path(path)
    for name, suffix in SUFFIXES.items():
        if suffix and path.suffix.lower() == suffix:
            return name
        if suffix and path.name.lower() == suffix:
            raise UsageError(f"cannot write {one_line(path)}: the name before {suffix} is missing")
    # Python before 3.14 sees no suffix in a name that ends with a dot.
    suffix = path.suffix or ("." if path.name.endswith(".") and path.name != ".." else "")
    if suffix:
        raise UsageError(f"cannot write {one_line(path)}: {one_line(suffix)} is no known suffix: {_KNOWN}")
    return "png"


def check_format(name: str) -> str:
    """Return the name of a format in small letters. Raises UsageError for one that is not known."""
    if name.lower() not in SUFFIXES:
        raise UsageError(f"unknown format {name!r}: choose from {', '.join(SUFFIXES)}")
    return name.lower()
