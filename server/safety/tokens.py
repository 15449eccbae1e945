"""Who may ask: a secret token, or a session that was begun with it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque

SESSION_COOKIE = "edgereel_session"
SESSION_SECONDS = 30 * 24 * 3600
_MOST_TRIES = 10
_WINDOW = 60.0
_MOST_ADDRESSES = 10_000


class Tries:
    """Counts wrong guesses by address, so that a secret cannot be found by trying."""

    def __init__(self, most: int = _MOST_TRIES, window: float = _WINDOW) -> None:
        """most: wrong ones within so many seconds."""
        self._most, self._window = most, window
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds that an address has to wait before it may try again, 0 for none."""
        tries = self._wrong.get(address)
        now = time.monotonic()
        while tries and now - tries[0] > self._window:
            tries.popleft()
        return self._window - (now - tries[0]) if tries and len(tries) >= self._most else 0.0

    def note(self, address: str) -> None:
        """Note a wrong guess."""
        tries = self._wrong.setdefault(address, deque(maxlen=self._most))
        tries.append(time.monotonic())
        self._wrong.move_to_end(address)
        while len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)


def is_same(given: str, secret: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode("utf-8"))


def new_session(token: str) -> str:
    """Return a session's cookie: a random name and what only who knows the token can make of it."""
    name = secrets.token_hex(16)
    return f"{name}.{_seal(name, token)}"


def is_session(cookie: str, token: str) -> bool:
    """Tell whether a cookie was made by `new_session`."""
    name, _, seal = cookie.partition(".")
    return bool(name) and is_same(seal, _seal(name, token))


def _seal(name: str, token: str) -> str:
    return hmac.new(token.encode("utf-8"), f"session {name}".encode(), hashlib.sha256).hexdigest()
