"""What a quantized bundle's MODEL_CARD.md says beside its source's."""

from __future__ import annotations

from pathlib import Path

from ..bundle.manifest import Manifest

CARD_NAME = "MODEL_CARD.md"


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
