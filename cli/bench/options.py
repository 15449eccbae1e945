"""Options of `edgereel bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundlesArgument = Annotated[
    list[Path] | None, typer.Argument(help="The .reel folders or models' names; the built-in demo if left out.")
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FOLDER",
        help="Where the report is written: a new or empty folder, or one with an earlier report.",
    ),
]
PromptsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="One prompt per line, used in turn; the demo's if left out.")
]
EnginesOption = Annotated[str, typer.Option(help="What runs the graphs: names with commas between them.")]
StepsOption = Annotated[
    str | None, typer.Option(metavar="1,2,4", help="Numbers of denoising steps; the recipes' own if left out.")
]
SizesOption = Annotated[
    str | None, typer.Option(metavar="WxH,…", help="Picture sizes in pixels; the bundle's own if left out.")
]
LengthsOption = Annotated[
    str | None, typer.Option(metavar="N,…", help="Numbers of frames; the bundle's own if left out.")
]
MinRunsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Warm clips of each row; 64 of quick ones, else about a minute's worth, if left out."),
]
MinSecondsOption = Annotated[float, typer.Option(min=0, help="Make warm clips of each row for so long at least.")]
ColdOption = Annotated[bool, typer.Option("--cold/--no-cold", help="Measure clips made by fresh processes too.")]
ColdRunsOption = Annotated[int, typer.Option(min=1, help="How many fresh processes for each row.")]
QualityOption = Annotated[bool, typer.Option("--quality", help="Score fresh clips beside the times.")]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|RECORD",
        help="Measure a peer beside it (diffusers, openvino; with -bfloat16 in that type), or show an earlier record's rows; "
        "may be given several times.",
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The diffusers checkpoint that the first bundle was exported from."),
]
TransformerOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="A transformer to take instead of the checkpoint's.")
]
