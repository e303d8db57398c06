"""Supervised contrastive learning in which only trusted samples may attract each other by their label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.seeds import scoped
from ostiary.training.augment import views
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


def positives(y: Tensor, trusted: Tensor) -> Tensor:
    """Bool [n, n]: who is drawn to whom. Everyone to himself (his other view), the trusted also to trusted ones of their
    label. y: int64 [n]; trusted: bool [n]."""
    alike = (y[:, None] == y) & trusted[:, None] & trusted
    return alike | torch.eye(len(y), dtype=torch.bool, device=y.device)


def contrast(points: Tensor, drawn: Tensor, temperature: float, base: float = 0.07) -> Tensor:
    """Khosla et al., Supervised contrastive learning, NeurIPS 2020, arXiv:2004.11362, Eq. 2 times temperature / base.

    points: unit vectors [2 n, d], the second views after all first ones; drawn: bool [n, n] from `positives`.
    """
    own = torch.eye(len(points), dtype=torch.bool, device=points.device)
    logs = (points @ points.t() / temperature).masked_fill(own, -torch.inf).log_softmax(1)
    wanted = drawn.repeat(2, 2) & ~own
    return -(temperature / base) * (torch.where(wanted, logs, 0.0).sum(1) / wanted.sum(1)).mean()


class Contrast(TrainHook):
    """Trains features by `contrast` through a projection of their width -> their width -> `out`, which is then dropped.

    trusted: bool, one per training sample. Two views of each batch: `augment.views` of images, else `Modality.vary`.
    """

    def __init__(self, trusted: Tensor, temperature: float, key: int, rng: torch.Generator, out: int = 128) -> None:
        self.trusted, self.temperature, self.key, self.rng, self.out = trusted, temperature, key, rng, out
        self.projection: nn.Module = nn.Identity()

    def on_start(self, state: TrainState) -> None:
        one = state.data.modality.take(state.data.inputs, torch.zeros(1, dtype=torch.int64))
        found = state.victim.embed(one)[1]
        width = found.shape[1]
        with scoped(self.key, "projection"):
            self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.out))
        self.projection.to(state.victim.device)
        state.optimizer.add_param_group({"params": list(self.projection.parameters())})

    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
        return state.data.modality.join([self.view(state.data, batch) for _ in range(2)]), y

    def view(self, data: Dataset, batch: Inputs) -> Inputs:
        return views(batch, self.rng) if isinstance(batch, Tensor) else data.modality.vary(batch, self.rng)

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        points = F.normalize(self.projection(state.victim.features(batch)).float(), dim=1)
        return contrast(points, positives(y, self.trusted[rows].to(y.device)), self.temperature)
