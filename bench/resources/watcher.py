"""Looking at something again and again, from a thread of its own, while a block runs."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TypeVar

Derived = TypeVar("Derived", bound="Watcher")


class Watcher(ABC):
    """Takes readings before, during and after its block."""

    def __init__(self, interval: float) -> None:
        """interval: seconds between two readings."""
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def __enter__(self: Derived) -> Derived:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    @abstractmethod
    def look(self) -> None:
        """Take one reading now."""

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.look()
