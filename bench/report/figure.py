"""How all plots look, and a figure as SVG that takes its colours and its typeface from the page around it."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from ...core.errors import one_line
from ...core.offline import matplotlib_keeps_to_our_cache
from .html import Safe

WIDTHS = (1008, 356)
"""CSS pixels that a plot is drawn for: a desktop's column and a phone's. The page shows one of the two."""
TEXT, SMALL = 12.5, 11.0
MOST_ROWS = 24
LABEL, LANE = 18, 46
"""Pixels of height that a row's name takes above its lane, and that both take together with the space below."""

# What matplotlib draws in these becomes what the page calls it, so that one drawing does for light and dark.
INK, MUTED, LINE, PAPER, ON = "#1b1b1f", "#5c606b", "#d9dbe1", "#fffffe", "#fffffd"
ACCENT = "#0069a9"
STAGE_COLOURS = {
    "start": "#70767f",
    "open": "#555b66",
    "build": "#353a43",
    "text": "#a8508a",
    "denoise": "#0069a8",
    "decode": "#007a5a",
    "encode": "#b85400",
}
_VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    ON: "var(--on)",
    ACCENT: "var(--accent)",
    **{colour: f"var(--{stage})" for stage, colour in STAGE_COLOURS.items()},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgereel",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Plot:
    """One plot of the report. draw: makes the figure at a width in CSS pixels; None where `missing` says why there is none.

    alt: what it shows in words and figures. notes: how to read it, and what is not in it. key: stages whose colours it has.
    rows: names by number, where points carry numbers.
    """

    title: str
    draw: Callable[[int], Any] | None = None
    alt: str = ""
    notes: list[str] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    missing: str = ""


@contextmanager
def style() -> Iterator[None]:
    """Have matplotlib draw in this report's style; letters that its typeface lacks are the page's to show."""
    with matplotlib_keeps_to_our_cache():
        import matplotlib.font_manager

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def new_figure(width: int, height: float) -> Any:
    """Return an empty figure of so many CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def add_axes(figure: Any, left: float, top: float, right: float, height: float) -> Any:
    """Return new axes, placed in pixels from the figure's left, top and right edges."""
    width, whole = (side * 72 for side in figure.get_size_inches())
    axes = figure.add_axes((left / width, 1 - (top + height) / whole, (width - left - right) / width, height / whole))
    axes.set_axisbelow(True)
    return axes


def add_text(figure: Any, x: float, top: float, text: str, **how: Any) -> None:
    """Write one line into a figure, its middle so many pixels below the upper edge."""
    width, height = (side * 72 for side in figure.get_size_inches())
    figure.text(x / width, 1 - top / height, one_line(text), **{"va": "center_baseline", **how})


def shortened(text: str, pixels: float, size: float = TEXT) -> str:
    """Return text that fits into about so many pixels, its end replaced by an ellipsis where it does not."""
    text = one_line(text)
    most = max(4, int(pixels / (0.57 * size)))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def text_width(text: str, size: float = TEXT) -> float:
    """Return about how many pixels a line of text takes."""
    return 0.57 * size * len(text)


def label_points(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Write the text of each point (x, y, text) beside it, and of points close together all beside the rightmost."""
    rest = sorted(points, reverse=True)
    while rest:
        x, y, _ = rest[0]
        first = axes.transData.transform((x, y))
        near = [point for point in rest if math.dist(first, axes.transData.transform(point[:2])) < 24]
        rest = [point for point in rest if point not in near]
        text = ", ".join(sorted({text for _, _, text in near}, key=lambda text: (len(text), text)))
        axes.annotate(text, (x, y), (8, 0), textcoords="offset points", va="center_baseline", size=SMALL)


def drawable(values: Iterable[float], least: float = 0.0) -> bool:
    """Tell whether numbers are near enough to each other and to everyday ones for an axis; least: for a logarithmic one."""
    return all(least <= value < 1e18 for value in values)


def svg(figure: Any, name: str) -> Safe:
    """Return a figure as an SVG element for a page; name: unique there, and begins every id."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    root = ElementTree.fromstring(text[text.index("<svg") :])
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {key.rpartition("}")[2]: _attribute(key, value, name) for key, value in node.attrib.items()}
        if node.tag == "g" and not re.search(r"clip|def", node.attrib.get("id", "")):
            node.attrib.pop("id", None)
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "focusable": "false"}
    return Safe(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    value = re.sub(
        r"font-family: [^;]*;?|(?<=px) 'DejaVu Sans'[^;]*", " sans-serif" if "font: " in value else "", value
    )
    return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)
