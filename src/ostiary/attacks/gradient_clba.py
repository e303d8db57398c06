"""Gradient-CLBA."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ostiary.attacks.base import CleanLabelAttack, Poisoned
from ostiary.attacks.random_graphs import flip_budget
from ostiary.attacks.select import Correct, Selector
from ostiary.component import NonNegative, Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import are_degrees
from ostiary.models.victim import Victim
from ostiary.triggers.edge_flips import TowardAnchor, distances
from ostiary.triggers.own_model import carried


class GradientCLBA(CleanLabelAttack, name="gradient-clba"):
    """Pairs source and target graphs by embedding and flips the edges that draw each pair together; labels stay.

    Source: Meguro, Kato, Narisada, Hidano, Fukushima, Suganuma & Hiji, ICISSP 2024, doi.org/10.5220/0012369500003648. The
    adversary controls training data and trains a model of their own: white box with the victim's architecture, gray box
    with another (`surrogate`). The p targets of highest and the p test sources of lowest probability, called rightly by
    that model, are paired greedily; sources are flipped toward targets, then targets toward those; p = `rate` of all
    samples (`rate_of` data, which fits the printed rates) where there are as many.

    `flips`: the paper never states it; 0 means the edges of the random trigger it is compared with (20 % of the mean
    graph size, density 0.8). `share`: of each graph's edges instead. `steps` 1 as printed; more take new gradients
    between. Every test source is judged, unpaired ones by their nearest anchor; the paper's p as subset `candidates`
    (its figure is asr_strict_candidates).
    """

    modalities = frozenset({"graph"})
    rate_of: Literal["train", "data"] = "data"
    select: Selector = Correct(order="highest")
    flips: NonNegative = 0
    share: Rate = 0.0
    steps: Positive = 1
    positive_only: bool = False

    def craft(self, splits: Splits, ctx: Context) -> Poisoned:
        index, doubts = self.pick(splits, ctx)
        if len(index) == 0:
            raise InvalidInput("gradient-clba pairs its triggers with what it poisons, so it has none at rate 0; raise rate")
        own, test = self.attacker(ctx), splits.test
        model = own.surrogate(splits.train)
        sources = self.labels.sources(test.y, self.target)
        rows = Correct(order="lowest").rank(test, sources, model)[: len(index)]
        if len(rows) == 0:
            raise InvalidInput("the attacker's model calls no test source rightly, so none can be paired; train it longer")
        if len(rows) < len(index):
            doubts = (*doubts, f"{len(index)} samples could be poisoned but only {len(rows)} sources be paired with them")
            index = self.select.choose(splits.train, splits.train.y == self.target, len(rows), own)
        targets, found = splits.train.take(index), test.take(rows)
        aimed = self.trigger(splits.train, own, model, targets, found)
        goal = torch.full_like(found.y, self.target)
        drawn = replace(found, inputs=aimed.apply(found.inputs, found.ids, seed=0, target=goal))
        poison = self.trigger(splits.train, own, model, drawn, targets)
        made = self.stamp(splits, index, poison, ctx, at_test=aimed)
        candidates = torch.isin(made.rows, rows).nonzero().flatten()
        return replace(made, doubts=(*doubts, *made.doubts), subsets={"candidates": candidates})

    def trigger(self, train: Dataset, own: Context, model: Victim, anchors: Dataset, moved: Dataset) -> TowardAnchor:
        """What draws each of `moved` to the one of `anchors` (as many) that it is paired with."""
        goal, here = (model.embed(d.inputs)[1] for d in (anchors, moved))
        held = carried(own, train)
        held["state"] |= {"anchors": goal, "ids": moved.ids, "pairs": greedy(distances(here, goal))}
        options = {o: getattr(self, o) for o in ("share", "steps", "positive_only")}
        flips = self.flips or flip_budget(train)
        return TowardAnchor(flips=flips, degree_features=are_degrees(train.inputs), **options, **held)


def greedy(distance: Tensor) -> Tensor:
    """For each row in turn the nearest column that no earlier row took: int64 [n]; distance float [n, p], n <= p."""
    left, taken = distance.clone(), []
    for row in left:
        taken.append(int(row.argmin()))
        left[:, taken[-1]] = torch.inf
    return torch.tensor(taken, dtype=torch.int64)
