"""What a generator of new nodes is asked for beside success."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ostiary.models.victim import Victim


class Made(NamedTuple):
    """One proposal: for n nodes x float [n, d], new nodes' features [n, t, d], adjacency [n, t, t], and what the surrogate
    makes of the nodes, embedding [n, h]."""

    x: Tensor
    features: Tensor
    adjacency: Tensor
    embedding: Tensor


class Penalty:
    """What an attack asks of its new nodes beside success; nothing by default."""

    def __call__(self, made: Made, victim: Victim) -> Tensor | float:
        return 0.0
