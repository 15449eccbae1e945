"""The pieces of a film that are encoded by themselves, and kept: after a change the others go into the film as they are.

A piece is a scene, or a dissolve between two. It is kept in the cache folder under a hash of all that decides its packets. So that
a film is the same whatever of it was kept, its pieces are always encoded apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ...core.errors import OutputError
from ...core.files import folder_prefix, keep_within, output_errors, remove, sweep
from ...core.paths import find_cache_folder
from ...core.version import __version__
from ...media.captions import Caption, shown_on
from ...media.lettering import Lettering
from ...runtime.video.output import Output
from .picture_cache import picture_key
from .pictures import FilmPictures, Picture, Stretch, film_stretches, scene_fades
from .plan import FilmPlan

LIMIT = 8 * 2**30
SUFFIX = ".mp4"
INGREDIENTS = 100
"""Clips that a signed film names: each is hashed once more, and its name is in the file."""
_FEWEST = 4
"""Pictures of a piece: each begins with one that is encoded whole, which for fewer is dear."""


def film_pieces(plan: FilmPlan) -> list[tuple[Stretch, ...]]:
    """Return a film's pieces, one after the other."""
    pieces: list[tuple[Stretch, ...]] = []
    few: tuple[Stretch, ...] = ()
    for stretch in film_stretches(plan):
        few = (*few, stretch)
        if _count(few) >= _FEWEST:
            pieces.append(few)
            few = ()
    if few:
        pieces[-1:] = [(*(pieces[-1] if pieces else ()), *few)]
    return pieces


class PieceEncoder:
    """Gives a film's pieces as files: those that are kept, the others as they are encoded. They are there for a `with` block.

    target: what the film is written as. captions: see FilmPictures. threads: of the reel. encoded: how many pictures had to be.
    """

    def __init__(
        self,
        plan: FilmPlan,
        target: Output,
        pictures: Callable[[], FilmPictures],
        lettering: Lettering | None,
        captions: Sequence[Caption] | None,
        threads: int | None,
        limit: int = LIMIT,
    ) -> None:
        self.encoded = 0
        self._plan, self._target, self._pictures, self._limit = plan, target, pictures, limit
        self._captions, self._threads = captions, threads
        self._pieces, self._paths = film_pieces(plan), list[Path]()
        self._beside: Path | None = None
        self._stack = contextlib.ExitStack()
        self._common = {
            "release": __version__,
            "encoder": [av.__version__, {name: list(each) for name, each in sorted(av.library_versions.items())}],
            "size": plan.size.shown,
            "fit": plan.fit,
            "fps": str(Fraction(plan.fps)),
            "crf": target.crf,
            "label": None if target.label is None else asdict(target.label),
            "letters": None if lettering is None else _letters(lettering),
        }

    def __enter__(self) -> PieceEncoder:
        """Have a folder for the pieces: the user's, or one beside the film that goes at the end."""
        user = find_cache_folder()
        folder = None if user is None else user / "pieces"
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                sweep(folder)
        except OSError:
            folder = None
        if folder is None or not os.access(folder, os.W_OK):
            folder = self._folder_beside()
        self._paths = [folder / (self._key(piece) + SUFFIX) for piece in self._pieces]
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the folder where it was not the user's."""
        self._stack.close()

    def files(self, done: Callable[[int], object]) -> Iterator[Path]:
        """Yield the pieces' files. done: is told of pictures as they are encoded. Raises what Output.write raises."""
        pictures, at = self._pictures(), 0
        for index, piece in enumerate(self._pieces):
            if not _kept(self._paths[index], _count(piece)):

                def seen(frames: Iterator[Picture], at: int = at) -> Iterator[Picture]:
                    for number, frame in enumerate(frames, start=1):
                        yield frame
                        done(at + number)

                try:
                    self._target.piece(self._paths[index], seen(pictures.of(piece)))
                except OutputError:
                    if self._paths[index].parent == self._beside:
                        raise
                    self._leave_cache(index)
                    self._target.piece(self._paths[index], seen(pictures.of(piece)))
                self.encoded += _count(piece)
                keep_within(self._paths[index].parent, SUFFIX, self._limit, set(self._paths))
            at += _count(piece)
            done(at)
            yield self._paths[index]

    def _leave_cache(self, index: int) -> None:
        """Have the pieces from one on that are not kept beside the film: a cache that is full costs what it saves, no film."""
        folder = self._folder_beside()
        # By its key a piece is the same wherever it stands, so one that is there already stays where it is.
        self._paths[index:] = [path if path.is_file() else folder / path.name for path in self._paths[index:]]

    def _folder_beside(self) -> Path:
        """Return a folder beside the film that goes at the end. Raises OutputError."""
        if self._beside is None:
            prefix = folder_prefix(".edgereel-pieces-")
            with output_errors(self._target.path):
                made = tempfile.TemporaryDirectory(dir=self._target.path.parent, prefix=prefix)
            self._beside = Path(self._stack.enter_context(made))
        return self._beside

    @property
    def clips(self) -> tuple[Path, ...]:
        """Return the files of pieces that show what the model made, each once, INGREDIENTS at most."""
        found = [
            path
            for piece, path in zip(self._pieces, self._paths, strict=True)
            if any(self._plan.scenes[each.scene].request is not None and not each.dissolves for each in piece)
        ]
        return tuple(dict.fromkeys(found))[:INGREDIENTS]

    def _key(self, piece: Sequence[Stretch]) -> str:
        """Return the hash of all that decides a piece's packets."""
        facts: dict[str, Any] = {**self._common, "stretches": [self._stretch(each) for each in piece]}
        if self._captions is not None:
            fps = Fraction(self._plan.fps)
            facts["captions"] = shown_on(self._captions, fps, piece[0].start, _count(piece))
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _stretch(self, stretch: Stretch) -> list[Any]:
        shown = [stretch.scene - 1] * stretch.dissolves + [stretch.scene]
        scenes = []
        for index in shown:
            scene = self._plan.scenes[index]
            first = stretch.start - scene.start
            made: Any = None if scene.card is None else asdict(scene.card)
            if scene.request is not None:
                made = picture_key(scene.key or "", scene.request.decoder, self._threads)
            scenes.append([made, first, scene.pictures, scene_fades(self._plan, index)])
        return [stretch.count, scenes]


def _count(piece: Sequence[Stretch]) -> int:
    return sum(stretch.count for stretch in piece)


def _letters(lettering: Lettering) -> list[str]:
    """Return what decides how letters look: the font, and the library that draws them."""
    import PIL

    try:
        return [hashlib.sha256(lettering.font.read_bytes()).hexdigest(), PIL.__version__]
    except OSError as error:
        raise OutputError(f"{lettering.font}: cannot be read: {error.strerror or error}") from error


def _kept(path: Path, count: int) -> bool:
    """Tell whether a piece is there and whole; one that is not is removed."""
    try:
        with av.open(str(path), format="mp4") as piece:
            # The index is in front: a file that was cut says how many packets it should have.
            found = sum(packet.size > 0 and not packet.is_corrupt for packet in piece.demux(video=0))
            is_its_own = piece.metadata.get("comment") == path.stem  # not another's in its place
        if found == count and is_its_own:
            os.utime(path)
            return True
    except (OSError, av.FFmpegError, IndexError):
        pass
    remove(path)
    return False
