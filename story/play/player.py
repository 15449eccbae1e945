"""Plays a story to visitors: what they are shown and may choose next is made ahead, the most urgent piece first."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import Cancelled, EdgereelError, UsageError, brief
from ...core.progress import Progress
from ...runtime.reel import Reel
from ..film.film import FilmOptions, check_film, write_plan
from ..film.store import Store
from .show import Show, read_show, when_saved
from .tape import AHEAD, Tape
from .visit import Visit

MOST_VISITS = 4
_TOLD_EVERY = 0.2


class Player:
    """`run` is for the thread that has the reel, the rest for another. tell(event, **facts): see protocol.Answers.event.

    The story's beginning lies ready all the time. A story that was changed is read again when somebody begins it.
    """

    def __init__(self, story: Path, options: FilmOptions, reel: Reel, tell: Callable[..., None]) -> None:
        """Read the story. Raises SourceError for whatever is wrong in it, UsageError, MissingExtraError."""
        self._story, self._options, self._reel, self._tell = story, options, reel, tell
        self._store = Store(options.store)
        self._show = read_show(story, options, reel, 1)
        self._refused = self._show.saved  # a change that was looked at and found wrong
        self._changed = threading.Condition(threading.RLock())
        self._visits: dict[str, Visit] = {}
        self._opening = Tape(self._show, ())
        self._dropped: list[Tape] = []
        self._closed = False
        self._told = 0.0
        self._filming = threading.Lock()

    @property
    def show(self) -> Show:
        """The story as it was read last."""
        return self._show

    def begin(self, id: str, choices: Sequence[int], credit: int) -> None:
        """Begin to show the story to somebody, from the beginning or behind some choices. Raises UsageError for too many."""
        with self._changed:
            if len(self._visits) >= MOST_VISITS:
                raise UsageError(f"{MOST_VISITS} visitors are here already: try again when one has gone")
            visit = Visit(id, choices, credit, self._tell)
            if not choices and self._is_current():
                self._seat(visit)
            self._visits[id] = visit
            self._changed.notify_all()

    def choose(self, id: str, number: int) -> None:
        """Go on with a choice. Raises UsageError for one that is not open."""
        with self._changed:
            visit = self._visit(id)
            leaving = [visit.tape, *visit.ahead.values()]
            if not visit.choose(number):
                raise UsageError(f"choice {number} is not open now")
            self._let_go(leaving)

    def give_credit(self, id: str, pictures: int) -> None:
        """Allow a visitor so many more pictures."""
        with self._changed:
            self._visit(id).give_credit(pictures)
            self._changed.notify_all()

    def leave(self, id: str) -> None:
        """Let go of all that was prepared for somebody."""
        with self._changed:
            visit = self._visits.pop(id, None)
            if visit is not None:
                leaving = [visit.tape, *visit.ahead.values()]
                visit.drop()
                self._let_go(leaving)

    def film(self, id: str, output: Path) -> dict[str, Any]:
        """Write the film of the way that a visitor has come to the end of, for a thread of its own; return its record.

        It ends when he goes. Raises UsageError where he is not at an end; what make_film raises.
        """
        with self._changed:
            tape = self._visit(id).tape
            if tape is None or tape.way is None or tape.way.last.choices:
                raise UsageError("the story has not come to an end")
            way, show = tape.way, tape.show
        target = check_film(output)
        with self._filming:
            plan = way.planner.finish()
            return write_plan(
                plan,
                self._reel,
                show.lettering,
                target,
                self._options,
                lambda *_: id in self._visits and not self._closed,
            )

    def close(self) -> None:
        """End `run`, and what it makes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Make piece after piece until `close`."""
        while self._go_on():
            pass
        with self._filming:  # its end is told by `film`
            pass

    def _go_on(self) -> bool:
        """Do what is most urgent, or wait for something; return whether there is to be more."""
        with self._changed:
            while self._dropped:
                self._dropped.pop().close()
            if self._closed:
                return False
            visit, tape = self._most_urgent()
            is_awaited = any(each.tape is None for each in self._visits.values())
            if tape is None and not is_awaited:
                self._changed.wait()
                return True
        if is_awaited:
            self._seat_all()
        elif tape is not None:
            self._work(visit, tape)
        return True

    def _work(self, visit: Visit | None, tape: Tape) -> None:
        """Make one piece of a tape."""
        shot, failure = None, None
        try:
            shot = tape.work(self._reel, self._store, self._options.private, self._progress(visit, tape))
        except Cancelled:
            return
        except EdgereelError as error:
            failure = str(error)
        except MemoryError as error:
            failure = f"not enough memory ({brief(error)})"
        except Exception as error:  # of libraries: a story that stops is told of in one line too
            failure = f"{type(error).__name__}: {brief(error)}"
        with self._changed:
            if failure is not None:
                # Whoever visits is not to learn where on this machine the story lies.
                tape.failure = failure.replace(f"{tape.show.file.source.path.parent}{os.sep}", "")
                self._tell("note", text=failure)
            if shot is not None:
                tape.put(shot)
            for each in self._visits.values():
                if each.tape is tape:
                    each.look_ahead()
                    each.pump()

    def _most_urgent(self) -> tuple[Visit | None, Tape | None]:
        """Return the tape that a piece is to be made of, None where all lies ready; and for whom, None for who comes next."""
        wishes = [
            (urgency, order, visit, tape)
            for order, visit in enumerate(self._visits.values())
            for urgency, tape in visit.wishes()
        ]
        if wishes:
            _, _, visit, tape = min(wishes, key=lambda wish: wish[:2])
            return visit, tape
        return None, self._opening if self._opening.wants(AHEAD) else None

    def _progress(self, visit: Visit | None, tape: Tape) -> Progress:
        def go_on(stage: str, done: int, total: int) -> bool:
            with self._changed:
                if self._closed or tape.dropped or any(each.tape is None for each in self._visits.values()):
                    return False
                now = time.monotonic()
                if visit is not None and visit.tape is tape and stage == "denoise":
                    if now - self._told > _TOLD_EVERY and not tape.shots:
                        self._told = now
                        visit.say_making(done, total)
                    return True
                return self._most_urgent()[1] is tape

        return go_on

    def _is_current(self) -> bool:
        return when_saved(self._story) in (self._show.saved, self._refused)

    def _seat_all(self) -> None:
        """Look at the story again, and begin to show it to those who wait."""
        if not self._is_current():
            saved = when_saved(self._story)
            try:
                show = read_show(self._story, self._options, self._reel, self._show.number + 1)
                if show.file.story.model != self._show.file.story.model:
                    raise UsageError(f"{self._story}: names another model now: start it again")
            except EdgereelError as error:
                self._refused = saved
                self._tell("note", text=f"the story as it was goes on: {error}")
            else:
                with self._changed:
                    self._let_go([self._opening])
                    self._show, self._opening = show, Tape(show, ())
                self._tell("show", **show_facts(show))
        with self._changed:
            for visit in self._visits.values():
                if visit.tape is None:
                    self._seat(visit)

    def _seat(self, visit: Visit) -> None:
        """Give somebody the beginning that lies ready, or one of his own."""
        if visit.wanted:
            visit.sit(self._show, Tape(self._show, visit.wanted))
        else:
            visit.sit(self._show, self._opening)
            self._opening = Tape(self._show, ())
        visit.look_ahead()
        visit.pump()

    def _visit(self, id: str) -> Visit:
        if id not in self._visits:
            raise UsageError("there is no such visit")
        return self._visits[id]

    def _let_go(self, tapes: Sequence[Tape | None]) -> None:
        """Have tapes closed that are shown to nobody any more, and look for what is most urgent now."""
        kept = {id(tape) for visit in self._visits.values() for tape in (visit.tape, *visit.ahead.values())}
        for tape in tapes:
            if tape is not None and id(tape) not in kept:
                tape.dropped = True
                self._dropped.append(tape)
        self._changed.notify_all()


def show_facts(show: Show) -> dict[str, Any]:
    """Return what a server is to know of a story: what its page shows, and the files that are heard."""
    return {"facts": show.facts(), "sounds": [str(path) for path in show.sounds]}
