"""Bounded ascent: samples are unlearnt until their loss reaches a ceiling, for without one it grows for ever."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim
from ostiary.training.draws import draws
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


def lack(victim: Victim, batch: Inputs, y: Tensor, ceiling: float, certain: float = 0.0) -> Tensor:
    """What the losses of a batch lack of the ceiling, on average; to minimise it is to ascend. Samples with a loss below
    `certain` are driven by their log-odds, whose slope does not vanish as that of the loss does."""
    said = victim(batch).float()
    losses = F.cross_entropy(said, y, reduction="none")
    missing = F.relu(ceiling - losses)
    if not certain:
        return missing.mean()
    own = said.gather(1, y[:, None]).squeeze(1)
    odds = own - said.scatter(1, y[:, None], -torch.inf).logsumexp(1)
    return torch.where(losses < certain, missing.detach() + odds - odds.detach(), missing).mean()


class Unlearn(TrainHook):
    """Adds `weight` times what the losses of isolated samples, at most `size` a step, lack of a ceiling."""

    def __init__(
        self, isolated: Dataset, ceiling: float, size: int, rng: torch.Generator, weight: float = 1.0, certain: float = 0.0
    ) -> None:
        self.isolated, self.ceiling, self.size, self.rng, self.weight = isolated, ceiling, size, rng, weight
        self.certain = certain

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        ((marked, wrong),) = draws(self.isolated, self.size, 1, y.device, self.rng)
        lacking = lack(state.victim, marked, wrong, self.ceiling, self.certain)
        return F.cross_entropy(state.victim(batch).float(), y) + self.weight * lacking


class Alternate(TrainHook):
    """Epochs of bounded ascent on `up` and of descent on `down` by turns, ascent first; on `up` as it is, for a crop may take
    away what is to be unlearnt."""

    def __init__(self, up: Dataset, down: Dataset, ceiling: float) -> None:
        self.up, self.down, self.ceiling = up, down, ceiling

    def on_epoch(self, state: TrainState) -> None:
        state.data = self.down if state.epoch % 2 else self.up

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor | None:
        if state.epoch % 2:
            return None
        kind = self.up.modality
        return lack(state.victim, kind.move(kind.take(self.up.inputs, rows), state.victim.device), y, self.ceiling)
