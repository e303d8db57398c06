"""What the benchmarks share: data with a fallback, a victim's own network, CPU time of interleaved repeats, the last line."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.errors import InvalidInput
from ostiary.models.victim import Victim

Net = TypeVar("Net", bound=nn.Module)


def one_thread() -> None:
    """One core per process, so that CPU time measures work and not waiting."""
    torch.set_num_threads(1)


def tu(name: str) -> tuple[Splits, str]:
    """A TU data set from OSTIARY_DATA and its name; the embedded molecules where it is not there."""
    try:
        if "OSTIARY_DATA" not in os.environ:
            raise InvalidInput("OSTIARY_DATA is not set")
        return build("dataset", {"name": "tu", "set": name}).load(0), name
    except InvalidInput as error:
        print(f"{name} is missing, solubility is used instead ({error})")
        return build("dataset", "solubility").load(0), "solubility"


def clique_victim() -> tuple[Victim, Dataset, Context, str]:
    """(a GIN of AIDS that Sub-BA has backdoored, the defender's clean graphs, the context, the set's name)."""
    splits, name = tu("AIDS")
    ctx = Context(0, architecture=build("victim", "gin"), trainer=build("trainer", {"name": "trainer", "epochs": 10}))
    poisoned = build("attack", {"name": "sub-ba", "rate": 0.1}).poison(splits, ctx.within("attack"))
    return ctx.fit(poisoned.splits.train), splits.clean, ctx, name


def inside(victim: Victim, kind: type[Net]) -> Net:
    """The network that `victim` wraps, one of the library's own, by the class that it is of."""
    assert isinstance(victim.module, kind)
    return victim.module


def cpu_seconds(*functions: Callable[[], object], repeats: int = 3, warm: int = 0) -> list[float]:
    """Median CPU seconds of each function, after `warm` rounds that do not count; the repeats alternate, so that a busy
    machine slows all of them alike."""
    return _medians(functions, repeats, warm, time.process_time)


def wall_seconds(*functions: Callable[[], object], repeats: int = 3, warm: int = 0) -> list[float]:
    """The same by the clock, for work on several cores."""
    return _medians(functions, repeats, warm, time.perf_counter)


def _medians(functions: Sequence[Callable[[], object]], repeats: int, warm: int, now: Callable[[], float]) -> list[float]:
    times: list[list[float]] = [[] for _ in functions]
    for i in range(-warm, repeats):
        for function, found in zip(functions, times, strict=True):
            start = now()
            function()
            if i >= 0:
                found.append(now() - start)
    return [statistics.median(found) for found in times]


def report(name: str, ratio: float, goal: float) -> None:
    """The line that a script reads: a ratio below its goal is a regression."""
    print(f"{name} ratio {ratio:.1f} goal {goal:g}")
