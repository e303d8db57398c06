"""The hook that trains any attack against a defence as well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import Poisoned, TriggerHook
from ostiary.attacks.terms import Seen, Term
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, check_logits, evaluating
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class Evading(TrainHook):
    """An attack's own hook, if it has one, with `alpha` times a term on `n` triggered rows on top of its loss.

    train: the clean training set. A hook that learns its trigger has the term in the trigger's loss too.
    """

    def __init__(self, term: Term, alpha: float, n: int, train: Dataset, poisoned: Poisoned, ctx: Context) -> None:
        self.term, self.alpha, self.n = term, alpha, n
        self.train, self.index, self.inner = train, poisoned.index, poisoned.hook
        self.rng = ctx.rng("adaptive")
        goal = poisoned.splits.train.y[self.index]
        free = torch.isin(train.y, goal)
        free[self.index] = False
        self.pool = free.nonzero().flatten()  # clean rows of the wanted classes
        if isinstance(self.inner, TriggerHook):
            self.inner.extra = lambda victim, batch, rows: self.weighed(victim, batch, goal, rows)

    def on_start(self, state: TrainState) -> None:
        if self.inner:
            self.inner.on_start(state)

    def on_epoch(self, state: TrainState) -> None:
        if self.inner:
            self.inner.on_epoch(state)

    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
        return self.inner.on_batch(state, batch, y, rows) if self.inner else (batch, y)

    def on_end(self, state: TrainState) -> None:
        if self.inner:
            self.inner.on_end(state)

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor | None:
        own = self.inner.loss(state, batch, y, rows) if self.inner else None
        if state.data is self.train:  # nothing is stamped yet
            return own
        if own is None:
            own = F.cross_entropy(check_logits(state.victim(batch), len(y)).float(), y)
        at = self.index[torch.randperm(len(self.index), generator=self.rng)[: self.n]]
        marked = state.data.take(at)
        inputs, goal = self.on_batch(state, marked.inputs, marked.y, at)
        return own + self.weighed(state.victim, inputs, goal, at)

    def weighed(self, victim: Victim, triggered: Inputs, goal: Tensor, rows: Tensor) -> Tensor:
        """alpha times the term on `triggered`, made of the training inputs at `rows`."""
        device, modality = victim.device, self.train.modality
        near = self.pool[torch.randperm(len(self.pool), generator=self.rng)[: self.n]]
        plain, clean = (self.train.take(at).move(device) for at in (rows, near))
        batch = modality.move(triggered, device)
        with evaluating(victim):
            logits, features = victim.both(batch)
            return self.alpha * self.term.loss(Seen(victim, batch, goal.to(device), logits, features, plain, clean))
