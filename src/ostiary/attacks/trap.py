"""TRAP."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.random_graphs import flip_budget
from ostiary.component import NonNegative, Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import are_degrees
from ostiary.triggers.base import Trigger
from ostiary.triggers.edge_flips import TowardClass
from ostiary.triggers.own_model import carried


class TRAP(PoisoningAttack, name="trap"):
    """Flips the edges of each graph that raise a surrogate's probability of the target most, and relabels.

    Source: Yang, Doan, Montague, De Vel, Abraham, Camtepe, Ranasinghe & Kanhere, Transferable Graph Backdoor Attack, RAID
    2022, arXiv:2207.00425. The adversary controls training data and trains a model of their own (`surrogate`; the paper's
    is a GCN). `flips`: node pairs per graph; 0 means the edges of an Erdos-Renyi trigger of 20 % of the mean graph size
    and density 0.8, so that budgets are those of the other attacks (ours; the paper's code is not published). `share`:
    flips as a share of each graph's edges instead. `steps` 1: all flips from one gradient. Rate 5 %: as Sub-BA.

    Differs from the paper: none known.
    """

    modalities = frozenset({"graph"})
    rate: Rate = 0.05
    flips: NonNegative = 0
    share: Rate = 0.0
    steps: Positive = 1
    positive_only: bool = False

    def make_trigger(self, train: Dataset, ctx: Context) -> Trigger:
        return TowardClass(
            flips=self.flips or flip_budget(train),
            share=self.share,
            steps=self.steps,
            positive_only=self.positive_only,
            degree_features=are_degrees(train.inputs),
            **carried(self.attacker(ctx), train),
        )
