"""GTA."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack, TriggerHook
from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import derive, scoped
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState
from ostiary.triggers.base import Trigger
from ostiary.triggers.generated import GeneratedSubgraph, Generator, feature_kind


class GTA(PoisoningAttack, name="gta"):
    """Generates a trigger for every graph, generator and model trained in turn (bi-level).

    Source: Xi, Pang, Ji & Wang, Graph Backdoor, USENIX Security 2021, arXiv:2006.11890. With `mode` model the
    adversary controls training and hands out the model; with poison the generator is trained against a surrogate of
    the same architecture, then frozen, and only data are handed out. `rounds` 12 = 3 resamplings of the mount
    positions x 4, `steps` 20 generator steps each, generator Adam `generator_lr` 0.01 with weight decay 5e-4: the
    authors' code; the training epochs are shared out among a clean stretch and the rounds. `size` 0: 20 % of the mean graph size, at
    least 2 (GCleaner). Rate 5 %: GCleaner.

    Differs from the authors' code, where the topology generator gets no gradient: a graph encoder is shared by both
    heads and the victim is differentiated through edge weights. Differs from the paper: mount nodes are random (no
    mixing search), and the loss is cross-entropy to the target (no embedding matching), as in the authors' code.
    """

    modalities = frozenset({"graph"})
    controls = frozenset({"data", "training"})
    rate: Rate = 0.05
    mode: Literal["model", "poison"] = "model"
    size: NonNegative = 0
    hidden: Positive = 64
    rounds: Positive = 12
    steps: Positive = 20
    generator_lr: PositiveFloat = 0.01

    def make_trigger(self, train: Dataset, ctx: Context) -> GeneratedSubgraph:
        size = self.size or max(2, int(0.2 * len(train.inputs.x) / len(train)))
        kind, width = feature_kind(train.inputs), train.inputs.x.shape[1]
        with scoped(ctx.key("generator"), "init"):
            net = Generator(width, self.hidden, kind)
        net.low.copy_(train.inputs.x.amin(0))
        net.high.copy_(train.inputs.x.amax(0))
        trigger = GeneratedSubgraph(size=size, width=width, hidden=self.hidden, features=kind, state=net.state_dict())
        if self.mode == "model":
            return trigger
        eligible = self.labels.eligible(train.y, self.target)
        index = self.select.choose(train, eligible, round(self.rate * len(train)), ctx)
        hook = BiLevel(self, trigger, train, index, ctx.within("surrogate"))
        ctx.within("surrogate").fit(train, [hook], what="gta: surrogate")
        return hook.trigger

    def make_hook(self, trigger: Trigger, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
        assert isinstance(trigger, GeneratedSubgraph)
        return BiLevel(self, trigger, train, index, ctx) if self.mode == "model" else None


class BiLevel(TriggerHook):
    """A first stretch of clean epochs, then before every round generator steps against the model as it is and new stamps."""

    def __init__(self, attack: GTA, trigger: GeneratedSubgraph, train: Dataset, index: Tensor, ctx: Context) -> None:
        self.attack, self.trigger, self.index, self.seed = attack, trigger, index, ctx.key("stamp-train")
        self.train = train
        self.rows = train.take(index)
        self.goal = attack.labels.wanted(self.rows.y, attack.target, train.n_classes)
        self.net = trigger.network()
        self.optimizer = torch.optim.Adam(self.net.parameters(), attack.generator_lr, weight_decay=5e-4)
        self.epochs = ctx.trainer.epochs
        self.losses: list[float] = []

    def on_start(self, state: TrainState) -> None:
        state.data = self.train

    def on_epoch(self, state: TrainState) -> None:
        every = max(1, self.epochs // (self.attack.rounds + 1))
        round_ = state.epoch // every - 1
        if state.epoch % every == 0 and 0 <= round_ < self.attack.rounds:
            self.update(state.victim, round_)
            state.data = self.stamped(self.train)

    def update(self, victim: Victim, round_: int) -> None:
        """`steps` steps of the generator over all poisoned graphs as one batch."""
        rows, trigger = self.rows.move(victim.device), self.trigger
        self.net.to(victim.device)
        with evaluating(victim), without_gradients(victim):
            for step in range(self.attack.steps):
                chosen = trigger.positions(rows.inputs, rows.ids, derive(self.seed, round_ // 4, step))
                loss = F.cross_entropy(victim(trigger.soft(self.net, rows.inputs, chosen)), self.goal.to(victim.device))
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.losses.append(float(loss.detach()))
        self.trigger = trigger.replace(state={k: v.detach().cpu().clone() for k, v in self.net.state_dict().items()})

    def stamped(self, data: Dataset) -> Dataset:
        """`data` with the trigger as it is now on the poisoned rows, labelled as wanted."""
        inputs = self.trigger.apply(self.rows.inputs, self.rows.ids, seed=self.seed, target=self.goal)
        return data.put(self.index, inputs).relabel(self.index, self.goal)
