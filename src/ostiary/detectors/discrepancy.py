"""Where a model's reading of nodes parts from their class: first layers, features that speak for labels, unlearning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.modality.nodes import Nodes
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


def looked(victim: Victim, train: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """What the first layer makes of every node, float [N, h]; the features that speak for a node's label or, where it has
    none, for the class that it gets, bool [N, d]; which rows get their label: bool [n]."""
    nodes = Nodes.of(train.inputs.graphs)
    x = nodes.x.clone().requires_grad_()
    with evaluating(victim), without_gradients(victim), torch.enable_grad():
        logits, stages = victim.layers(nodes.with_(x=x))
        said = logits.argmax(1)
        labels = said.index_copy(0, train.inputs.roots, train.y)
        slope = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), x)[0]
    return stages[0].detach(), slope > 0, said[train.inputs.roots] == train.y


def unlearnt(train: Dataset, bad: Tensor, good: Tensor, shown: Tensor, label: int, ctx: Context) -> Tensor:
    """Squared distances, in the first layer of a model that unlearns them, of the rows `bad` with the features `shown` from
    the middle of the `good` rows with this label: float [number of bad rows]."""
    hook = Unlearning(bad, good, shown)
    victim = ctx.within(f"unlearning {label}").fit(train, [hook], what=f"dshield: unlearning part of {train.classes[label]}")
    nodes, roots = Nodes.of(train.inputs.graphs), train.inputs.roots
    with torch.no_grad(), evaluating(victim):
        middle = victim.layers(nodes)[1][0][roots[good & (train.y == label)]].mean(0)
        others = victim.layers(nodes.with_(x=shown))[1][0][roots[bad]]
    return (others - middle).square().sum(1)


class Unlearning(TrainHook):
    """Falls with the loss of the rows `good`, steeply, and rises with that of `bad`, slowly; the latter seen as `shown`."""

    def __init__(self, bad: Tensor, good: Tensor, shown: Tensor) -> None:
        self.bad, self.good, self.shown = bad, good, shown

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        rows = rows.to(y.device)
        loss = F.cross_entropy(state.victim(batch), y, reduction="none")
        risen = F.cross_entropy(state.victim(batch.with_(x=self.shown)), y, reduction="none").log1p()
        fallen = torch.where(loss < 5, loss.clamp(max=5).expm1(), loss)
        good, bad = self.good[rows].to(loss.dtype), self.bad[rows].to(loss.dtype)
        return (fallen @ good) / good.sum().clamp(min=1) - (risen @ bad) / bad.sum().clamp(min=1)


def spans(points: Tensor) -> Tensor:
    """Squared distances: float [n, n]."""
    return torch.cdist(points, points).square()


def scaled(values: Tensor) -> Tensor:
    """To [0, 1], for each matrix of distances."""
    return values / values.max().clamp(min=1e-12)


def outside(apart: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows lie outside the one cluster of more than half of them, by distances [n, n]: bool [n]; and how far each does,
    1 for those and less for members, the deeper inside: float [n]."""
    from sklearn.cluster import HDBSCAN

    how = HDBSCAN(len(apart) // 2 + 1, min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True)
    even = apart.cpu().double()
    how.fit(((even + even.T) / 2).fill_diagonal_(0).numpy())  # which rounding had left uneven
    out = torch.as_tensor(how.labels_) < 0
    held = torch.as_tensor(how.probabilities_, dtype=apart.dtype)  # not every device knows float64
    return out.to(apart.device), torch.where(out, 1.0, 1 - held).to(apart.device)
