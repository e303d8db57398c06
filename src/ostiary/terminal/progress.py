"""How far a run is: live bars, or a line now and then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ostiary.terminal.screen import console

if TYPE_CHECKING:
    from ostiary.experiment.runner import Listener, Progress

SHOWN = 8  # running stages drawn at once


@contextmanager
def progress(*, off: bool) -> Iterator[Listener | None]:
    """A listener for a run: live bars on a terminal, a line now and then elsewhere, nothing if off."""
    if off:
        yield None
        return
    err = console(stderr=True)
    if not err.is_terminal:
        yield Lines(err)
        return
    bars = Bars(err)
    with bars.shown:
        yield bars


def _summary(state: Progress) -> str:
    failed = f", {state.failed} failed" if state.failed else ""
    reused = f" ({state.reused} reused)" if state.reused else ""
    return f"{state.done} of {state.total} stages done{reused}{failed}"


class Lines:
    """At most a dozen lines for a whole run."""

    def __init__(self, out: Console) -> None:
        self.out, self.last = out, -1

    def __call__(self, state: Progress) -> None:
        ended = state.done + state.failed
        if self.last < 0 or ended >= self.last + 1 + state.total // 10 or (ended == state.total > self.last):
            self.last = ended
            self.out.print(_summary(state))


class Bars:
    """One bar for all stages and one for each that runs now; gone when the run ends."""

    def __init__(self, out: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Shown

        text = TextColumn("{task.description}", markup=False)
        self.shown = Shown(BarColumn(20), text, TimeElapsedColumn(), console=out, transient=True)
        self.all = self.shown.add_task("starting", total=None)
        self.tasks: dict[str, Any] = {}

    def __call__(self, state: Progress) -> None:
        self.shown.update(self.all, total=max(1, state.total), completed=state.done + state.failed, description=_summary(state))
        for key in [k for k in self.tasks if k not in state.running]:
            self.shown.remove_task(self.tasks.pop(key))
        for key, (name, what, share) in state.running.items():
            if key not in self.tasks and len(self.tasks) < SHOWN:
                self.tasks[key] = self.shown.add_task("", total=1.0)
            if key in self.tasks:
                self.shown.update(self.tasks[key], completed=share, description=what or name)
