"""Trigger generator and surrogate, trained in turn on one graph: what the attacks share that learn to make new nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.penalties import Made
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.nodes import Nodes
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.training.losses import unlikely
from ostiary.training.trainer import Trainer, TrainState
from ostiary.triggers.generated_nodes import GeneratedNodes, NodeMaker
from ostiary.triggers.networks import weights

if TYPE_CHECKING:
    from ostiary.attacks.injection import Injection


class InTurn(TrainHook):
    """Poisons the surrogate's training set with what the generator makes now, and teaches the generator in between; beside
    them a twin of the surrogate is trained on clean data."""

    def __init__(self, attack: Injection, train: Dataset, index: Tensor, trainer: Trainer, ctx: Context) -> None:
        self.attack, self.train, self.index = attack, train, index
        self.rng, self.penalty, self.least = ctx.rng("others"), attack.penalty(train, ctx), float("inf")
        self.goal = attack.labels.wanted(train.y, attack.target, train.n_classes)
        rest = attack.labels.sources(train.y, attack.target)
        rest[index] = False
        self.rest = rest.nonzero().flatten()
        x = train.inputs.x
        self.active = min(max(1, round(float((x != 0).sum(1).double().mean()))), x.shape[1] - 1)
        with scoped(ctx.key("generator"), "init"):
            net = NodeMaker(x.shape[1], attack.hidden, attack.size, attack.features, self.active)
        net.low.copy_(x.amin(0))
        net.high.copy_(x.amax(0))
        self.net = net.to(ctx.device)
        self.optimizer = torch.optim.Adam(net.parameters(), attack.generator_lr, weight_decay=5e-4)
        self.best = self.trigger()
        self.trainer, own = trainer, ctx.within("twin")
        self.twin = trainer.start(own.fresh(train), train, own.seed)

    def trigger(self) -> GeneratedNodes:
        state = weights(self.net)
        a, width = self.attack, len(state["low"])
        made = GeneratedNodes(size=a.size, width=width, hidden=a.hidden, features=a.features, active=self.active)
        return made.replace(state=state)

    def on_epoch(self, state: TrainState) -> None:
        if self.attack.natural:
            self.trainer.run_epoch(self.twin)
        if state.epoch > self.attack.warm_up:
            self.step(state.victim)
        rows = self.train.take(self.index)
        stamped = self.trigger().apply(rows.inputs, rows.ids, seed=0, target=self.goal[self.index])
        state.data = self.train.put(self.index, stamped).relabel(self.index, self.goal[self.index])

    def on_end(self, state: TrainState) -> None:
        self.step(state.victim)

    def step(self, victim: Victim) -> None:
        """One step of the generator against the surrogate as it is, on the poisoned nodes and others drawn anew."""
        drawn = self.rest[torch.randperm(len(self.rest), generator=self.rng)[: self.attack.others]]
        rows = torch.cat([self.index, drawn])
        twin = self.twin.victim
        nodes: Nodes = self.train.modality.move(self.train.inputs.take(rows), victim.device)
        with evaluating(victim), without_gradients(victim), evaluating(twin), without_gradients(twin):
            x = nodes.x[nodes.roots]
            features, adjacency = self.net(x)
            marked, goal = nodes.attach(features, adjacency, soft=True), self.goal[rows].to(victim.device)
            logits, embedding = victim.both(marked)
            made = Made(x, features, adjacency, embedding)
            loss = F.cross_entropy(logits, goal) + self.penalty(made, victim)
            if self.attack.natural:
                loss = loss + self.attack.natural * unlikely(twin(marked), goal).mean()
            if float(loss.detach()) < self.least:
                self.least, self.best = float(loss.detach()), self.trigger()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
