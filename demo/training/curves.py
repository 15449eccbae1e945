"""The figures of a training run as one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .denoiser import STAGE as DENOISER_STAGE
from .distill import STAGE as STUDENT_STAGE
from .run_folder import RunFolder
from .vae import DECODER_STAGE, STAGE

_PANELS = (
    (STAGE, "psnr", "autoencoder, dB"),
    (DECODER_STAGE, "psnr", "decoder alone, dB"),
    (DENOISER_STAGE, "loss", "denoiser, squared error"),
    (STUDENT_STAGE, "loss", "student, squared error"),
)


def plot_curves(run: RunFolder, path: Path) -> None:
    """Write a PNG with one panel per stage that the run has begun: its figure over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    begun = [panel for panel in _PANELS if (run.folder / f"{panel[0]}.jsonl").exists()]
    panels = begun or list(_PANELS)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained", squeeze=False)
    for axis, (stage, name, title) in zip(axes[0], panels, strict=True):
        points = _points(run.folder / f"{stage}.jsonl", name)
        axis.plot(list(points), list(points.values()), linewidth=1)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _points(lines: Path, name: str) -> dict[int, float]:
    """Return the figure by step; steps that were done again after a stop count once, as they were done last."""
    if not lines.exists():
        return {}
    records: list[dict[str, Any]] = [json.loads(line) for line in lines.read_text().splitlines()]
    return dict(sorted((int(record["step"]), float(record[name])) for record in records))
