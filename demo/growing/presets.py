"""What the grown model is, and how long each stage of the growth trains: one record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

CHECKPOINT = Path(__file__).resolve().parent.parent / "checkpoint"


@dataclass(frozen=True)
class Growth:
    """Shapes and schedules.

    formats: (width, height), multiples of 16. chunk: latent frames of a chunk, and of the context that the next one sees.
    film_pieces, clip_pieces: how many pieces of `films_in_piece` films and of `clips_in_piece` single shots are cached, the
    first `pieces_at_first` before the denoiser begins to train, then one of each every `piece_every` steps.
    context_noise: largest deviation of the noise on the context.
    text_steps: the teacher's step after which the text encoder stays as it is, so that a student may share it.
    rounds: how many times the teacher guides `round_films` films, `rounds_at_first` before the student begins to train,
    then one every `round_every` steps. own_after: the student's step after which films go on with what it made itself.
    goes_on: whether student and tiny decoder begin as those beside the checkpoint do.
    """

    name: str
    checkpoint: Path = CHECKPOINT
    formats: tuple[tuple[int, int], ...] = ((128, 128), (160, 96), (96, 160))
    chunk: int = 5
    shots: int = 3
    seed: int = 20260701
    max_tokens: int = 24
    autoencoder_steps: int = 330
    autoencoder_batch: int = 4
    autoencoder_learning_rate: float = 2e-3
    film_pieces: int = 15
    films_in_piece: int = 48
    worn_share: float = 0.35
    clip_pieces: int = 24
    clips_in_piece: int = 160
    pieces_at_first: int = 3
    piece_every: int = 90
    teacher_steps: int = 4360
    teacher_batch: int = 4
    text_batch: int = 12
    teacher_learning_rate: float = 3e-3
    caption_dropout: float = 0.1
    timestep_shift: float = 2.5
    context_noise: float = 0.12
    text_steps: int = 1500
    sampling_shift: float = 3.0
    guidance: float = 5.0
    student_steps: int = 1150
    student_batch: int = 4
    student_learning_rate: float = 1.5e-3
    rounds_at_first: int = 3
    round_every: int = 20
    rounds: int = 60
    round_films: int = 8
    own_after: int = 80
    decoder_steps: int = 300
    decoder_batch: int = 2
    decoder_learning_rate: float = 1e-3
    tiny_decoder_steps: int = 1720
    tiny_batch: int = 2
    tiny_learning_rate: float = 1e-3
    goes_on: bool = False


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the fraction of the peak learning rate at a step: linear warm-up, then half a cosine to a twentieth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


_CPU = Growth(name="cpu")
# Trained on from a grown model and its student, on films that change more often and wear.
_CPU_AGAIN = replace(
    _CPU,
    name="cpu-again",
    seed=20261201,
    autoencoder_steps=0,
    decoder_steps=0,
    film_pieces=12,
    clip_pieces=9,
    clips_in_piece=96,
    piece_every=40,
    teacher_steps=1100,
    teacher_learning_rate=1.5e-3,
    text_steps=0,
    guidance=4.0,
    student_steps=950,
    student_learning_rate=1e-3,
    rounds_at_first=4,
    round_every=20,
    rounds=36,
    own_after=0,
    tiny_decoder_steps=700,
    tiny_learning_rate=8e-4,
    goes_on=True,
)
GROWTHS = {growth.name: growth for growth in (_CPU, _CPU_AGAIN)}
