"""What a defender measures on the clean sample alone: a part held out of tuning, and how deep pruning may go by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from ostiary.component import Component
from ostiary.data.dataset import Dataset
from ostiary.data.source import stratified
from ostiary.evidence import Oracle
from ostiary.models.victim import Victim
from ostiary.seeds import generator
from ostiary.thresholds import EXACT

T = TypeVar("T")
BY_TEST = {"chosen by": "accuracy and success on the test set"}  # what is noted where an oracle was asked
LEAST = 2  # held-out samples per class, below which a class says nothing


def hold_out(clean: Dataset, seed: int, share: float = 0.2) -> tuple[Dataset, Dataset]:
    """(part to tune on, part to check on), class by class.

    More than `share` is held out where a class would get fewer than LEAST; where that would be more than half, nothing
    is: both parts are the whole sample, and what is checked has been tuned on.
    """
    smallest = int(torch.bincount(clean.y)[clean.y.unique()].min())
    rate = max(share, LEAST / smallest)
    held = stratified(clean.y, rate, generator(seed, "hold out")) if rate <= 0.5 else torch.zeros(len(clean), dtype=torch.bool)
    counts = [int(held[clean.y == c].sum()) for c in clean.y.unique().tolist()]
    if min(counts) < LEAST:
        return clean, clean
    return clean.take((~held).nonzero().flatten()), clean.take(held.nonzero().flatten())


def accuracy(victim: Victim, data: Dataset) -> float:
    """Share of the data that the victim calls right."""
    return float((victim.predict(data.inputs).argmax(1) == data.y).double().mean())


def holds(found: float, before: float, tolerance: float) -> bool:
    """Whether an accuracy is at most `tolerance` below what it was."""
    return found >= before - tolerance - EXACT


class Choice(Component):
    """Options of a purifier that chooses a level, or whose authors choose an epoch. oracle: choose by accuracy and success on
    the test set, as some papers' code does; only to reproduce their figures, and the record says so."""

    kind = "purifier"
    oracle: bool = False

    def needed(self) -> frozenset[str]:
        base: frozenset[str] = super().needed()  # type: ignore[misc]
        return base | {"oracle"} if self.oracle else base

    def at_odds(self, what: str, given: object) -> str:
        """Why a level that is given and an oracle exclude each other, or nothing."""
        if given is None or not self.oracle:
            return ""
        return f"a {what} that is given leaves an oracle nothing to choose; leave one of the two out"


def deepest(
    levels: Sequence[T], make: Callable[[T], Victim], check: Dataset, tolerance: float, oracle: Oracle | None = None
) -> tuple[T, dict[str, Any]]:
    """The last level before the accuracy on `check` of the victim made has fallen by more than `tolerance` below that of
    the first level's, and what to note of it. Levels are tried in order, and none after the first that costs too much.

    With an oracle: the level of all whose accuracy less ASR on the test set is largest.
    """
    if oracle is not None:
        rates = [oracle(make(level)) for level in levels]
        i = max(range(len(levels)), key=lambda i: rates[i][0] - rates[i][1])
        return levels[i], dict(BY_TEST)
    best, first = levels[0], accuracy(make(levels[0]), check)
    now = first
    for level in levels[1:]:
        found = accuracy(make(level), check)
        if not holds(found, first, tolerance):
            break
        best, now = level, found
    return best, {"checked on": len(check), "accuracy there before": first, "accuracy there pruned": now}


def halved(share: float, make: Callable[[float], Victim], check: Dataset, least: float) -> tuple[float, float]:
    """The share, halved at most twice while the accuracy on `check` of the victim made is below `least`, and that accuracy;
    where it always is, the share that it is highest for."""
    tried = {share: accuracy(make(share), check)}
    while len(tried) < 3 and tried[share] < least - EXACT:
        share /= 2
        tried[share] = accuracy(make(share), check)
    best = max(tried, key=lambda s: (tried[s] >= least - EXACT, tried[s]))
    return best, tried[best]
