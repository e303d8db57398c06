"""NAD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Positive, PositiveFloat
from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes, egos
from ostiary.models.victim import Victim
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class NAD(FineTuning, Purifier, name="nad"):
    """Distils the attention maps of a fine-tuned teacher into the backdoored student.

    Source: Li et al., Neural attention distillation, ICLR 2021, arXiv:2101.05930. The defender holds the model and a
    few clean samples. Attention of a layer: sum over channels of |activation|^p (p 2: paper), on pixels or on nodes,
    divided by its norm per input. `betas` weigh the last stages, low to high; a single number stands for all
    (paper: 500, 1000, 1000, for images). `teacher_epochs` 10, `epochs` 20, batch 64: paper.

    Differs from the paper: learning rates as for plain fine-tuning (0.1 for two epochs destroys small pre-activation
    nets); on graphs attention is over nodes and BatchNorm statistics stay frozen, which there is the stronger form; where
    nodes are the samples it is over each one's neighbourhood of two steps.
    """

    modalities = frozenset({"graph", "image", "node"})
    p: PositiveFloat = 2.0
    betas: tuple[float, ...] = (500.0, 1000.0, 1000.0)
    teacher_epochs: Positive = 10
    epochs: Positive = 20

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        assert evidence.victim is not None and evidence.clean is not None
        clean, name = evidence.clean, evidence.clean.modality.name
        teacher = self.trainer(name, self.teacher_epochs).fit(
            evidence.victim.clone(), clean, ctx.key("teacher"), what="nad: teacher"
        )
        hook = Distillation(teacher, self.p, self.betas)
        student = evidence.victim.clone()
        return self.trainer(name, self.epochs).fit(student, clean, ctx.key("order"), [hook], what="nad: student")


class Distillation(TrainHook):
    """Cross-entropy plus the weighted distance of attention maps."""

    def __init__(self, teacher: Victim, p: float, betas: tuple[float, ...]) -> None:
        self.teacher, self.p, self.betas = teacher, p, betas

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        logits, student = state.victim.layers(batch)
        with torch.no_grad():
            _, teacher = self.teacher.layers(batch)
        betas = self.betas if len(self.betas) > 1 else self.betas * len(student)
        loss = F.cross_entropy(logits, y)
        n = min(len(betas), len(student))
        for beta, a, b in zip(betas[-n:], student[-n:], teacher[-n:], strict=True):
            loss = loss + beta * (attention(a, batch, self.p) - attention(b, batch, self.p)).square().mean()
        return loss


def attention(features: Tensor, batch: Inputs, p: float) -> Tensor:
    """Normalised attention of one layer: per node [N] (unit norm in each graph, or in each root's neighbourhood) or per
    pixel [n, h * w]."""
    if isinstance(batch, Graphs | Nodes) and len(features) == len(batch.x):
        a, graphs = features.abs().pow(p).sum(1), batch
        if isinstance(batch, Nodes):
            graphs, number, _ = egos(batch)
            a = a[number]
        norm = a.new_zeros(len(batch)).index_add(0, graphs.batch, a.square()).clamp(min=1e-12).sqrt()
        return a / norm[graphs.batch]
    maps = features.abs().pow(p).sum(1).flatten(1) if features.ndim > 2 else features.abs().pow(p)
    return F.normalize(maps, dim=1, eps=1e-6)
