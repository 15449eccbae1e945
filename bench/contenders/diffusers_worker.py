"""`python -m edgereel.bench.contenders.diffusers_worker`: diffusers' WanPipeline in a process of its own; see protocol.py.

The program is what a user of diffusers would write, told our recipe: the same checkpoint, initial noise, noise levels and
timesteps, and the same settings of the MP4 encoder. Torch and diffusers are imported first, as `start`.
"""

from __future__ import annotations

import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from diffusers import WanTransformer3DModel as Transformer
from diffusers import __version__ as diffusers_version
from numpy.typing import NDArray

from ...runtime.sampling.noise import NoiseSource
from ...runtime.video.output import Output
from .protocol import ClipMaker, ClipWorker, OnStage, serve_pipes


class ListedEuler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """diffusers' Euler scheduler on given noise levels and timesteps; the pipeline asks it for a number of steps only."""

    def __init__(self, sigmas: list[float], timesteps: list[float]) -> None:
        super().__init__(shift=1.0)
        self._given = {"sigmas": sigmas, "timesteps": timesteps}

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **_: Any) -> None:
        """Take the given ones."""
        super().set_timesteps(**self._given, device=device)


class DiffusersMaker(ClipMaker):
    """A pipeline and the order it works by: DiffusersContender.opening has what is in it."""

    def __init__(self) -> None:
        self._order: dict[str, Any] = {}
        self._pipeline: Any = None
        self._built = 0.0

    def open(self, request: dict[str, Any]) -> dict[str, float]:
        """See ClipMaker.open. Where it is to be compiled, that is `build`: all of a first clip but its file."""
        started = time.perf_counter()
        warnings.simplefilter("ignore")
        self._order, self.uses_gpu = request, request["device"] == "cuda"
        torch.set_num_threads(request["threads"])
        self._pipeline = self._load()
        loaded = time.perf_counter()
        if not request["compile"]:
            return {"open": loaded - started}
        self._pipeline.transformer.compile(dynamic=False)
        self._pipeline.vae.decoder.compile(dynamic=False)
        self.frames(request["prompt"], 0)
        self._built = time.perf_counter() - loaded
        return {"open": loaded - started, "build": self._built}

    def make(self, prompt: str, seed: int, output: Path, on_stage: OnStage) -> dict[str, Any]:
        """See ClipMaker.make."""
        moments = [time.perf_counter()]

        def done(following: str) -> None:
            if self.uses_gpu:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
            on_stage(following)

        on_stage("text")
        with torch.inference_mode():
            embeddings = self._embed(prompt)
            done("denoise")
            steps = [moments[-1]]
            latents = self._sample(embeddings, seed, steps)
            done("decode")
            pictures = self._decode(latents)
            done("encode")
        metadata = {"title": prompt, "genre": "AI-generated"}
        Output.check(output).at(self._order["fps"]).write(iter(pictures), metadata)
        moments.append(time.perf_counter())
        seconds = [after - before for before, after in pairwise(moments)]
        return {
            "total": moments[-1] - moments[0],
            "stages": dict(zip(("text", "denoise", "decode", "encode"), seconds, strict=True)),
            "details": {"denoise_step": [after - before for before, after in pairwise(steps)]},
        }

    def frames(self, prompt: str, seed: int) -> NDArray[np.uint8]:
        """See ClipMaker.frames."""
        with torch.inference_mode():
            return self._decode(self._sample(self._embed(prompt), seed, []))

    def facts(self) -> dict[str, Any]:
        """See ClipMaker.facts."""
        order = self._order
        return {
            "engine": "diffusers",
            "version": f"diffusers {diffusers_version}, torch {torch.__version__}",
            "provider": [f"{'compiled' if order['compile'] else 'eager'} on {order['device']}"],
            "precision": [str(self._pipeline.transformer.dtype).removeprefix("torch.")],
            "threads": torch.get_num_threads(),
            "build": "built" if order["compile"] else "",
            "build_seconds": self._built,
        }

    def _load(self) -> Any:
        """Return the pipeline; the VAE is float32 in any case, as diffusers' own documents have it for Wan."""
        order = self._order
        dtype, checkpoint = getattr(torch, order["dtype"]), order["checkpoint"]
        parts = {"vae": AutoencoderKLWan.from_pretrained(checkpoint, subfolder="vae", torch_dtype=torch.float32)}
        if order["transformer"] is not None:
            parts["transformer"] = Transformer.from_pretrained(order["transformer"], torch_dtype=dtype)
        pipeline = WanPipeline.from_pretrained(checkpoint, torch_dtype=dtype, **parts).to(order["device"])
        pipeline.set_progress_bar_config(disable=True)
        if order["sampler"] == "unipc":
            pipeline.scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=order["shift"],
                num_train_timesteps=order["train_timesteps"],
            )
        else:
            pipeline.scheduler = ListedEuler(order["sigmas"], order["timesteps"])
        return pipeline

    def _embed(self, prompt: str) -> dict[str, Any]:
        order = self._order
        guided = max(order["guidances"]) > 1
        embeddings, without = self._pipeline.encode_prompt(
            prompt,
            negative_prompt=order["negative_prompt"] if guided else None,
            do_classifier_free_guidance=guided,
            max_sequence_length=order["max_tokens"],
            device=torch.device(order["device"]),
        )
        return {"prompt_embeds": embeddings, "negative_prompt_embeds": without}

    def _sample(self, embeddings: dict[str, Any], seed: int, steps: list[float]) -> Any:
        """Return the denoised latents; the moment after each step is added to `steps`."""
        order = self._order

        def on_step(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if self.uses_gpu:
                torch.cuda.synchronize()
            steps.append(time.perf_counter())
            return {}

        return self._pipeline(
            **embeddings,
            width=order["width"],
            height=order["height"],
            num_frames=order["frames"],
            num_inference_steps=len(order["timesteps"]),
            guidance_scale=order["guidances"][0],
            guidance_scale_2=order["guidances"][1] if len(order["guidances"]) > 1 else None,
            latents=torch.from_numpy(NoiseSource(seed).draw(tuple(order["latents"]))).to(order["device"]),
            callback_on_step_end=on_step,
            output_type="latent",
        ).frames

    def _decode(self, latents: Any) -> NDArray[np.uint8]:
        """Return pictures as the pipeline itself would make them of latents."""
        vae = self._pipeline.vae
        mean, deviation = (
            torch.tensor(vae.config[name], device=latents.device).view(1, -1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        decoded = vae.decode(latents.to(vae.dtype) * deviation + mean, return_dict=False)[0]
        video = self._pipeline.video_processor.postprocess_video(decoded, output_type="np")[0]
        pictures: NDArray[np.uint8] = np.round(video * 255).astype(np.uint8)
        return pictures


if __name__ == "__main__":
    serve_pipes(lambda folder: ClipWorker(DiffusersMaker(), folder))
