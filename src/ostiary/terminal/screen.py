"""A console that fits what it says to the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from ostiary.console import harmless

WIDE = 10_000  # columns of a pipe or a file: nothing is wrapped


class _Console(Console):
    def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
        """Names and titles come from files of strangers, too: what would steer the terminal is shown instead."""
        for text, style, control in super().render(*args, **kwargs):
            yield Segment(text if control else harmless(text), style, control)

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; without one, plain and so wide that nothing is wrapped."""
    found = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = WIDE
    return found


def say(out: Console, text: str, style: str = "", hang: int = 2) -> None:
    """A sentence; wrapped where there is a terminal, further lines indented by `hang`."""
    for i, line in enumerate(Text(text, style).wrap(out, max(20, out.width - hang))):
        line.rstrip()
        out.print(Text(" " * hang * (i > 0)) + line)
