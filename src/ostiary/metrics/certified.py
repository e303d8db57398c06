"""Certified accuracy: inputs called rightly and proven to stay so, over the size of the change."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ostiary.metrics.intervals import rate
from ostiary.purifiers.certificate import Certificate

MOST = 4096  # the curve ends here, however large a radius is
FEW = 8  # and does not end before here
GRID = (1, 2, 4, 8)


def certified(found: Certificate, y: Tensor) -> dict[str, Any]:
    """For each kind of change and every radius the share, with a Wilson interval; `joint`: for pairs of radii that any input
    reaches; `alpha`, the chance of an input's certificate to be wrong.

    y: int64 [n], the true classes. Radii are 0, 1, 2, 4, ... up to the first that no input reaches.
    """
    right = found.prediction == y

    def share(**changes: int) -> dict[str, float | int]:
        return rate(int((right & found.covers(**changes)).sum()), len(y))

    curves: dict[str, Any] = {"alpha": found.alpha}
    for kind in found.costs:
        curves[kind] = {str(r): share(**{kind: r}) for r in _radii(found, kind)}
    if {"edges", "poisoned"} <= set(found.costs):
        pairs = [(r, m) for r in GRID for m in GRID if bool(found.covers(poisoned=r, edges=m).any())]
        curves["joint"] = {f"poisoned {r}, edges {m}": share(poisoned=r, edges=m) for r, m in pairs}
    return curves


def _radii(found: Certificate, kind: str) -> list[int]:
    reached = found.radius(kind)
    assert reached is not None
    largest = int(reached.max()) if len(reached) else 0
    steps = [0, *(2**i for i in range(MOST.bit_length()))]
    return [r for i, r in enumerate(steps) if r <= FEW or steps[i - 1] <= largest]
