"""What a Wan VAE's configuration says of its latents and pictures, checked before anything is traced."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .....core.errors import CheckpointError

COLOURS = 3


def check_latent_statistics(config: Any, path: Path) -> None:
    """Raise CheckpointError where latents_mean or latents_std cannot be those of this VAE's latents. path: of the file.

    Where a file leaves them out, diffusers takes the 16 numbers of Wan 2.1.
    """
    for key in ("latents_mean", "latents_std"):
        numbers = config[key]
        if not isinstance(numbers, list | tuple) or len(numbers) != config.z_dim:
            count = len(numbers) if isinstance(numbers, list | tuple) else "no"
            raise CheckpointError(
                f"{path}: {key} has {count} numbers for {config.z_dim} channels (z_dim); a file without them gets the 16 of "
                "Wan 2.1: write the model's own into it"
            )
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise CheckpointError(f"{path}: {key} has values that are not finite numbers")
    if any(number <= 0 for number in config.latents_std):
        raise CheckpointError(f"{path}: latents_std has values that are not above 0")


def shuffle_of(config: Any, path: Path) -> int:
    """Return the factor by which a decoder enlarges with channels that are pixels (torch's PixelShuffle), 1 for none.

    Upscaling VAEs have 12 channels where others have 3: their makers shuffle what diffusers decodes.
    """
    colours = config.out_channels // (config.patch_size or 1) ** 2
    factor = math.isqrt(colours // COLOURS)
    if factor < 1 or colours != COLOURS * factor * factor or (factor > 1 and (config.patch_size or 1) > 1):
        raise CheckpointError(
            f"{path}: out_channels is {config.out_channels}; edgereel exports 3 for a picture, times patch_size squared, "
            "or 12 for one twice as large"
        )
    return factor
