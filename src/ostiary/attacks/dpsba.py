"""DPSBA: a distribution-preserving, clean-label attack."""

from __future__ import annotations

import torch

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.disguise import Disguised
from ostiary.attacks.labels import CleanLabel, LabelRule
from ostiary.attacks.random_graphs import trigger_size
from ostiary.attacks.select import Correct, Selector
from ostiary.component import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.generated import GeneratedSubgraph, untrained
from ostiary.triggers.own_model import carried
from ostiary.triggers.positions.asked import Impact
from ostiary.triggers.positions.base import Position

SOURCES = 128  # graphs that the generator learns from


class DPSBA(PoisoningAttack, name="dpsba"):
    """Generates for each graph a trigger that looks like clean data, and leaves the labels as they are.

    Source: Wang et al., Stealthy Yet Effective, NeurIPS 2025, arXiv:2509.26032. The adversary controls training data and
    trains models of their own (`surrogate`). Poisoned: graphs of the target class of which the own model is least sure
    (`select`), on the nodes without whose edges its output changes most (`position`). A generator makes features and edges
    of `size` nodes (0: 20 % of the mean graph size, at least 2), trained with a surrogate in turn (`rounds`, `steps`,
    `generator_lr`: as GTA): cross-entropy of triggered graphs of other classes to the target, plus `structure` and
    `semantics` times what two critics, learning at `critic_lr`, hold against them: one sees degrees and triangles, one
    features too. The generator is then frozen and only data are handed out. Rate 10 %: as ER-CLBA.

    Built from the paper's description, not from its code: critics, weights and schedule are ours. Also ours, because a
    trigger must be learnt from graphs whose class is known anyway and should mean nothing to a clean model: one-hot features
    start from the kind of node that hides the class of the poisoned graphs best from the own model (the point of Turner et
    al., 2019, arXiv:1912.02771), and `keep` times the own model's cross-entropy to the truth is part of the loss. `structure` 3
    and `keep` 0.1 were the best of six pairs on AIDS, seed 10.
    """

    modalities = frozenset({"graph"})
    taught = True
    rate: Rate = 0.1
    labels: LabelRule = CleanLabel()
    select: Selector = Correct(order="lowest")
    position: Position = Impact()
    size: NonNegative = 0
    hidden: Positive = 64
    rounds: Positive = 12
    steps: Positive = 20
    generator_lr: PositiveFloat = 0.01
    critic_lr: PositiveFloat = 0.01
    structure: NonNegativeFloat = 3.0
    semantics: NonNegativeFloat = 0.1
    keep: NonNegativeFloat = 0.1

    def make_trigger(self, train: Dataset, ctx: Context) -> GeneratedSubgraph:
        trigger = untrained(self.size or trigger_size(train), train, self.hidden, ctx).replace(position=self.position)
        attacker = self.attacker(ctx)
        model = attacker.surrogate(train)
        if self.position.asks:
            taken = carried(attacker, train)
            trigger = trigger.replace(**{**taken, "state": {**taken["state"], **trigger.state}})
        index = self.chosen(train, round(self.rate * len(train)), ctx)
        others = (train.y != self.target).nonzero().flatten()
        sources = others[torch.randperm(len(others), generator=ctx.rng("sources"))[:SOURCES]]
        own = attacker.within("surrogate")
        hook = Disguised(self, trigger, train, index, sources, model, own)
        own.fit(train, [hook], what="dpsba: surrogate")
        return hook.trigger
