"""PerCBA."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import CleanLabel, LabelRule
from ostiary.attacks.select import Correct, Selector
from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.models.victim import evaluating, without_gradients
from ostiary.triggers.features import SetFeatures


class PerCBA(PoisoningAttack, name="percba"):
    """Sets a few features of nodes of the target class; labels and edges stay.

    Source: Yang, Li, Zhang, Han & Yang, PerCBA: Persistent Clean-label Backdoor Attacks on Semi-Supervised Graph Node
    Classification, AISafety 2023; and Xing, Xu, Bai & Yang, CGBA, 2023, arXiv:2401.00163. The adversary controls the
    features of some training nodes, which a surrogate of their own calls rightly (`select`). `width` features, the rarest or
    random ones (`columns`), get `value`; then `steps` signed-gradient steps of size `step`, within `bound` of `value`, bring
    the surrogate's features of triggered nodes of other classes closer to the mean of the target class. All defaults are
    ours; wider bounds raise the rate at which clean models are fooled. Rate 2 %: the papers go up to 4 %.

    Differs from the papers, of which only the abstracts were at hand: one trigger is refined for all nodes, and poisoned
    and test nodes get the same. Its values are real numbers also where features are binary; `steps` 0 keeps them as they
    are.
    """

    modalities = frozenset({"node"})
    rate: Rate = 0.02
    labels: LabelRule = CleanLabel()
    select: Selector = Correct()
    width: Positive = 20
    value: float = 1.0
    columns: Literal["rare", "random"] = "rare"
    steps: NonNegative = 10
    step: PositiveFloat = 0.01
    bound: Rate = 0.1

    def make_trigger(self, train: Dataset, ctx: Context) -> SetFeatures:
        x = train.inputs.x
        if self.width >= x.shape[1]:
            raise InvalidInput(f"percba sets {self.width} features of nodes that have {x.shape[1]}, so all; lower width")
        used = (x != 0).sum(0) if self.columns == "rare" else torch.rand(x.shape[1], generator=ctx.rng("columns"))
        columns = used.argsort(stable=True)[: self.width].sort()[0]
        return SetFeatures(state={"columns": columns, "values": self.refine(train, columns, ctx)})

    def refine(self, train: Dataset, columns: Tensor, ctx: Context) -> Tensor:
        """Values near `value` that bring nodes of other classes closer to the target class: float [width]."""
        start = torch.full((len(columns),), self.value)
        rows = (train.y != self.target).nonzero().flatten()
        if not self.steps:
            return start
        surrogate = self.attacker(ctx).surrogate(train)
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
