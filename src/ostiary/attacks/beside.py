"""Training on triggered copies beside the clean images they are made of, and learning the trigger meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.labels import MultiTarget
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import check_logits, evaluating, without_gradients
from ostiary.training.augment import augment
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState
from ostiary.triggers.networks import weights
from ostiary.triggers.residual import Residual

if TYPE_CHECKING:
    from ostiary.attacks.marksman import Marksman


class Beside(TrainHook):
    """`alpha` times the loss on all clean rows, the rest times that on triggered copies of the rows at `index`, which are
    made for goals drawn anew in each batch."""

    def __init__(self, attack: Marksman, trigger: Residual, train: Dataset, index: Tensor, ctx: Context) -> None:
        self.attack, self.trigger, self.train, self.ctx = attack, trigger, train, ctx
        self.chosen = torch.zeros(len(train), dtype=torch.bool)
        self.chosen[index] = True
        self.net = trigger.network(ctx.device)
        self.rng = ctx.rng("goals")
        self.marked = self.chosen[:0]  # which inputs of the batch are triggered

    def goals(self, y: Tensor) -> Tensor:
        """What inputs of classes y are to be called: any other class if there are many goals."""
        k = self.train.n_classes
        if isinstance(self.attack.labels, MultiTarget):
            return (y + torch.randint(1, k, y.shape, generator=self.rng)) % k
        return self.attack.labels.goals(y, self.attack.target, k)

    def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The copies stand where the training set has its poison; the clean images follow after the batch."""
        at = self.chosen[rows].nonzero().flatten()
        clean, device = self.train.take(rows[at]), state.victim.device
        self.marked = torch.zeros(len(rows) + len(at), dtype=torch.bool).index_fill_(0, at, True)
        if not len(at):
            return batch, y
        goal = self.goals(clean.y)
        with torch.no_grad():
            copies = self.trigger.add(self.net, clean.inputs.to(device), goal.to(device)).to(batch)
        batch = self.train.modality.put(batch, at, copies)
        return torch.cat([batch, clean.inputs]), torch.cat([y.index_put((at,), goal), clean.y])

    def loss(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        each = F.cross_entropy(check_logits(state.victim(batch), len(y)).float(), y, reduction="none")
        marked, alpha = self.marked.to(each.device), self.attack.alpha
        return alpha * each[~marked].mean() + (1 - alpha) * each[marked].mean() if bool(marked.any()) else each.mean()


class Learning(Beside):
    """The same, with a generator that takes a step against the model at every batch and replaces the one in use after
    every epoch."""

    def __init__(self, attack: Marksman, trigger: Residual, train: Dataset, index: Tensor, ctx: Context) -> None:
        super().__init__(attack, trigger, train, index, ctx)
        self.ahead = trigger.network(ctx.device).train()
        self.optimizer = torch.optim.Adam(self.ahead.parameters(), attack.generator_lr)

    def on_epoch(self, state: TrainState) -> None:
        self.net.load_state_dict(self.ahead.state_dict())
        if self.attack.reset and state.epoch:
            fresh = self.ctx.within(f"epoch {state.epoch}").fresh(self.train)
            state.victim.module.load_state_dict(fresh.module.state_dict())
            state.optimizer.state.clear()  # momentum of weights that are gone

    def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if int(self.chosen[rows].sum()) > 1:  # BatchNorm cannot train on one sample
            self.step(state, self.train.take(rows[self.chosen[rows]]).move(state.victim.device))
        return super().on_batch(state, batch, y, rows)

    def step(self, state: TrainState, clean: Dataset) -> None:
        """One step of the generator ahead, so that the victim as it is calls its images what they are made for."""
        victim, goal = state.victim, self.goals(clean.y.cpu()).to(clean.y.device)
        with evaluating(victim), without_gradients(victim):
            made = self.trigger.add(self.ahead, clean.inputs, goal)
            seen = augment(made.cpu(), self.ctx.trainer.augment, self.rng).to(made.device)
            loss = F.cross_entropy(check_logits(victim(seen), len(goal)).float(), goal)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def on_end(self, state: TrainState) -> None:
        self.trigger = self.trigger.replace(state=weights(self.ahead))
