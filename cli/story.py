"""Commands that make films of stories."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError, one_line
from ..core.interrupts import interrupts_wait
from ..core.units import format_bytes
from .application import app
from .options import (
    BundleOption,
    EngineOption,
    JsonOption,
    LabelOption,
    MarkOption,
    MemoryOption,
    PrivateOption,
    PromptPolicyOption,
    RequireSignatureOption,
    ThreadsOption,
    reel_options,
)
from .terminal import print_json, show_note, stage_progress

if TYPE_CHECKING:
    from ..runtime.batch import ReelOptions
    from ..story.film.film import FilmOptions

story = typer.Typer(help="A script becomes a film: scenes, cards, captions, sound.", no_args_is_help=True)
app.add_typer(story, name="story")

StoryArgument = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The story.")]
ChooseOption = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="What is chosen where the story branches, a number each time, from 1."),
]
FilmFormatOption = Annotated[
    str | None,
    typer.Option(help="In the place of the story's: a format of the model, wide, vertical, square, … or WxH."),
]
FontOption = Annotated[
    Path | None, typer.Option(metavar="FILE.ttf", help="Letters on cards and in pictures. Default DejaVu Sans.")
]
SpeakOption = Annotated[
    str | None, typer.Option(help="espeak-ng: have that program speak narrations without a recording.")
]


@story.command("new")
def new(
    output: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The story to write.")] = Path("film.yaml"),
    fountain: Annotated[
        Path | None,
        typer.Option(metavar="FILE.fountain", help="Make it of a screenplay: its scenes, words and action."),
    ] = None,
    twine: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Make it of a tale that Twine's Twison format exported.")
    ] = None,
    ink: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Make it of a tale that Ink compiled: its text and choices."),
    ] = None,
) -> None:
    """Write a story to begin with, every line of it explained."""
    with interrupts_wait():
        from ..story.script.beginning import write_beginning

    write_beginning(output, fountain, twine, ink)
    film = output.with_suffix(".mp4")
    print(f"{one_line(output)}  (edgereel story make {one_line(output)} -o {one_line(film)})")


@story.command("schema")
def schema(
    campaign: Annotated[bool, typer.Option("--matrix", help="The schema of campaigns instead.")] = False,
) -> None:
    """Print the JSON schema of stories, for editors that check and complete as one writes."""
    with interrupts_wait():
        from ..story.script.schema import campaign_schema, story_schema

    print(json.dumps(campaign_schema() if campaign else story_schema(), indent=2, sort_keys=True))


@story.command("make")
def make(
    file: StoryArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .mp4 to write.")] = Path("film.mp4"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made, and how long it would take; make nothing.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Make it again each time the story is saved, until ctrl-C.")
    ] = False,
    choose: ChooseOption = None,
    format: FilmFormatOption = None,
    font: FontOption = None,
    bundle: BundleOption = None,
    private: PrivateOption = False,
    mark: MarkOption = "none",
    require_signature: RequireSignatureOption = False,
    label: LabelOption = None,
    policy: PromptPolicyOption = None,
    speak: SpeakOption = None,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the film of a story.

    Scenes are kept as they are made: a film that was stopped goes on, and after a change only what it touches is made again.
    """
    with interrupts_wait():
        from ..media.label import Label
        from ..provenance.marks import Marks
        from ..story.film.film import describe_film, make_film

    options = _film_options(bundle, format, choose, font, private)
    options = replace(
        options,
        marks=Marks.choose(mark, required=require_signature),
        label=None if label is None else Label(label),
        screen=None if policy is None else _screen(policy),
        speaker=speak,
    )
    reel = reel_options(engine, threads, memory, as_json)
    if watch:
        _watch(file, output, options, reel)
        return
    with stage_progress() as progress:
        facts = (
            describe_film(file, options, reel, progress)
            if dry_run
            else make_film(file, output, options, reel, progress)
        )
    if as_json:
        print_json(facts)
    else:
        _print_film(facts)


@story.command("play")
def play(
    file: StoryArgument,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of this machine's own address; 0 takes a free one.")
    ] = 8766,
    idle: Annotated[
        float | None,
        typer.Option(
            min=5, max=86400, metavar="SECONDS", help="Go back to the beginning when nobody has chosen for so long."
        ),
    ] = None,
    format: FilmFormatOption = None,
    font: FontOption = None,
    bundle: BundleOption = None,
    private: PrivateOption = False,
    mark: MarkOption = "none",
    require_signature: RequireSignatureOption = False,
    label: LabelOption = None,
    policy: PromptPolicyOption = None,
    speak: SpeakOption = None,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Play a story in the browser, live: choices are buttons, and what each leads to is made ahead. Ctrl-C ends it.

    Marks and label are those of the films that visitors save of the way that they went.
    """
    with interrupts_wait():
        from ..server.play.run import play_story

    command = {
        "story": str(file.absolute()),
        "bundle": None if bundle is None else str(bundle),
        "format": format,
        "font": None if font is None else str(font.absolute()),
        "private": private,
        "mark": mark,
        "require_signature": require_signature,
        "label": label,
        "policy": policy,
        "speaker": speak,
        "memory": memory,
        "engine": engine,
        "threads": threads,
    }

    with ExitStack() as bars:
        play_story("edgereel.story.play", command, port, idle, _PlayTeller(bars))


@story.command("timeline")
def timeline(
    file: StoryArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .otio to write.")] = Path("film.otio"),
    choose: ChooseOption = None,
    format: FilmFormatOption = None,
    font: FontOption = None,
    bundle: BundleOption = None,
    private: PrivateOption = False,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an edit list (OpenTimelineIO), and each scene as a file of its own, for an editor to go on with."""
    with interrupts_wait():
        from ..story.film.timeline import write_timeline

    options = _film_options(bundle, format, choose, font, private)
    with stage_progress() as progress:
        facts = write_timeline(file, output, options, reel_options(engine, threads, memory, as_json), progress)
    if as_json:
        print_json(facts)
    else:
        print(one_line(f"{facts['output']}  ({len(facts['files'])} scenes in {facts['folder']})"))


@story.command("take")
def take(
    file: StoryArgument,
    scene: Annotated[str, typer.Argument(help="The scene's name, or scene-N.")],
    seeds: Annotated[int, typer.Option(metavar="N", help="How many takes, with seeds from the scene's own on.")] = 4,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The contact sheet, a .png: a row for each take.")
    ] = Path("takes.png"),
    choose: ChooseOption = None,
    format: FilmFormatOption = None,
    bundle: BundleOption = None,
    private: PrivateOption = False,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make several takes of one scene, to choose from; they are kept."""
    with interrupts_wait():
        from ..story.film.takes import make_takes

    options = _film_options(bundle, format, choose, None, private)
    with stage_progress() as progress:
        facts = make_takes(
            file, scene, seeds, output, options, reel_options(engine, threads, memory, as_json), progress
        )
    if as_json:
        print_json(facts)
        return
    print(f"{one_line(facts['sheet'])}  (seeds {', '.join(str(take['seed']) for take in facts['takes'])})")
    print(f"edgereel story pick {one_line(file)} {one_line(scene)} SEED")


@story.command("pick")
def pick(
    file: StoryArgument,
    scene: Annotated[str, typer.Argument(help="The scene's name, or scene-N.")],
    seed: Annotated[int, typer.Argument(help="The seed of the take.")],
    as_json: JsonOption = False,
) -> None:
    """Write a take's seed into the story; the rest of the file stays as it is."""
    with interrupts_wait():
        from ..story.film.takes import pick as run

    run(file, scene, seed)
    if as_json:
        print_json({"story": str(file), "scene": scene, "seed": seed})
    else:
        print(f"{one_line(file)}  ({one_line(scene)} has seed {seed})")


class _PlayTeller:
    """Says on the terminal how opening a story goes, and where it is. bars: those of its progress, which end then."""

    def __init__(self, bars: ExitStack) -> None:
        self._bars = bars
        self.opening = bars.enter_context(stage_progress())

    def ready(self, title: str, address: str) -> None:
        self._bars.close()
        print(one_line(f"{title}: {address}"), flush=True)

    def note(self, text: str) -> None:
        show_note(text)


def _watch(file: Path, output: Path, options: FilmOptions, reel: ReelOptions) -> None:
    from ..story.film.watch import watch_film

    def tell(kind: str, record: dict[str, Any] | str) -> None:
        if isinstance(record, str):
            show_note(record)
        else:
            made = ", ".join(record["made"]) or "nothing"
            print(one_line(f"{record['output']}  ({record['seconds_in_all']:.2f} s; made {made})"), flush=True)

    watch_film(file, output, options, reel, tell)


def _film_options(
    bundle: Path | None, format: str | None, choose: str | None, font: Path | None, private: bool
) -> FilmOptions:
    from ..media.lettering import FONT
    from ..story.film.film import FilmOptions

    return FilmOptions(bundle, format, _choices(choose), FONT if font is None else font, private=private)


def _screen(policy: str) -> Any:
    from ..provenance.policy.screen import Policy

    return Policy.read(policy).check


def _choices(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 2 for part in parts):
        raise UsageError(f"--choose {text[:40]}: write numbers with commas between them, for example 1,2,1")
    return tuple(map(int, parts))


def _print_film(facts: dict[str, Any]) -> None:
    """Print a film's scenes, and what is there and what it takes."""
    made = facts.get("made")
    for scene in facts["scenes"]:
        state = {True: "kept", False: "to make", None: "card"}[scene["kept"]]
        if made is not None and scene["kept"] is False:
            state = "made"
        what = scene.get("prompt") or scene.get("card") or ""
        after = f", from {scene['from']}" if scene.get("from") else ""
        print(
            one_line(
                f"{scene['at']:>8.2f} s  {scene['seconds']:>6.2f} s  {state:<8} {scene['transition']:<9}"
                f"{scene['name']}{after}: {what}"
            )
        )
    size = f"{facts['width']}x{facts['height']}, {facts['pictures']} pictures, {facts['seconds']:.2f} s"
    if "output" in facts:
        taken = facts["seconds_taken"]
        print(one_line(f"{facts['output']}  ({size}; scenes {taken['scenes']:.2f} s, film {taken['film']:.2f} s)"))
        for path in facts["beside"].values():
            print(one_line(path))
        return
    expected = facts["expected_seconds"]
    time = "how long it takes is not known before a first film" if expected is None else f"about {expected:.0f} s"
    print(one_line(f"{size}; {format_bytes(facts['memory_bytes'])} of memory; {time}"))
