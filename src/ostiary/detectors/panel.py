"""A victim beside its references: what leads it astray and not them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ostiary.data.dataset import Dataset
from ostiary.detectors.class_triggers import margin
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim


class Panel:
    """A victim and the references that judge what leads it astray.

    doubt: what every lead counts less, 0 to 1; peers: how much of the lead that references have of each other comes off it.
    """

    def __init__(
        self, victim: Victim, others: Sequence[Victim], clean: Dataset, quantile: float, doubt: float = 0.0, peers: float = 0.0
    ) -> None:
        self.nets, self.quantile, self.doubt, self.peers = (victim, *others), quantile, doubt, peers
        self.units, self.classes = [unit(net, clean) for net in self.nets], clean.n_classes

    def margins(self, stamped: Graphs, y: Tensor) -> Tensor:
        """How far graphs (of classes y, int64 [n]) with a trigger are led to each class, victim first: float64 [nets, classes].

        The margin, in units of the one that one clean graph in ten exceeds, that all but a share `quantile` of the graphs of
        other classes exceed, squashed by tanh: beyond a unit it says how large a graph has become. -inf: no such graph."""
        logits = [net.predict(stamped) / u for net, u in zip(self.nets, self.units, strict=True)]
        found = torch.full((len(logits), self.classes), -math.inf, dtype=torch.float64)
        for goal in range(self.classes):
            others = (y != goal).cpu()
            if bool(others.any()):
                for i, said in enumerate(logits):
                    found[i, goal] = math.tanh(float(margin(said, goal)[others].quantile(self.quantile)))
        return found

    def leads(self, margins: Sequence[Tensor]) -> Tensor:
        """How far each trigger, by its margins, leads the victim alone to each class, at most 1: float64 [triggers, classes].

        Its margin, less the mean over references, of which none counts below 0: on what they are not led by they tell nothing.
        That the best of many triggers leads one of these networks and not the others is no backdoor yet; so the same is asked
        of every reference beside the others, and of the largest such lead of each, on average, a share `peers` comes off."""
        every = torch.stack(list(margins))
        theirs = every[:, 1:]
        count, led = theirs.shape[1], theirs.clamp(min=0)
        chance = 0.0
        if count > 1:
            apart = theirs - (led.sum(1, keepdim=True) - led) / (count - 1)
            chance = max(0.0, float(apart.amax((0, 2)).mean()))
        return every[:, 0] - led.mean(1) - self.doubt - self.peers * chance


def unit(net: Victim, clean: Dataset) -> float:
    """The margin between the two largest logits that one clean graph in ten exceeds."""
    two = net.predict(clean.inputs).topk(2).values
    return float((two[:, 0] - two[:, 1]).quantile(0.9).clamp(min=1e-6))
