"""PerCBA."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import CleanLabel, LabelRule
from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import evaluating, without_gradients
from ostiary.triggers.features import SetFeatures


class PerCBA(PoisoningAttack, name="percba"):
    """Sets a few features of nodes of the target class; labels and edges stay.

    Source: Yang et al., PerCBA: Persistent Clean-label Backdoor Attacks on Semi-Supervised Graph Node Classification, 2023;
    and Xing et al., clean-label feature triggers for nodes, 2024. The adversary controls the features of some training
    nodes, and trains a surrogate (of the plan's architecture). `width` features, random ones or the rarest (`columns`), get
    `value`; then `steps` signed-gradient steps of size `step`, within `bound` of `value`, bring the surrogate's features of
    triggered nodes of other classes closer to the mean of the target class. All defaults: ours, rate 2 %.

    Differs from the papers: no code or full text was at hand; one trigger is refined for all nodes, and poisoned and test
    nodes get the same. Its values are real numbers also where features are binary; `steps` 0 keeps them as they are.
    """

    modalities = frozenset({"node"})
    rate: Rate = 0.02
    labels: LabelRule = CleanLabel()
    width: Positive = 20
    value: float = 1.0
    columns: Literal["rare", "random"] = "rare"
    steps: NonNegative = 10
    step: PositiveFloat = 0.05
    bound: Rate = 0.5

    def make_trigger(self, train: Dataset, ctx: Context) -> SetFeatures:
        x = train.inputs.x
        used = (x != 0).sum(0) if self.columns == "rare" else torch.rand(x.shape[1], generator=ctx.rng("columns"))
        columns = used.argsort(stable=True)[: self.width].sort()[0]
        return SetFeatures(state={"columns": columns, "values": self.refine(train, columns, ctx)})

    def refine(self, train: Dataset, columns: Tensor, ctx: Context) -> Tensor:
        """Values near `value` that bring nodes of other classes closer to the target class: float [width]."""
        start = torch.full((len(columns),), self.value)
        rows = (train.y != self.target).nonzero().flatten()
        if not self.steps:
            return start
        surrogate = ctx.within("surrogate").fit(train, what="percba: surrogate")
        nodes = train.modality.move(train.inputs.take(rows), surrogate.device)
        values = start.to(surrogate.device)
        with evaluating(surrogate), without_gradients(surrogate):
            goal = surrogate.features(train.modality.move(train.inputs, surrogate.device))[train.y == self.target].mean(0)
            for _ in range(self.steps):
                tried = values.clone().requires_grad_()
                x = nodes.x[nodes.roots].index_copy(1, columns.to(tried.device), tried.expand(len(rows), -1))
                gap = (surrogate.features(nodes.alter(x)) - goal).square().sum(1).mean()
                values = values - self.step * torch.autograd.grad(gap, tried)[0].sign()
                values = values.clamp(self.value - self.bound, self.value + self.bound)
        return values.cpu()
