"""Trigger generator and surrogate, trained in turn on one graph: what the attacks share that learn to make new nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.nodes import Nodes
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState
from ostiary.triggers.generated_nodes import GeneratedNodes, NodeMaker

if TYPE_CHECKING:
    from ostiary.attacks.injection import Injection


class Made(NamedTuple):
    """One proposal: for n nodes x float [n, d] and y int64 [n], new nodes' features [n, t, d], adjacency [n, t, t], and
    what the surrogate makes of the nodes, embedding [n, h]; the first `poisoned` of them are those to be poisoned."""

    x: Tensor
    features: Tensor
    adjacency: Tensor
    embedding: Tensor
    poisoned: int


class Penalty:
    """What an attack asks of its new nodes beside success; nothing by default."""

    def __call__(self, made: Made, victim: Victim) -> Tensor | float:
        return 0.0


class InTurn(TrainHook):
    """Poisons the surrogate's training set with what the generator makes now, and teaches the generator in between."""

    def __init__(self, attack: Injection, train: Dataset, index: Tensor, ctx: Context) -> None:
        self.attack, self.train, self.index = attack, train, index
        self.rng, self.penalty, self.least = ctx.rng("others"), attack.penalty(train, ctx), float("inf")
        self.goal = attack.labels.wanted(train.y, attack.target, train.n_classes)
        rest = attack.labels.sources(train.y, attack.target)
        rest[index] = False
        self.rest = rest.nonzero().flatten()
        x = train.inputs.x
        self.active = round(float(x.sum(1).mean()))
        with scoped(ctx.key("generator"), "init"):
            net = NodeMaker(x.shape[1], attack.hidden, attack.size, attack.features, self.active)
        net.low.copy_(x.amin(0))
        net.high.copy_(x.amax(0))
        self.net = net.to(ctx.device)
        self.optimizer = torch.optim.Adam(net.parameters(), attack.generator_lr, weight_decay=5e-4)
        self.best = self.trigger()

    def trigger(self) -> GeneratedNodes:
        state = {k: v.detach().cpu().clone() for k, v in self.net.state_dict().items()}
        a = self.attack
        return GeneratedNodes(size=a.size, width=len(state["low"]), hidden=a.hidden, features=a.features, active=self.active, state=state)

    def on_epoch(self, state: TrainState) -> None:
        if state.epoch:
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
        nodes: Nodes = self.train.modality.move(self.train.inputs.take(rows), victim.device)
        with evaluating(victim), without_gradients(victim):
            x = nodes.x[nodes.roots]
            features, adjacency = self.net(x)
            logits, embedding = victim.both(nodes.attach(features, adjacency, soft=True))
            made = Made(x, features, adjacency, embedding, len(self.index))
            loss = F.cross_entropy(logits, self.goal[rows].to(victim.device)) + self.penalty(made, victim)
            if float(loss.detach()) < self.least:
                self.least, self.best = float(loss.detach()), self.trigger()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
