"""One visitor of a story: where he is in it, and what lies ready for him."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from .show import Show
from .tape import AHEAD, SHOWN, Tape

_MOST_CREDIT = 1000


class Visit:
    """Everything here is done under the player's lock.

    tell: sends a visitor a message, or a picture. tape: what is shown, None until the story was looked at. ahead: what follows
    each choice that is open, by its number from 1. wanted: the choices to begin after.
    """

    def __init__(self, id: str, choices: Sequence[int], credit: int, tell: Callable[..., None]) -> None:
        self.id, self.wanted = id, tuple(choices)
        self.tape: Tape | None = None
        self.ahead: dict[int, Tape] = {}
        self._tell = tell
        self._credit, self._sent = credit, 0
        self._is_told_of_end = False

    def sit(self, show: Show, tape: Tape) -> None:
        """Begin to show a tape."""
        self.tape = tape
        self._say(type="started", **show.facts())
        self._say_way()

    def give_credit(self, pictures: int) -> None:
        """Allow so many more pictures to be sent."""
        self._credit = min(_MOST_CREDIT, self._credit + pictures)
        self.pump()

    def choose(self, number: int) -> bool:
        """Go on with a choice, at once where it lies ready; return whether there is such a choice."""
        if self.tape is None or self.tape.way is None or not 1 <= number <= len(self.tape.way.last.choices):
            return False
        before = self.tape
        chosen = self.ahead.pop(number, None)
        if chosen is None or chosen.failure is not None:
            if chosen is not None:
                chosen.dropped = True
            chosen = Tape(before.show, (*before.choices, number), before)
        chosen.is_free = True
        self.drop()
        self.tape, self._is_told_of_end = chosen, False
        self._say_way()
        self.pump()
        self.look_ahead()
        return True

    def drop(self) -> None:
        """Let go of all that lies ready."""
        for tape in [*self.ahead.values(), *filter(None, [self.tape])]:
            tape.dropped = True
        self.ahead, self.tape = {}, None

    def look_ahead(self) -> None:
        """Begin tapes of what follows each open choice, once it is known which those are."""
        if self.tape is not None and self.tape.way is not None and not self.ahead:
            for number in range(1, len(self.tape.way.last.choices) + 1):
                self.ahead[number] = Tape(self.tape.show, (*self.tape.choices, number), self.tape)

    def wishes(self) -> list[tuple[tuple[int, int, int], Tape]]:
        """Return the tapes of which a piece is missing, each with how urgent it is, the least first."""
        found = []
        if self.tape is not None and self.tape.wants(SHOWN):
            found.append(((0 if self.tape.is_short else 2, len(self.tape.shots), 0), self.tape))
        found += [((1, tape.scenes, number), tape) for number, tape in self.ahead.items() if tape.wants(AHEAD)]
        return found

    def pump(self) -> None:
        """Send what lies ready, as far as there is credit; at the end say what is open."""
        if (tape := self.tape) is None:
            return
        while self._credit and tape.shots:
            jpeg, cues = tape.take()
            if cues is not None:
                self._say(type="cue", picture=self._sent, **cues)
            self._tell("picture", visit=self.id, number=self._sent, jpeg=base64.b64encode(jpeg).decode("ascii"))
            self._sent, self._credit = self._sent + 1, self._credit - 1
        if tape.shots or self._is_told_of_end:
            return
        if tape.failure is not None:
            self._is_told_of_end = True
            self._say(type="failed", message=tape.failure)
        elif tape.ended:
            self._is_told_of_end = True
            assert tape.way is not None
            self._say(type="waits" if tape.way.last.choices else "ends", picture=self._sent)

    def say_making(self, done: int, total: int) -> None:
        """Tell how far what the visitor waits for is."""
        self._say(type="making", done=done, total=total)

    def _say_way(self) -> None:
        assert self.tape is not None
        self._say(type="way", choices=list(self.tape.choices), picture=self._sent)

    def _say(self, **message: Any) -> None:
        self._tell("visit", visit=self.id, message=message)
