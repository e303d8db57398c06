"""Logger and progress: silent as a library; the command line switches them on."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger("ostiary")
log.addHandler(logging.NullHandler())

Report = Callable[[str, float], None]  # (what, share done in [0, 1])
_listener: ContextVar[Report | None] = ContextVar("ostiary-progress", default=None)


_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_said: set[str] = set()


def harmless(text: str) -> str:
    """With control characters written out (but line ends and tabs), so that no text steers the terminal that shows it."""
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def warn_once(sentence: str) -> None:
    """A warning that a process gives once, however many methods come upon it."""
    if sentence not in _said:
        _said.add(sentence)
        log.warning(sentence)


def progress(what: str, done: float) -> None:
    """Tell whoever listens that `what` is `done` (0 to 1)."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done)


@contextmanager
def listening(listener: Report) -> Iterator[None]:
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
