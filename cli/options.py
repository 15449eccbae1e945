"""Options that several commands have, and how their values are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..core.errors import UsageError
from .terminal import show_note, show_pick, show_plan

if TYPE_CHECKING:
    from ..media.label import Label
    from ..provenance.marks import Marks
    from ..provenance.policy.classifier import FrameClassifier
    from ..runtime.batch import ReelOptions
    from ..runtime.video.frame_rate import FrameRate

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
EngineOption = Annotated[str, typer.Option(help="What runs the graphs: auto, cpu, cuda, tensorrt, rtx or openvino.")]
BundleOption = Annotated[
    Path | None, typer.Option(help="The .reel folder or a model's name; the built-in demo if left out.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory to use at most, such as 6GiB: the GPU's, or the system's without one. Default "
        "what is free, less a margin.",
    ),
]
PrivateOption = Annotated[bool, typer.Option("--private", help="Leave the prompts out of what is written.")]


def _check_threads(threads: int | None) -> int | None:
    # Imported when it is needed: what the machine is made of takes a tenth of the time of --help.
    from ..core.machine import check_threads

    return check_threads(threads)


ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=_check_threads,
        help="CPU threads per operator, at most 4 times the machine's cores; all cores that may be used if left out.",
    ),
]


def reel_options(
    engine: str, threads: int | None, memory: str | None, as_json: bool, *, cache: bool = True
) -> ReelOptions:
    """Return how a command's options say that a bundle is opened, with what is told of it on the terminal."""
    from ..runtime.batch import ReelOptions

    return ReelOptions(engine, threads, memory, cache, show_pick, show_plan(as_json, memory is not None), show_note)


def parse_fps(text: str) -> FrameRate:
    """Return the speed of "24", "23.976" or "24000/1001". Raises UsageError."""
    from ..runtime.video.frame_rate import parse_frame_rate

    return parse_frame_rate(text)


ImageOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The picture that the video begins with: PNG, JPEG or WebP.")
]
OutputOption = Annotated[
    Path, typer.Option("-o", "--output", help="The .mp4, .gif or .webp to write; without a suffix, a folder of PNGs.")
]
SeedOption = Annotated[int | None, typer.Option(help="Same seed, same video. Default 0.")]
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps; the recipe's own if left out.")]
RecipeOption = Annotated[str | None, typer.Option(help="One of the bundle's recipes, see inspect.")]
NegativeOption = Annotated[str | None, typer.Option(help="What the video should not show.")]
FpsOption = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Frames per second of the file: 24, 23.976, 24000/1001.")
]
FitOption = Annotated[
    str | None,
    typer.Option(help="crop or pad: how a picture of another shape becomes the video's. Default crop."),
]
DecoderOption = Annotated[
    str | None, typer.Option(help="One of the bundle's decoders, see inspect; its default one if left out.")
]
FormatSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Picture size in pixels, the name of one of the bundle's formats, see inspect, or a shape: wide, vertical, square, …",
    ),
]


def parse_format(text: str) -> tuple[int, int] | str:
    """Return (width, height) of "WIDTHxHEIGHT", or the name of a format as it is. Raises UsageError."""
    return text if text[:1].isascii() and text[:1].isalpha() else parse_size(text)


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of "WIDTHxHEIGHT". Raises UsageError."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {text}: write it as WIDTHxHEIGHT, for example 64x64")
    if len(width) > 6 or len(height) > 6:
        raise UsageError(f"--size {text}: that is too large for any model")
    return int(width), int(height)


MarkOption = Annotated[
    str,
    typer.Option(
        help="Besides the note in the metadata: watermark, signature (see provenance init), all, or none.",
        envvar="EDGEREEL_MARK",
    ),
]
MarkerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Somebody else's watermark, two ONNX graphs by path and hash.",
        envvar="EDGEREEL_MARKER",
    ),
]
RequireSignatureOption = Annotated[
    bool, typer.Option("--require-signature", help="Write no file that could not be signed.")
]
LogOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keep hashes and settings, no prompts, for provenance log.")
]
LabelOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Write this into the pictures; icon: the letters AI in a box.")
]
LabelCornerOption = Annotated[str, typer.Option(help="top-left, top-right, bottom-left or bottom-right.")]
LabelSizeOption = Annotated[
    float, typer.Option(metavar="PERCENT", help="Height of the label's letters, of the picture's shorter side.")
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Check prompts before and frames after by this policy: a file, or booth or private."
    ),
]

PromptPolicyOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Check prompts first against this policy: a file, or booth or private."),
]


def clip_marks(mark: str, required: bool, log: Path | None, marker: Path | None) -> Marks | None:
    """Return the marks that a command's options ask for. Raises UsageError where they cannot be had."""
    from ..provenance.marks import Marks

    return Marks.choose(mark, required=required, log=log, marker=marker)


def clip_label(text: str | None, corner: str, size: float) -> Label | None:
    """Return the visible label that a command's options ask for. Raises UsageError for what cannot be drawn."""
    if text is None:
        return None
    from ..media.label import Label

    return Label(text, corner, size)


class Screening(NamedTuple):
    """What a policy does. prompt: checks a prompt before anything runs, and gives back the one to use; it raises PromptRefused.

    classifier: judges frames before they are written, None where there is none.
    """

    prompt: Callable[[str], str]
    classifier: FrameClassifier | None


def screening(policy: str | None, *pictures: Path | None) -> Screening:
    """Return what screens by the policy of that name or file, by none at all for None.

    pictures: what was brought along, None for nothing. Raises UsageError where the policy takes none or cannot be used.
    """
    if policy is None:
        return Screening(lambda prompt: prompt, None)
    from ..provenance.policy.screen import Policy

    chosen = Policy.read(policy)
    chosen.check_pictures(sum(picture is not None for picture in pictures))
    return Screening(chosen.check, chosen.open_classifier())
