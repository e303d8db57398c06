"""Loss flooding, of a batch's mean and of every sample."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.base import Inputs
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class Flooding(TrainHook):
    """Keeps the loss of a batch at `level`: it climbs once it is below (Ishida et al., ICML 2020, arXiv:2002.08709)."""

    def __init__(self, level: float) -> None:
        self.level = level

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        return (F.cross_entropy(state.victim(batch).float(), y) - self.level).abs() + self.level


class Trap(TrainHook):
    """Keeps the loss of every sample near gamma (Li et al., NeurIPS 2021, arXiv:2110.11571)."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        losses = F.cross_entropy(state.victim(batch).float(), y, reduction="none")
        return ((losses - self.gamma).sign().detach() * losses).mean()
