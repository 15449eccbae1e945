"""Small bundles whose clips begin with pictures, and their graphs in Python, which note what they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgereel.bundle.reader import open_bundle
from edgereel.engines import EngineOptions
from edgereel.engines.fake import FakeEngine
from edgereel.runtime.reel import Reel
from helpers.small_bundle import CHANNELS, write_small_bundle

SIZE = (32, 16)


class PictureGraphs:
    """Of a bundle with latents of 1/8 and 1/4: the encoder tells the mean of each patch, and a tenth of its state."""

    def __init__(self) -> None:
        self.denoised: list[dict[str, np.ndarray]] = []
        self.encoded: list[np.ndarray] = []
        self.pixels: list[np.ndarray] = []

    def text_encoder(self, inputs):
        return {"prompt_embeds": np.ones((1, 6, 4), np.float32)}

    def denoiser(self, inputs):
        self.denoised.append(inputs)
        return {"prediction": np.sin(inputs["latents"] * 3) * 1e3}

    def encoder_first(self, inputs):
        latent = self._code(inputs["pictures"])
        return {"latent": latent, "state_00": latent}

    def encoder_next(self, inputs):
        latent = self._code(inputs["pictures"]) + inputs["state_00"] / 10
        return {"latent": latent, "state_00_next": latent}

    def _code(self, pictures):
        self.encoded.append(pictures)
        return code(pictures.mean(axis=2))

    def image_encoder(self, inputs):
        self.pixels.append(inputs["pixels"])
        return {"image_embeds": np.full((1, 5, 4), inputs["pixels"].mean(), np.float32)}

    def decoder_first(self, inputs):
        return {"frames": self._frames(inputs["latent"], 1), "state_00": inputs["latent"]}

    def decoder_next(self, inputs):
        return {"frames": self._frames(inputs["latent"], 4), "state_00_next": inputs["latent"]}

    def _frames(self, latent, count):
        """Return frames whose red and green are the latents', each a little brighter than the one before."""
        large = latent[:, :, 0].repeat(8, axis=2).repeat(8, axis=3)
        colours = np.concatenate([large, large[:, :1]], axis=1)[:, :, None]
        return np.clip(colours + np.arange(count, dtype=np.float32)[:, None, None] * 0.02, -1, 1)


def code(picture: np.ndarray) -> np.ndarray:
    """Return the mean of each 8x8 patch of two colours of a picture [1, 3, H, W]: [1, 2, 1, H / 8, W / 8]."""
    _, _, height, width = picture.shape
    patches = picture[:, :CHANNELS].reshape(1, CHANNELS, height // 8, 8, width // 8, 8)
    return patches.mean(axis=(3, 5))[:, :, None].astype(np.float32)


def spec(*shape: int | str) -> dict[str, Any]:
    return {"dtype": "float32", "shape": list(shape)}


def write_picture_bundle(folder: Path, *, embeds: bool = False, **keys: Any) -> Path:
    """Write a bundle with these keys in the manifest: `held`, `condition`. embeds: the denoiser takes `image_embeds`."""

    def change(data: dict[str, Any]) -> None:
        roles = data["roles"]
        inputs = roles["denoiser"][0]["inputs"]
        plain = dict(roles["decoder_first"])
        state = spec("batch", CHANNELS, 1, "height", "width")
        pictures = [spec("batch", 3, count, "height*8", "width*8") for count in (1, 4)]
        first = plain | {"inputs": {"pictures": pictures[0]}, "outputs": {"latent": state, "state_00": state}}
        following = plain | {"inputs": {"pictures": pictures[1], "state_00": state}}
        roles["encoder_first"] = first
        roles["encoder_next"] = following | {"outputs": {"latent": state, "state_00_next": state}}
        inputs["latents"] = spec("batch", CHANNELS, "frames", "height", "width")
        if "held" in keys:
            inputs["timestep"] = spec("batch", "frames")
        if "condition" in keys:
            layout, mask = keys["condition"]["layout"], keys["condition"].get("mask", "pictures")
            masks = {"pictures": 4, "latents": 1, "pixels": 64}[mask]
            channels = sum(masks if part == "mask" else CHANNELS for part in layout)
            inputs["condition"] = spec("batch", channels, "frames", "height", "width")
        if embeds:
            inputs["image_embeds"] = spec("batch", 5, 4)
            roles["image_encoder"] = plain | {"inputs": {"pixels": spec("batch", 3, 16, 16)}, "size": 16} | {
                "outputs": {"image_embeds": spec("batch", 5, 4)}, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
            }  # fmt: skip
        data.update(keys, schema=2)
        data["recipes"] = [{"name": "quick", "sampler": "euler", "steps": 3, "shift": 3.0, "guidance": 1.0}]

    write_small_bundle(folder, change)
    for name in ("encoder_first", "encoder_next", "image_encoder"):
        (folder / f"{name}.onnx").write_bytes((folder / "decoder_first.onnx").read_bytes())
    from helpers.causal_bundle import record_files
    from helpers.small_bundle import edit

    def rename(data: dict[str, Any]) -> None:
        for name in ("encoder_first", "encoder_next", "image_encoder"):
            if name in data["roles"]:
                data["roles"][name]["file"] = f"{name}.onnx"
        record_files(folder, data)

    edit(folder, rename)
    return folder


def picture_reel(folder: Path, graphs: PictureGraphs) -> Reel:
    """Return the bundle opened on graphs in Python."""
    names = (
        "text_encoder",
        "denoiser",
        "encoder_first",
        "encoder_next",
        "image_encoder",
        "decoder_first",
        "decoder_next",
    )
    return Reel(open_bundle(folder), FakeEngine({name: getattr(graphs, name) for name in names}), EngineOptions())
