"""A teacher's answers as targets, and its attention: the distillation of a fine-tuned teacher, of NAD and GraphNAD."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs, unit
from ostiary.modality.nodes import Nodes, egos
from ostiary.models.victim import Victim
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer, TrainState

Apart = Callable[[Sequence[Tensor], Sequence[Tensor], Inputs], Tensor]  # of the student's and the teacher's layers


class Distillation(TrainHook):
    """Cross-entropy, unless `ce` is off, plus how far the student's layers are apart from the teacher's."""

    def __init__(self, teacher: Victim, apart: Apart, *, ce: bool = True) -> None:
        self.teacher, self.apart, self.ce = teacher, apart, ce

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        logits, student = state.victim.layers(batch)
        with torch.no_grad():
            _, teacher = self.teacher.layers(batch)
        loss = self.apart(student, teacher, batch)
        return loss + F.cross_entropy(logits, y) if self.ce else loss


def softened(y: Tensor, told: Tensor, share: float) -> Tensor:
    """What cross-entropy is to aim at: labels (`share` 0), a teacher's answers (1; Hinton, Vinyals & Dean, 2015,
    arXiv:1503.02531, at temperature 1), or between. told: the teacher's logits [n, classes]."""
    if not share:
        return y
    told = told.float().softmax(1)
    return (1 - share) * F.one_hot(y, told.shape[1]) + share * told


def distilled(
    evidence: Evidence,
    ctx: Context,
    teaching: Trainer,
    learning: Trainer,
    apart: Apart,
    ce: bool = True,
    more: Sequence[TrainHook] = (),
) -> Victim:
    """A copy of the victim, drawn by `learning`, with `more` hooks, to a copy that `teaching` has fine-tuned on the clean
    samples."""
    victim, clean = evidence.victim, evidence.clean
    teacher = teaching.fit(victim.clone(), clean, ctx.key("teacher"), what="distillation: teacher")
    hooks = [Distillation(teacher, apart, ce=ce), *more]
    return learning.fit(victim.clone(), clean, ctx.key("order"), hooks, what="distillation: student")


def attention(features: Tensor, batch: Inputs, p: float, weight: Tensor | None = None) -> Tensor:
    """Normalised attention of one layer: per node [N] (unit norm in each graph, or in each root's neighbourhood) or per
    pixel [n, h * w].

    weight: float [N], of the nodes.
    """
    if isinstance(batch, Graphs | Nodes) and len(features) == len(batch.x):
        a = features.abs().pow(p).sum(1)
        a = a if weight is None else weight * a
        if isinstance(batch, Graphs):
            return unit(a, batch)
        graphs, number, _ = egos(batch)
        return unit(a[number], graphs)
    maps = features.abs().pow(p).sum(1).flatten(1) if features.ndim > 2 else features.abs().pow(p)
    return F.normalize(maps, dim=1, eps=1e-6)


def mapped(layers: Sequence[Tensor]) -> list[Tensor]:
    """Without those of a single pixel, whose attention is 1 whatever they hold."""
    return [layer for layer in layers if layer.ndim < 3 or layer[0, 0].numel() > 1]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over rows of the L2 distance."""
    return ((a - b).square().sum(1) + 1e-12).sqrt().mean()


def per_graph(values: Tensor, graphs: Graphs) -> Tensor:
    """Mean over graphs of the L2 norm of a node vector [N]."""
    sums = values.new_zeros(len(graphs)).index_add(0, graphs.batch, values.square())
    return (sums + 1e-12).sqrt().mean()
