"""Work that goes on in a thread of its own while its caller makes what is to be worked on next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Behind(Generic[Item]):
    """Calls `work` with one item after the other, in their order. It is for one caller, inside a `with` block.

    What `work` raises comes out of the caller's next `add` or `finish`; items after that are dropped, as they are where the
    block ends without `finish`. Outside of the block nothing runs.
    """

    def __init__(self, work: Callable[[Item], None], room: int) -> None:
        """room: number of items that may wait."""
        self._work, self._room = work, room
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = self._dropped = self._busy = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgereel encode")

    def __enter__(self) -> Behind[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = self._dropped = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def add(self, item: Item) -> None:
        """Hand over an item, once there is room for it."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._room or self._error is not None)
            self._raise()
            self._waiting.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all items are done."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy) or self._error is not None)
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting) or self._ended)
                if self._dropped or not self._waiting:
                    return
                item = self._waiting.popleft()
                self._busy = True
            try:
                self._work(item)
            except BaseException as error:  # it is the caller's
                with self._changed:
                    self._error, self._busy = error, False
                    self._waiting.clear()
                    self._changed.notify_all()
                return
