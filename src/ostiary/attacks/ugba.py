"""UGBA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.injection import Injection
from ostiary.attacks.penalties import Made, Penalty
from ostiary.attacks.select import Clustered, Selector
from ostiary.component import NonNegativeFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim


class UGBA(Injection, name="ugba"):
    """Joins to well chosen nodes new ones that a generator makes to resemble what they are joined to.

    Source: Dai, Lin, Zhang & Wang, Unnoticeable Backdoor Attacks on Graph Neural Networks, WWW 2023, arXiv:2303.01263. The
    adversary controls training data only, and trains a surrogate (of the plan's architecture; paper: GCN). Nodes are chosen
    by `clustered`: typical ones of small degree. Loss of the generator: cross-entropy to the target on poisoned and other
    nodes + `weight` * mean over edges of their new nodes of max(0, `threshold` - cosine of both ends' features). `size` 3,
    `epochs` 400, `weight` 50, `threshold` 0.5, Adam 0.01 with weight decay 5e-4: the authors' settings for Cora; rate 0.5 %
    are its 10 nodes.

    Differs from the authors' code: `warm_up` and `natural` (see `Injection`; 0 and 0 there); the generator's hidden layer
    has `hidden` units, not one per feature; edges are the sigmoid of the head's output, rounded at 0.5; poisoned nodes are
    labelled ones that are relabelled; test triggers are judged in the graph without the training triggers, all at once.
    """

    select: Selector = Clustered()
    weight: NonNegativeFloat = 50.0
    threshold: Rate = 0.5

    def penalty(self, train: Dataset, ctx: Context) -> Penalty:
        return Alike(self.weight, self.threshold)


class Alike(Penalty):
    """Hinge on the cosine of features across the edges that a trigger brings, those to its root included."""

    def __init__(self, weight: float, threshold: float) -> None:
        self.weight, self.threshold = weight, threshold

    def __call__(self, made: Made, victim: Victim) -> Tensor:
        unit = F.normalize(made.features, dim=2)
        stems = (unit[:, 0] * F.normalize(made.x, dim=1)).sum(1)
        within = (unit @ unit.transpose(1, 2))[(made.adjacency > 0.5).triu(1)]
        return self.weight * F.relu(self.threshold - torch.cat([stems, within])).mean()
