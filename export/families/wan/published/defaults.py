"""What Wan's makers recommend for each of their models: size, length, speed, steps, guidance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WIDTH_OF_14B = 5120
CHANNELS_OF_5B = 48
SHIFT_OF_720P = 5.0


@dataclass(frozen=True)
class Recommended:
    """Size in pixels, pictures, pictures a second; steps and guidance of undistilled sampling. source: who says so."""

    width: int
    height: int
    frames: int
    fps: int
    steps: int
    guidance: dict[str, Any] = field(default_factory=lambda: {"guidance": 5.0})
    source: str = "diffusers WanPipeline"

    def size(self, step: int, most: int) -> dict[str, int]:
        """Return the manifest's defaults, made to fit a model: sizes in multiples of step, at most `most` of them."""
        sizes = {"width": self.width, "height": self.height}
        fitted = {key: max(min(value // step, most), 1) * step for key, value in sizes.items()}
        return fitted | {"frames": self.frames, "fps": self.fps}


SMALL = Recommended(832, 480, 81, 16, 50)
LARGE = Recommended(1280, 720, 81, 16, 50)
OF_5B = Recommended(1280, 704, 121, 24, 50, source="Wan 2.2, wan/configs/wan_ti2v_5B.py")
A14B = Recommended(
    1280, 720, 81, 16, 40, {"guidance": 4.0, "expert_guidance": [4.0, 3.0]}, "Wan 2.2, wan/configs/wan_t2v_A14B.py"
)
A14B_IMAGE = Recommended(1280, 720, 81, 16, 40, {"guidance": 3.5}, "Wan 2.2, wan/configs/wan_i2v_A14B.py")


def recommended(
    width: int, channels: int, shift: float | None, *, experts: int, takes_images: bool, timestep_each: bool
) -> Recommended:
    """Return what is recommended for a model.

    width: of its transformer. channels: of its latents. shift: its scheduler's, which at 14B tells 720p from 480p.
    timestep_each: `expand_timesteps`.
    """
    if timestep_each or channels == CHANNELS_OF_5B:
        return OF_5B
    if experts == 2:
        return A14B_IMAGE if takes_images else A14B
    if width >= WIDTH_OF_14B and shift is not None and shift >= SHIFT_OF_720P:
        return LARGE
    return SMALL
