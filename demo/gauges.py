"""What the built-in model is measured by: words shown, pictures kept, hand-overs, changed prompts, another decoder.

Every gauge asks a `FilmMaker` for films of held-out captions and returns plain figures. `figures.py` measures bundles with
them, `growing/evaluate.py` a training's run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .evaluate import held_out_captions
from .film_scorer import cut, drift, read_shot, seams, shows
from .films import Film, Shot, pictures_of, render_film
from .scorer import ATTRIBUTES, displacement, read, score_readings, travel

Clips = NDArray[np.uint8]
Figures = dict[str, float]
_BATCH = 6
SPREAD_CAPTIONS, SPREAD_SEEDS = 12, 4
TABLES = ("text", "picture", "streams", "prompts", "tiny")


class FilmMaker(Protocol):
    """What makes films of prompts."""

    def films(
        self,
        prompts: Sequence[Sequence[str]],
        seeds: Sequence[int],
        size: tuple[int, int],
        pictures: Clips | None = None,
    ) -> Clips:
        """Return films uint8 [B, F, H, W, 3] whose chunks have the prompts [chunks][B], each made in sight of the last.

        size: (width, height). pictures: first pictures, uint8 [B, H, W, 3]; without them a film begins from nothing.
        """
        ...


def shot_of(subject: Any) -> Shot:
    """Return a subject of a single clip as a shot."""
    return Shot(subject.shape, subject.colour, (subject.motion,), subject.scene)


def _batches(count: int) -> Iterator[range]:
    for start in range(0, count, _BATCH):
        yield range(start, min(start + _BATCH, count))


def text_to_video(maker: FilmMaker, size: tuple[int, int], clips: int) -> Figures:
    """Return the share of held-out captions shown, by attribute, seed spread, mean displacement and travel.

    spread: root mean square difference, 0 to 255, of a caption's clips from their mean.
    """
    pairs, readings = held_out_captions(clips), []
    for batch in _batches(clips):
        readings += [read(clip) for clip in maker.films([[pairs[i][1] for i in batch]], list(batch), size)]
    shown = score_readings(zip(readings, (subject for subject, _ in pairs), strict=True))
    variances = []
    for _, caption in pairs[:SPREAD_CAPTIONS]:
        seeds = list(range(SPREAD_SEEDS))
        made = maker.films([[caption] * len(seeds)], seeds, size)
        variances.append(np.var(made.astype(np.float32), axis=0, ddof=1).mean())
    return {**shown, "spread": float(np.sqrt(np.mean(variances))), **_moved(readings)}


def _moved(readings: list[Any]) -> Figures:
    return {each.__name__: float(np.mean([each(reading) for reading in readings])) for each in (displacement, travel)}


def true_clips(size: tuple[int, int], clips: int) -> list[Clips]:
    """Return rendered clips [F, H, W, 3] of the same subjects, as the films that training saw."""
    rng, (width, height) = np.random.RandomState(8), size
    films = [Film((shot_of(subject),)) for subject, _ in held_out_captions(clips)]
    return [render_film(film, rng, height=height, width=width) for film in films]


def true_moves(size: tuple[int, int], clips: int) -> Figures:
    """Return the mean displacement and travel of true clips of the same subjects."""
    return _moved([read(clip) for clip in true_clips(size, clips)])


def picture_to_video(maker: FilmMaker, size: tuple[int, int], clips: int) -> Figures:
    """Return the PSNR of the first picture and the attributes shown, on first pictures of held-out clips."""
    pairs, true = held_out_captions(clips), true_clips(size, clips)
    kept, matches = [], []
    for batch in _batches(clips):
        pictures = np.stack([true[i][0] for i in batch])
        made = maker.films([[pairs[i][1] for i in batch]], list(batch), size, pictures)
        kept += [psnr(clip[0], picture) for clip, picture in zip(made, pictures, strict=True)]
        shots = [shot_of(pairs[i][0]) for i in batch]
        matches += [shows(read_shot(clip, first=True), shot, clip) for clip, shot in zip(made, shots, strict=True)]
    return {
        "kept_db": float(np.mean(kept)),
        "kept_db_worst_tenth": float(np.percentile(kept, 10)),
        **_shares(matches),
    }


def hand_overs(maker: FilmMaker, size: tuple[int, int], streams: int, chunks: int, *, chained: bool = False) -> Figures:
    """Return what is left at the end of long streams of one prompt each, and what their seams look like.

    chained: hand over the last picture, encoded anew, in the place of the context.
    """
    pairs, last, jumps, drifts = held_out_captions(streams), [], [], []
    for batch in _batches(streams):
        captions = [pairs[i][1] for i in batch]
        films = (
            chain(maker, captions, list(batch), size, chunks)
            if chained
            else maker.films([captions] * chunks, list(batch), size)
        )
        for film, i in zip(films, batch, strict=True):
            chunk = cut(film)[-1]
            last.append(shows(read_shot(chunk, first=False), shot_of(pairs[i][0]), chunk))
            jumps += seams(film)
            drifts.append(drift(film))
    return {
        **_shares(last),
        "colour_scene_shape": float(np.mean([all(m[name] for name in ("colour", "scene", "shape")) for m in last])),
        "jump_median": float(np.median([seam.jump for seam in jumps])),
        "jump_within": float(np.mean([seam.jump <= 1.5 for seam in jumps])),
        "seam_colour": float(np.mean([seam.colour for seam in jumps])),
        "seam_scene": float(np.mean([seam.scene for seam in jumps])),
        "drift_colour": float(np.mean([each.colour for each in drifts])),
        "drift_scene": float(np.mean([each.scene for each in drifts])),
        "sharpness": float(np.median([each.sharpness for each in drifts])),
    }


def chain(maker: FilmMaker, captions: list[str], seeds: list[int], size: tuple[int, int], chunks: int) -> Clips:
    """Return films of which each piece begins with the picture that the one before ended with; as long as a stream."""
    made = [maker.films([captions], seeds, size)]
    wanted = pictures_of(chunks)
    while sum(piece.shape[1] for piece in made) < wanted:
        seeds = [seed + 1000 for seed in seeds]
        made.append(maker.films([captions], seeds, size, made[-1][:, -1])[:, 1:])
    return np.concatenate(made, axis=1)[:, :wanted]


def changed_prompt(maker: FilmMaker, size: tuple[int, int], streams: int) -> Figures:
    """Return what the first chunk after a change of the whole prompt shows of the new one."""
    pairs, matches = held_out_captions(2 * streams), []
    for batch in _batches(streams):
        old, new = ([pairs[i + offset] for i in batch] for offset in (0, streams))
        prompts = [[caption for _, caption in old]] * 2 + [[caption for _, caption in new]]
        for film, (subject, _) in zip(maker.films(prompts, list(batch), size), new, strict=True):
            chunk = cut(film)[-1]
            matches.append(shows(read_shot(chunk, first=False), shot_of(subject), chunk))
    return _shares(matches)


def another_decoder(maker: FilmMaker, other: FilmMaker, size: tuple[int, int], clips: int) -> Figures:
    """Return how near another decoder's pictures are to a maker's of the same latents, and what they show.

    psnr is of all pixels of all clips. lost: points, 0 to 1, of the attribute that it shows less often.
    """
    pairs, errors = held_out_captions(clips), []
    readings: tuple[list[Any], list[Any]] = ([], [])
    for batch in _batches(clips):
        captions = [[pairs[i][1] for i in batch]]
        one, two = (each.films(captions, list(batch), size) for each in (maker, other))
        errors.append(float(np.square(one.astype(np.float32) - two).mean()))
        for kept, made in zip(readings, (one, two), strict=True):
            kept.extend(read(clip) for clip in made)
    subjects = [subject for subject, _ in pairs]
    of_one, of_two = (score_readings(zip(each, subjects, strict=True)) for each in readings)
    lost = max(of_one[name] - of_two[name] for name in ATTRIBUTES)
    return {**of_two, "lost": lost, "psnr": float(10 * np.log10(255**2 / np.mean(errors)))}


def psnr(one: Clips, two: Clips) -> float:
    """Return the peak signal-to-noise ratio of two arrays of pixels, in dB."""
    return float(10 * np.log10(255**2 / max(float(np.square(one.astype(np.float32) - two).mean()), 1e-6)))


def table_rows(
    table: str, maker: FilmMaker, tiny: FilmMaker | None, size: tuple[int, int], count: int, chunks: int
) -> dict[str, Figures]:
    """Return the rows of one of TABLES by way: streams have two, other tables one, "".

    tiny: the same films by the tiny decoder, for the table `tiny`. Displacement and travel are 1 where they are true clips'.
    """
    if table == "text":
        shown = text_to_video(maker, size, count)
        return {"": {**shown, **{name: shown[name] / true for name, true in true_moves(size, count).items()}}}
    if table == "picture":
        return {"": picture_to_video(maker, size, count)}
    if table == "streams":
        return {
            "context": hand_overs(maker, size, count, chunks),
            "last picture": hand_overs(maker, size, count, chunks, chained=True),
        }
    if table == "prompts":
        return {"": changed_prompt(maker, size, count)}
    assert tiny is not None, "the table `tiny` is of two decoders"
    return {"": another_decoder(maker, tiny, size, count)}


def _shares(matches: list[dict[str, bool]]) -> Figures:
    return {name: float(np.mean([match[name] for match in matches])) for name in ATTRIBUTES}
