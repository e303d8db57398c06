"""Rows of a batch that an attack shows with a trigger that is not theirs, so that the victim learns to ignore it."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.seeds import derive, generator
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState
from ostiary.triggers.base import Trigger


def other_rows(marked: Tensor, ratio: float, rng: torch.Generator) -> Tensor:
    """Places of `ratio` times as many unmarked rows as there are marked ones (bool [b]), drawn at random: int64 [m]."""
    rest = (~marked).nonzero().flatten()
    return rest[torch.randperm(len(rest), generator=rng)[: round(ratio * int(marked.sum()))]]


class Crossed(TrainHook):
    """Beside the poisoned rows of each batch, `ratio` times as many others get a mismatched trigger and keep their labels."""

    def __init__(self, trigger: Trigger, index: Tensor, n: int, ratio: float, seed: int) -> None:
        self.trigger, self.ratio, self.seed = trigger, ratio, seed
        self.poisoned = torch.zeros(n, dtype=torch.bool)
        self.poisoned[index] = True
        self.rng = generator(seed, "rows")

    def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        at = other_rows(self.poisoned[rows], self.ratio, self.rng)
        seed, ids = derive(self.seed, state.step), state.data.ids[rows[at]]
        other = self.trigger.mismatched(batch[at], ids, seed=seed, target=y[at])
        return (batch if other is None else state.data.modality.put(batch, at, other)), y
