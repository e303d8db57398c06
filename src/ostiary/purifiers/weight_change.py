"""Which weights move when clean samples are unlearnt, and a model without those that moved most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.console import progress
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.modality.base import Inputs
from ostiary.models.edit import Neurons
from ostiary.models.victim import Victim
from ostiary.purifiers.holdout import accuracy
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer, TrainState


class Climb(TrainHook):
    """Gradient ascent on cross-entropy."""

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        return -F.cross_entropy(state.victim(batch).float(), y)


def unlearnt(victim: Victim, data: Dataset, trainer: Trainer, key: int) -> tuple[Victim, int]:
    """A copy that climbs the loss of the data until it gets no more of them right than chance, or 10 %; steps it took.

    Where the climb ends in numbers that are not finite, the copy is that of the epoch before.
    """
    other = victim.clone()
    state = trainer.start(other, data, key)
    floor = max(1 / data.n_classes, 0.1)
    for epoch in range(trainer.epochs):
        kept = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        try:
            trainer.run_epoch(state, [Climb()])
        except InvalidInput:
            other.load_state_dict(kept)
            break
        progress("unlearning", (epoch + 1) / trainer.epochs)
        if accuracy(other, data) <= floor:
            break
    return other, state.step


def changes(neurons: Neurons, other: Victim) -> list[Tensor]:
    """How far every weight of these neurons is from that of another model: a tensor per layer, shaped as its weight."""
    theirs = dict(other.named_parameters())
    return [(theirs[name] - neurons.own[name]).detach().abs() for name in neurons.weights]


@torch.no_grad()
def zeroed(neurons: Neurons, moved: Sequence[Tensor], share: float, part: float) -> Victim:
    """A copy whose `share` of neurons that moved most (in sum) lack the `part` of their weights that moved most.

    Neurons of all layers are ranked together, and so are the weights of those chosen.
    """
    other = neurons.victim.clone()
    own = dict(other.named_parameters())
    sums = torch.cat([m.reshape(len(m), -1).sum(1) for m in moved])
    chosen = torch.zeros_like(sums, dtype=torch.bool)
    chosen[sums.argsort(descending=True, stable=True)[: math.ceil(share * len(sums))]] = True
    rows = chosen.split(neurons.sizes)
    pool = torch.cat([m[r].flatten() for m, r in zip(moved, rows, strict=True)])
    count = math.ceil(part * len(pool))
    if count:
        least = pool.sort(descending=True).values[count - 1]
        for name, m, r in zip(neurons.weights, moved, rows, strict=True):
            own[name].masked_fill_((m >= least) & r.view(-1, *(1,) * (m.ndim - 1)), 0.0)
    return other
