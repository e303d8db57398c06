"""Bi-level training of a trigger that critics cannot tell from clean graphs."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.attacks.bilevel import BiLevel, Schedule
from ostiary.attacks.critic import Critic
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import scoped
from ostiary.triggers.generated import GeneratedSubgraph


class DisguiseSchedule(Schedule, Protocol):
    """What an attack says about its disguise."""

    @property
    def structure(self) -> float: ...
    @property
    def semantics(self) -> float: ...
    @property
    def keep(self) -> float: ...
    @property
    def critic_lr(self) -> float: ...


class Disguised(BiLevel):
    """The trigger leads `sources` (rows of train) to the target and looks clean to two critics that learn in turn with it.

    model: the attacker's own, trained on clean data.
    """

    attack: DisguiseSchedule

    def __init__(
        self,
        attack: DisguiseSchedule,
        trigger: GeneratedSubgraph,
        train: Dataset,
        index: Tensor,
        sources: Tensor,
        model: Victim,
        ctx: Context,
    ) -> None:
        super().__init__(attack, trigger, train, index, ctx)
        self.model, self.sources = model, train.take(sources).move(model.device)
        self.at = trigger.positions(self.sources.inputs, self.sources.ids, self.seed)
        with scoped(ctx.key("critics"), "init"):
            self.critics = nn.ModuleList([Critic(0), Critic(trigger.width)]).to(model.device)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), attack.critic_lr)
        self.critic_losses: list[float] = []

    def first(self, victim: Victim, rows: Dataset) -> Tensor:
        """Of all kinds, the one that hides the poisoned graphs' own class best: then the trigger is left to learn from."""
        at = self.trigger.positions(rows.inputs, rows.ids, self.seed)
        with evaluating(self.model):
            return -F.cross_entropy(self.model(self.trigger.soft(self.net, rows.inputs, at)), self.goal.to(victim.device))

    def loss_of(self, victim: Victim, rows: Dataset, seed: int) -> Tensor:
        """Of the triggered sources: cross-entropy to the target, the critics' doubt, and the own model's error."""
        soft = self.trigger.soft(self.net, self.sources.inputs, self.at)
        self.teach(soft)
        doubts = [F.softplus(-critic(soft, self.at)).mean() for critic in self.critics]
        weights = self.attack
        loss = weights.structure * doubts[0] + weights.semantics * doubts[1]
        if weights.keep:
            with evaluating(self.model), without_gradients(self.model):
                loss = loss + weights.keep * F.cross_entropy(self.model(soft), self.sources.y)
        goal = torch.full((len(self.sources),), weights.target, device=victim.device)
        return loss + F.cross_entropy(victim(soft), goal)

    def teach(self, soft: Graphs) -> None:
        """One step of the critics: clean sources against triggered ones."""
        assert soft.edge_weight is not None
        fake, real = soft.with_(x=soft.x.detach(), edge_weight=soft.edge_weight.detach()), self.sources.inputs
        both = [(critic(real, self.at), critic(fake, self.at)) for critic in self.critics]
        loss = torch.stack([F.softplus(-a).mean() + F.softplus(b).mean() for a, b in both]).sum()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self.critic_losses.append(float(loss.detach()))
