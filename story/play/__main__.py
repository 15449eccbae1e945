"""`python -m edgereel.story.play`: plays a story on command; `jobs/protocol.py` has the language.

Commands: `open` (story, options of the film and of the reel), then `begin`, `choose`, `credit`, `leave` and `film`, each with the
visit that it is of. Events: `opening`, how far that is; `picture` with `visit`, its number and a JPEG file; `visit`, with a
`message` for the visitor's page; `show`, when the story was read again; `note`, a line for who runs it. The end of stdin is the
end, in order.

The reel runs in the main thread. Commands are read in another, which answers them beside what is being made; so what lies ready is
sent at once.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from ...core.errors import EdgereelError, UsageError, brief
from ...jobs.protocol import Answers, commands
from ...media.label import Label
from ...provenance.marks import Marks
from ...provenance.policy.screen import Policy
from ...runtime.batch import ReelOptions
from ..film.film import FilmOptions, load_story
from .player import Player, show_facts

_END_SECONDS = 10.0


class Stage:
    """Answers commands."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._player: Player | None = None
        self._opening: dict[str, Any] | None = None
        self._is_asked = threading.Event()
        self._ended = False

    def read(self) -> None:
        """Take commands until they end; then end the process."""
        for command in commands():
            try:
                self._do(command)
            except Exception as error:
                self._refuse(command.get("n"), error)
        self._ended = True
        self._is_asked.set()
        if self._player is not None:
            self._player.close()
        threading.Timer(_END_SECONDS, os._exit, [0]).start()

    def run(self) -> None:
        """Open the story that the first command names, and make what visitors are shown. Returns when commands have ended."""
        self._is_asked.wait()
        if (command := self._opening) is None:
            return
        try:
            story, options = Path(command["story"]), film_options(command)
            bundle = options.bundle
            if bundle is None and (model := load_story(story, options.font)[0].story.model) is not None:
                bundle = Path(model)
            with ReelOptions(command["engine"], command["threads"], command["memory"]).open(bundle, self._tell) as reel:
                player = Player(story, options, reel, self._answers.event)
                self._player = player
                self._answers.answer(command.get("n"), **show_facts(player.show))
                if not self._ended:
                    player.run()
        except Exception as error:
            self._refuse(command.get("n"), error)

    def _tell(self, stage: str, done: int, total: int) -> bool:
        """Tell how far opening the bundle is; it ends where nobody waits for it any more."""
        self._answers.event("opening", stage=stage, done=done, total=total)
        return not self._ended

    def _do(self, command: dict[str, Any]) -> None:
        name, number = command["do"], command.get("n")
        if name == "open":
            self._opening = command
            self._is_asked.set()
            return
        if (player := self._player) is None:
            raise UsageError("nothing is open: the first command is open")
        visit = str(command["visit"])
        if name == "begin":
            player.begin(visit, [int(choice) for choice in command["choices"]], int(command["credit"]))
        elif name == "choose":
            player.choose(visit, int(command["choice"]))
        elif name == "credit":
            player.give_credit(visit, int(command["pictures"]))
        elif name == "leave":
            player.leave(visit)
        elif name == "film":
            threading.Thread(target=self._film, args=(player, visit, command), daemon=True).start()
            return
        else:
            raise UsageError(f"a player does open, begin, choose, credit, leave, film, not {name!r}")
        self._answers.answer(number)

    def _film(self, player: Player, visit: str, command: dict[str, Any]) -> None:
        try:
            record = player.film(visit, Path(command["output"]))
            self._answers.answer(command.get("n"), seconds=record["seconds"], made=record["made"])
        except Exception as error:
            self._refuse(command.get("n"), error)

    def _refuse(self, number: Any, error: Exception) -> None:
        known = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == EdgereelError.__module__]
        if known:
            self._answers.refuse(number, str(error), known[0])
        elif isinstance(error, MemoryError):
            self._answers.refuse(number, f"not enough memory ({brief(error)})", "OutOfMemory")
        else:
            self._answers.refuse(number, f"{type(error).__name__}: {brief(error)}", type(error).__name__)


def film_options(command: dict[str, Any]) -> FilmOptions:
    """Return what a command says of the film. Raises UsageError."""
    policy = command["policy"]
    label = command["label"]
    return FilmOptions(
        bundle=None if command["bundle"] is None else Path(command["bundle"]),
        format=command["format"],
        font=Path(command["font"]) if command["font"] is not None else FilmOptions.font,
        marks=Marks.choose(command["mark"], required=command["require_signature"]),
        label=None if label is None else Label(label),
        private=command["private"],
        screen=None if policy is None else Policy.read(policy).check,
        speaker=command["speaker"],
    )


def main() -> None:
    """Play on the process's own pipes."""
    stage = Stage(Answers())
    threading.Thread(target=stage.read, daemon=True).start()
    stage.run()


if __name__ == "__main__":
    main()
