"""Bi-level training: a trigger generator and the model it attacks, in turn."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import TriggerHook
from ostiary.attacks.labels import LabelRule
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import derive
from ostiary.training.trainer import TrainState
from ostiary.triggers.generated import GeneratedSubgraph
from ostiary.triggers.generator import bias_to_best
from ostiary.triggers.networks import weights


class Schedule(Protocol):
    """What an attack says about its turns."""

    @property
    def labels(self) -> LabelRule: ...
    @property
    def target(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def generator_lr(self) -> float: ...


class BiLevel(TriggerHook):
    """A first stretch of clean epochs, then before every round generator steps against the model as it is and new stamps."""

    trigger: GeneratedSubgraph

    def __init__(self, attack: Schedule, trigger: GeneratedSubgraph, train: Dataset, index: Tensor, ctx: Context) -> None:
        self.attack, self.trigger, self.index, self.seed = attack, trigger, index, ctx.key("stamp-train")
        self.train = train
        self.rows = train.take(index)
        self.goal = attack.labels.wanted(self.rows.y, attack.target, train.n_classes)
        self.net = trigger.network(ctx.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), attack.generator_lr, weight_decay=5e-4)
        self.epochs = ctx.trainer.epochs
        self.losses: list[float] = []

    def on_start(self, state: TrainState) -> None:
        if self.epochs == 1:
            raise InvalidInput("model and trigger generator are trained in turn, which takes two epochs at least; raise epochs")
        state.data = self.train

    def on_epoch(self, state: TrainState) -> None:
        every = max(1, self.epochs // (self.attack.rounds + 1))
        round_ = state.epoch // every - 1
        if state.epoch % every == 0 and 0 <= round_ < self.attack.rounds:
            self.update(state.victim, round_)
            state.data = self.stamped(self.train)

    def update(self, victim: Victim, round_: int) -> None:
        """`steps` steps of the generator over all poisoned graphs as one batch; none at rate 0."""
        if not len(self.rows):
            return
        rows, trigger = self.rows.move(victim.device), self.trigger
        self.net.to(victim.device)
        with evaluating(victim), without_gradients(victim):
            if round_ == 0 and trigger.features == "one-hot":
                bias_to_best(self.net.feature_head.get_parameter("2.bias"), lambda: self.first(victim, rows))
            for step in range(self.attack.steps):
                loss = self.loss_of(victim, rows, derive(self.seed, round_ // 4, step))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.losses.append(float(loss.detach()))
        self.trigger = trigger.replace(state={**trigger.state, **weights(self.net)})

    def first(self, victim: Victim, rows: Dataset) -> Tensor:
        """What the kind of node that a generator starts from should make least."""
        return self.loss_of(victim, rows, self.seed)

    def loss_of(self, victim: Victim, rows: Dataset, seed: int) -> Tensor:
        """How far the triggered rows (all as one batch) are from being called as wanted."""
        chosen = self.trigger.positions(rows.inputs, rows.ids, seed)
        soft = self.trigger.soft(self.net, rows.inputs, chosen)
        loss = F.cross_entropy(victim(soft), self.goal.to(victim.device))
        return loss if self.extra is None else loss + self.extra(victim, soft, self.index)

    def stamped(self, data: Dataset) -> Dataset:
        """`data` with the trigger as it is now on the poisoned rows, labelled as wanted."""
        inputs = self.trigger.apply(self.rows.inputs, self.rows.ids, seed=self.seed, target=self.goal)
        return data.put(self.index, inputs).relabel(self.index, self.goal)
