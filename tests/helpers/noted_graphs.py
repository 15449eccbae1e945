"""Graphs in Python for the fake engine, which note how they were called."""

from __future__ import annotations

import numpy as np

from helpers.small_bundle import MAX_TOKENS, WORDS

PROMPT = "a red ball"


class Graphs:
    """Graphs in Python that note how they were called. The embedding of a prompt is its number of tokens."""

    def __init__(self):
        self.calls = []

    def text_encoder(self, inputs):
        assert set(inputs) == {"input_ids", "attention_mask"}
        assert {(array.shape, array.dtype.name) for array in inputs.values()} == {((1, MAX_TOKENS), "int64")}
        words = [WORDS[token] for token in inputs["input_ids"][inputs["attention_mask"] == 1]]
        self.calls.append(("text_encoder", " ".join(words)))
        return {"prompt_embeds": np.full((1, MAX_TOKENS, 4), len(words), np.float32)}

    def denoiser(self, inputs, name="denoiser"):
        assert inputs["latents"].dtype == inputs["timestep"].dtype == np.float32
        assert inputs["timestep"].shape == (1,)
        embedding = float(inputs["prompt_embeds"].mean())
        self.calls.append((name, float(inputs["timestep"][0]), embedding))
        return {"prediction": np.full_like(inputs["latents"], embedding)}

    def denoiser_2(self, inputs):
        return self.denoiser(inputs, "denoiser_2")

    def decoder_first(self, inputs):
        return {**self._frames(inputs, 1), "state_00": np.zeros(1, np.float32)}

    def decoder_next(self, inputs):
        return {**self._frames(inputs, 4), "state_00_next": inputs["state_00"]}

    def _frames(self, inputs, count):
        _, _, _, height, width = inputs["latent"].shape
        shape = (1, 3, count, height * 8, width * 8)
        return {"frames": np.random.default_rng().uniform(-1, 1, shape).astype(np.float32)}

    def named(self, name):
        return [call for call in self.calls if call[0] == name]
