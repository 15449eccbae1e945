"""The demo's growth: the context is Wan's attention and nothing else, and every stage runs, stops and goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from safetensors.torch import load_file

from edgereel.demo import gauges
from edgereel.demo.evaluate import held_out_captions
from edgereel.demo.films import Film, draw_film, render_film
from edgereel.demo.growing import decoders, teacher
from edgereel.demo.growing.autoencoder import train_autoencoder
from edgereel.demo.growing.candidate import candidate
from edgereel.demo.growing.checkpoint import write_grown
from edgereel.demo.growing.context import Context, denoise, stack
from edgereel.demo.growing.decoders import (
    draw_pictures,
    open_tiny_decoder,
    train_full_decoder,
    train_tiny_decoder,
)
from edgereel.demo.growing.latents import Tokens, cache_piece, draw_films, encode_pictures, to_uint8
from edgereel.demo.growing.presets import Growth
from edgereel.demo.growing.rolling import FewSteps, Guided, Roller
from edgereel.demo.growing.rollouts import LEVELS, STEPS_PER_LEVEL, follow_teacher, load_round
from edgereel.demo.growing.student import open_student, train_student
from edgereel.demo.growing.teacher import open_models, open_teacher, train_teacher
from edgereel.demo.growing.tiny_decoder import TinyDecoder
from edgereel.demo.training.denoiser import embed
from edgereel.demo.training.run_folder import RunFolder
from edgereel.demo.training.vae import to_pictures

# The training's command ignores it too.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")

SMALL = replace(
    Growth(name="smallest"),
    formats=((32, 32), (48, 32), (32, 48)), films_in_piece=4, pieces_at_first=1, film_pieces=2, piece_every=1,
    clip_pieces=1, clips_in_piece=3, text_batch=2,
    autoencoder_steps=2, teacher_steps=3, text_steps=2, student_steps=3, rounds=3, rounds_at_first=2, round_every=1,
    round_films=2, own_after=1, student_batch=2, decoder_steps=2, decoder_batch=2, tiny_decoder_steps=2, tiny_batch=2,
)  # fmt: skip


def _small_transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=64, num_layers=3, rope_max_seq_len=32,
    )  # fmt: skip
    for parameter in transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return transformer.eval()


def test_without_a_context_the_denoiser_is_wans() -> None:
    transformer = _small_transformer()
    latents, timestep, text = torch.randn(2, 4, 3, 2, 4), torch.tensor([20.0, 700.0]), torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = transformer(latents, timestep, text, return_dict=False)[0]
        predicted, kept = denoise(transformer, latents, timestep, text)
    assert torch.allclose(predicted, expected, atol=1e-5)
    assert kept.frames == 3


class _Masked:
    """diffusers' own attention with a mask for self-attention."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, attn, x, encoder=None, attention_mask=None, rotary=None):  # type: ignore[no-untyped-def]
        return WanAttnProcessor()(attn, x, encoder, self.mask, rotary)


def test_remembered_chunks_are_wans_block_causal_attention() -> None:
    """Two remembered chunks and a noisy one, against one call of diffusers' model over all frames with a mask."""
    transformer, text = _small_transformer(), torch.randn(1, 5, 16)
    clean, noisy = torch.randn(1, 4, 4, 2, 3), torch.randn(1, 4, 2, 2, 3)
    with torch.no_grad():
        context: Context | None = None
        for chunk in torch.split(clean, 2, dim=2):
            _, left = denoise(transformer, chunk, torch.zeros(1), text, context)
            context = left if context is None else context.then(left)
        predicted, _ = denoise(transformer, noisy, torch.tensor([600.0]), text, context)
        chunks = torch.arange(6 * 6) // 12
        mask = torch.zeros(36, 36).masked_fill(chunks[None] > chunks[:, None], float("-inf"))
        for block in transformer.blocks:
            block.attn1.set_processor(_Masked(mask[None, None]))
        levels = torch.tensor([0.0, 0.0, 0.0, 0.0, 600.0, 600.0])
        tokens = levels[None, :, None].expand(1, 6, 6).reshape(1, -1)
        whole = transformer(torch.cat([clean, noisy], dim=2), tokens, text, return_dict=False)[0]
    assert torch.allclose(predicted, whole[:, :, 4:], atol=1e-4)


def test_contexts_are_cut_and_stacked() -> None:
    keys = [torch.randn(1, 4, 2, 3)]
    context = Context(keys, [torch.randn(1, 4, 2, 3)])
    assert torch.equal(context.last(2).keys[0], keys[0][:, 2:])
    assert context.last(9).frames == 4
    assert stack([context, context]).keys[0].shape[0] == 2


def test_the_tiny_decoder_streams_exactly_and_fits_the_frames_of_wans() -> None:
    torch.manual_seed(0)
    tiny, latents = TinyDecoder(24).eval(), torch.randn(2, 24, 5, 2, 3)
    with torch.no_grad():
        whole, _ = tiny(latents)
        part, memory = tiny(latents[:, :, :1])
        parts = [part]
        for frame in range(1, 5):
            part, memory = tiny(latents[:, :, frame : frame + 1], memory)
            parts.append(part)
    assert whole.shape == (2, 3, 17, 32, 48)
    assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-5)


def test_the_text_encoder_keeps_what_it_knew_and_learns_new_words() -> None:
    models, tokens = open_models(SMALL), Tokens(24)
    ids = tokens(["a red ball rises over the ocean", "then it rises"])
    assert ids.max() < models.text_encoder.config.vocab_size
    assert 2 not in ids
    with torch.no_grad():
        assert torch.isfinite(embed(models.text_encoder, ids)).all()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Every stage but the student, each stopped at once and then gone on with, at the smallest size."""
    folder = tmp_path_factory.mktemp("run")
    hurried, patient = RunFolder(folder, stop_after=0.0), RunFolder(folder)
    for stage in (train_autoencoder, train_teacher, train_full_decoder, train_tiny_decoder):
        assert not stage(SMALL, hurried)
        assert stage(SMALL, patient)
    return patient


def test_cached_latents_belong_to_the_films_that_are_rendered_again(grown: RunFolder) -> None:
    """The decoders' films pair latents with pictures: the encoder, given those pictures, says the same latents."""
    films = draw_pictures(SMALL, grown)(0)
    next(films)
    latents, pictures = next(films)
    vae = candidate(SMALL, grown, "teacher:2").vae
    assert torch.allclose(encode_pictures(vae, pictures), latents, atol=2e-2)


def test_the_text_encoder_stays_after_its_last_step(grown: RunFolder) -> None:
    state = grown.load("teacher")
    assert state is not None
    names = [name for name in state["model"] if name.startswith("text_encoder.")]
    assert names
    assert all(torch.equal(state["model"][name], state["average"][name]) for name in names)


def test_a_student_goes_on_with_its_own_films_and_makes_films(
    grown: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not train_student(SMALL, RunFolder(grown.folder, stop_after=0.0))
    assert train_student(SMALL, grown)
    for index in range(3):
        groups = load_round(grown, index)
        assert groups is not None
        assert [len(group.before) for group in groups][:2] == ([1, 1] if index == 1 else [0, 1])
        assert all(group.path.shape[1] == 1 + LEVELS for group in groups)
    monkeypatch.setattr(decoders, "_STUDENTS_SHARE", 1.0)
    seen = next(decoders._draw_latents(SMALL, grown, 0))
    rounds = [load_round(grown, index) for index in range(3)]
    films = [torch.cat([made for made, _ in groups[2].before], dim=2).float() for groups in rounds if groups]
    same = [film for film in films if film.shape[1:] == seen.shape[1:]]
    assert any(torch.equal(seen[0], film) for films_of_one in same for film in films_of_one)
    made = candidate(SMALL, grown, "student:2")
    figures = gauges.hand_overs(made, (32, 32), streams=1, chunks=2)
    assert all(np.isfinite(value) for value in figures.values())
    figures = gauges.another_decoder(made, made.tiny(grown), (48, 32), clips=1)
    assert figures["psnr"] > 0


def test_what_goes_on_begins_as_what_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    growth, run = replace(SMALL, goes_on=True), RunFolder(tmp_path)
    demo = growth.checkpoint.parent
    for model, folder in (
        (open_student(growth, run, open_teacher(growth, run)), demo / "student"),
        (open_tiny_decoder(growth, run), demo / "tiny_decoder"),
    ):
        weights = load_file(folder / "diffusion_pytorch_model.safetensors")
        own = model.state_dict()
        assert all(torch.equal(own[name], weight.float()) for name, weight in weights.items())


def test_a_worn_shot_is_remembered_and_never_a_target(grown: RunFolder) -> None:
    """The loss of films all of whose shots but the last are worn is that of the last chunk alone."""
    piece = cache_piece(SMALL, grown, 0)
    worn = torch.zeros_like(piece.worn)
    worn[:, :-1] = True
    generator = torch.Generator().manual_seed(0)
    models, empty = open_teacher(SMALL, grown), Tokens(24).empty
    every = teacher._film_losses(SMALL, models, replace(piece, worn=worn), empty, np.random.RandomState(0), generator)
    assert set(every[1]) == {"later"}
    assert float(every[0]) == pytest.approx(every[1]["later"])
    drawn = [film for index in range(2) for film in draw_films(replace(SMALL, worn_share=1.0), index)[0]]
    assert all(film.wear is not None for film in drawn)
    assert piece.worn.shape == (SMALL.films_in_piece, SMALL.shots)


def test_a_trajectory_ends_where_the_guided_sampler_does(grown: RunFolder) -> None:
    teacher, tokens = open_teacher(SMALL, grown), Tokens(24)
    noise = torch.from_numpy(np.random.RandomState(0).standard_normal((1, 24, 5, 2, 2)).astype(np.float32))
    with torch.no_grad():
        texts = [embed(teacher.text_encoder, tokens([text])) for text in ("a red ball rises", "")]
        path = follow_teacher(SMALL, teacher, noise, texts[0], texts[1], None)
        sampler = Guided(LEVELS * STEPS_PER_LEVEL, SMALL.sampling_shift, SMALL.guidance)
        end = sampler(teacher.transformer, noise, texts[0], texts[1], None)
    assert torch.equal(path[:, 0], noise)
    # The sampler's schedule truncates timesteps and ends a little elsewhere; a wrong step leads several times as far off.
    assert torch.linalg.norm(path[:, -1] - end) < 0.1 * torch.linalg.norm(end)


def test_films_begin_with_a_given_picture_and_go_on(grown: RunFolder) -> None:
    models = open_teacher(SMALL, grown)
    roller = Roller(models.transformer, models.text_encoder, FewSteps(2, 3.0), SMALL.chunk, SMALL.max_tokens)
    piece = cache_piece(SMALL, grown, 0)
    picture = piece.latents[:1, :, :1].float()
    prompts = [["a red ball rises"], ["it falls"]]
    film = roller.roll(prompts, [3], (32, 32), picture)
    assert film.shape == (1, 24, 10, 2, 2)
    assert torch.equal(film[:, :, :1], picture)
    again = roller.roll(prompts[:1], [3], (32, 32), picture)
    assert torch.equal(again, film[:, :, :5])
    other = roller.roll([prompts[0], ["it grows"]], [3], (32, 32), picture)
    assert torch.equal(other[:, :, :5], film[:, :, :5])
    assert not torch.equal(other, film)


def test_rendering_a_film_depends_on_its_seed_alone() -> None:
    film = draw_film(np.random.RandomState(1), 2)
    one, two = (render_film(film, np.random.RandomState(2), height=32, width=48) for _ in range(2))
    assert np.array_equal(one, two)


def test_what_was_reached_opens_in_diffusers_and_is_small(grown: RunFolder, tmp_path: Path) -> None:
    assert train_student(SMALL, grown)
    write_grown(SMALL, grown, tmp_path)
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 5
    assert not any("_name_or_path" in path.read_text() for path in tmp_path.rglob("*.json"))
    assert sum(file.stat().st_size for file in files) < 30e6
    pipeline = WanPipeline.from_pretrained(tmp_path / "checkpoint")
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        "a red ball rises", height=32, width=48, num_frames=17, num_inference_steps=2, max_sequence_length=24
    )
    assert video.frames[0].shape == (17, 32, 48, 3)
    recipes = json.loads((tmp_path / "student" / "edgereel.json").read_text())["recipes"]
    assert [recipe["steps"] for recipe in recipes] == [4, 1, 2, 8]
    stored = load_file(tmp_path / "tiny_decoder" / "diffusion_pytorch_model.safetensors")
    assert set(stored) == set(TinyDecoder(24).state_dict())


def test_a_kept_picture_is_as_near_as_the_autoencoder_brings_it(grown: RunFolder) -> None:
    """The gauge's clips begin with the picture's own latents, whatever the denoiser does of the rest."""
    made = candidate(SMALL, grown, "teacher:2")
    figures = gauges.picture_to_video(made, (32, 48), clips=2)
    rng, errors = np.random.RandomState(8), []
    for subject, _ in held_out_captions(2):
        film = render_film(Film((gauges.shot_of(subject),)), rng, height=48, width=32)
        picture = to_pictures(film[None, :1], torch.device("cpu"))
        again = to_uint8(made.decode(encode_pictures(made.vae, picture)))
        errors.append(gauges.psnr(again[0, 0], film[0]))
    assert figures["kept_db"] == pytest.approx(np.mean(errors), abs=0.05)


def test_a_prompt_changes_in_the_last_chunk_of_the_gauge(grown: RunFolder) -> None:
    figures = gauges.changed_prompt(candidate(SMALL, grown, "teacher:2"), (32, 32), streams=1)
    assert set(figures) == {"colour", "scene", "motion", "shape"}
