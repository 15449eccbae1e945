"""What a comparison and a quantized bundle tell people: text, one self-contained HTML page, the model card."""

from __future__ import annotations

import base64
import html
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..core.files import write_text
from ..core.units import format_bytes
from .compare import BundleComparison, Side

CARD_NAME = "MODEL_CARD.md"
PICTURES = 6
_COLUMNS = 6
_DIFFERENCE_GAIN = 8
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: right }
td:first-child, th:first-child { text-align: left }
img { max-width: 100%; image-rendering: pixelated; width: 48rem; display: block }
figcaption { margin: 1rem 0 .25rem } figure { margin: 0 }
.good { color: #176b2c } .bad { color: #a11 }
"""


def summary(comparison: BundleComparison) -> str:
    """Return the means, the prompt score, the drift and the verdict as lines of text."""
    means = comparison.figures()
    first, second = comparison.first, comparison.second
    lines = [
        f"{_named(second)} beside {_named(first)}, {len(comparison.clips)} clip{'s' * (len(comparison.clips) > 1)}",
        f"made as      {_made_as(comparison)}",
        f"size         {format_bytes(second.bytes)}, {100 * second.bytes / first.bytes:.0f}% of {format_bytes(first.bytes)}",
        f"PSNR         {means['psnr_db']:.1f} dB (worst clip {means['worst_psnr_db']:.1f} dB)",
        f"SSIM         {means['ssim']:.4f}",
        f"GMSD         {means['gradient_deviation']:.4f} (0 is equal)",
        f"motion       {100 * means['motion']:.1f}%",
        "drift        " + " ".join(f"{value:.4f}" for value in comparison.drift()) + " by step",
    ]
    if first.shown is not None and second.shown is not None:
        shown = ", ".join(
            f"{name} {100 * first.shown[name]:.0f}% → {100 * second.shown[name]:.0f}%" for name in first.shown
        )
        lines.append(f"prompt       {shown}")
    if comparison.budget_db is not None:
        word = "kept" if comparison.within_budget else "missed"
        lines.append(f"budget       {comparison.budget_db:g} dB {word}")
    return "\n".join(lines)


def _named(side: Side) -> str:
    return side.path if side.decoder is None else f"{side.path} (decoder {side.decoder})"


def _made_as(comparison: BundleComparison) -> str:
    facts = comparison.made_as
    steps = f"{facts['steps']} step{'s' * (facts['steps'] > 1)}"
    return f"{facts['width']}x{facts['height']}, {facts['frames']} frames, {steps}, recipe {facts['recipe']}"


def write_report(comparison: BundleComparison, path: Path) -> None:
    """Write the page; an existing file is replaced. Raises OutputError."""
    write_text(path, _page(comparison))


def _page(comparison: BundleComparison) -> str:
    verdict = ""
    if comparison.within_budget is not None:
        kind, word = ("good", "kept") if comparison.within_budget else ("bad", "missed")
        verdict = f'<p class="{kind}">Budget of {comparison.budget_db:g} dB {word}.</p>'
    rows = "".join(
        f"<tr><td>{html.escape(clip.prompt)}</td><td>{clip.seed}</td><td>{clip.psnr_db:.1f}</td><td>{clip.ssim:.4f}</td>"
        f"<td>{clip.gradient_deviation:.4f}</td><td>{100 * clip.motion:.1f}%</td><td>{clip.drift[-1]:.4f}</td></tr>"
        for clip in comparison.clips
    )
    figures = "".join(
        f"<figure><figcaption>{html.escape(comparison.clips[pair.clip].prompt)}, seed {comparison.clips[pair.clip].seed}, "
        f"{comparison.clips[pair.clip].psnr_db:.1f} dB: first, second, difference ×{_DIFFERENCE_GAIN}</figcaption>"
        f'<img alt="frames of both clips and their difference" src="{_side_by_side(pair.first, pair.second)}"></figure>'
        for pair in comparison.pictures
    )
    if figures:
        figures = f"<h2>The worst clips</h2>{figures}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>edgereel compare</title><style>{_STYLE}</style><h1>What was lost</h1>"
        f"<pre>{html.escape(summary(comparison))}</pre>{verdict}"
        f"<table><tr><th>prompt</th><th>seed</th><th>PSNR dB</th><th>SSIM</th><th>GMSD</th><th>motion</th>"
        f"<th>final drift</th></tr>{rows}</table>{figures}</html>\n"
    )


def _side_by_side(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> str:
    """Return frames of both clips and their difference, a row each, as a data URL."""
    chosen = np.linspace(0, len(first) - 1, min(_COLUMNS, len(first))).round().astype(int)
    difference = np.abs(first[chosen].astype(int) - second[chosen]) * _DIFFERENCE_GAIN
    rows = (first[chosen], second[chosen], np.minimum(difference, 255).astype(np.uint8))
    return "data:image/png;base64," + base64.b64encode(_png(np.concatenate([np.hstack(row) for row in rows]))).decode()


def _png(picture: NDArray[np.uint8]) -> bytes:
    encoder = VideoCodecContext.create("png", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def add_to_card(folder: Path, manifest: Manifest) -> None:
    """Append to the card what was quantized, from what, and how near the clips are; a bundle without a card gets one."""
    path = folder / CARD_NAME
    before = path.read_text(encoding="utf-8").rstrip() if path.is_file() else f"# {manifest.name}"
    lines = [
        before,
        "",
        "## Quantization",
        "",
        f"- Made from the bundle {manifest.quantized_from}; the differences to the torch modules above are that one's",
    ]
    if "to_source" in manifest.quality:
        lines.append(f"- Its clips are at {manifest.quality['to_source']['psnr_db']:.1f} dB PSNR to the source's")
    lines += ["", "| graph | linears by stored type | activations |", "|---|---|---|"]
    for name, graph in manifest.roles.graphs().items():
        if graph.quantization is not None:
            linears = ", ".join(f"{count} {kind}" for kind, count in graph.quantization.linears.items())
            lines.append(f"| {name} | {linears} | {graph.quantization.activations} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
