"""The command that makes a video of every row of a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import one_line
from ..core.interrupts import interrupts_wait
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
    ThreadsOption,
    reel_options,
)
from .terminal import print_json, show_note, stage_progress

_SHOWN = 20


@app.command("matrix")
def matrix(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The campaign: a prompt, axes, rows.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the videos and the manifest go.")
    ] = Path("campaign"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the rows; make nothing.")] = False,
    bundle: BundleOption = None,
    private: PrivateOption = False,
    mark: MarkOption = "none",
    label: LabelOption = None,
    policy: PromptPolicyOption = None,
    on: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Who makes the videos: here, this machine; ray, a Ray that is started for it on this machine alone; "
            "ray://HOST:PORT, a Ray cluster whose nodes have edgereel and the bundle.",
        ),
    ] = "here",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Videos that are made at once, each by a process of its own. Default one, and with Ray one for each core.",
        ),
    ] = None,
    memory: MemoryOption = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a video of every row of a campaign.

    All rows are checked first. What is made already is left alone, what failed is tried again; so a campaign that was stopped
    goes on. Exit code 1 where rows failed.
    """
    with interrupts_wait():
        from ..media.label import Label
        from ..provenance.marks import Marks
        from ..story.campaign.run import CampaignOptions, describe_campaign, run_campaign
        from ..story.campaign.where import Where

    screen = None
    if policy is not None:
        from ..provenance.policy.screen import Policy

        screen = Policy.read(policy).check
    where = Where.choose(on, workers)
    lettering = None if label is None else Label(label)
    options = CampaignOptions(bundle, Marks.choose(mark), lettering, screen, private, where, show_note)
    reel = reel_options(engine, threads, memory, as_json)

    def tell(entry: dict[str, Any]) -> None:
        if entry["state"] == "failed":
            show_note(f"{entry['name']}: {entry['error']}")

    with stage_progress() as progress:
        if dry_run:
            facts = describe_campaign(file, output, options, reel, progress)
        else:
            facts = run_campaign(file, output, options, reel, progress, tell)
    if as_json:
        print_json(facts)
    elif dry_run:
        for row in facts["rows"][:_SHOWN]:
            print(one_line(f"{row['state']:<8} {row['name']}: {row['prompt']} (seed {row['seed']})"))
        states = [row["state"] for row in facts["rows"]]
        more = len(states) - _SHOWN
        print(f"{f'and {more} more; ' if more > 0 else ''}{len(states)} rows, {states.count('made')} of them made")
    else:
        print(one_line(f"{facts['manifest']}  ({facts['made']} of {facts['rows']} made, {facts['made_now']} now)"))
        print(one_line(facts["sheet"]))
    if not dry_run and facts["failed"]:
        raise typer.Exit(1)
