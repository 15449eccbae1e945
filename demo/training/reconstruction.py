"""How well a checkpoint's autoencoder reproduces true clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray

from ..clips import Subject
from .vae import to_pictures
from .whole_clip import psnr


@torch.no_grad()
def reconstruction_psnr(checkpoint: Path, pairs: list[tuple[NDArray[np.uint8], Subject]]) -> float:
    """Return the PSNR in dB, over all clips' squared error together, of diffusers' own encode and decode in float32."""
    vae = AutoencoderKLWan.from_pretrained(checkpoint / "vae").float().eval()
    true, decoded = [], []
    for clip, _ in pairs:
        pictures = to_pictures(clip[None], torch.device("cpu"))
        true.append(pictures)
        decoded.append(vae.decode(vae.encode(pictures).latent_dist.mode()).sample)
    return psnr(torch.cat(true), torch.cat(decoded))
