"""The hook that trains any attack against a defence as well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import Poisoned, TriggerHook
from ostiary.attacks.terms import Seen, Term
from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, check_logits
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class Evading(TrainHook):
    """An attack's own hook, if it has one, with `alpha` times a term on the triggered rows of each batch on top.

    train: the clean training set. A hook that learns its trigger has the term in the trigger's loss too.
    """

    def __init__(self, term: Term, alpha: float, train: Dataset, poisoned: Poisoned) -> None:
        self.term, self.alpha = term, alpha
        self.train, self.index, self.inner = train, poisoned.index, poisoned.hook
        self.at = self.index[:0]  # places of triggered rows in the batch
        self.marked: Inputs = None  # those rows before augmentation
        goal = poisoned.splits.train.y[self.index]
        free = torch.isin(train.y, goal)
        free[self.index] = False
        self.free = free.nonzero().flatten()[: len(goal)]  # as many clean rows of the wanted classes
        if isinstance(self.inner, TriggerHook):
            self.inner.extra = lambda victim, batch, rows: self.against(victim, batch, goal, rows)

    def on_start(self, state: TrainState) -> None:
        if self.inner:
            self.inner.on_start(state)

    def on_epoch(self, state: TrainState) -> None:
        if self.inner:
            self.inner.on_epoch(state)

    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
        if self.inner:
            batch, y = self.inner.on_batch(state, batch, y, rows)
        self.at = torch.isin(rows, self.index).nonzero().flatten()
        self.marked = self.train.modality.take(batch, self.at)
        return batch, y

    def on_end(self, state: TrainState) -> None:
        if self.inner:
            self.inner.on_end(state)

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor | None:
        own = self.inner.loss(state, batch, y, rows) if self.inner else None
        if state.data is self.train or not len(self.at):  # nothing is stamped, yet or here
            return own
        victim, at = state.victim, self.at.to(y.device)
        logits, features = victim.both(batch)
        if own is None:
            own = F.cross_entropy(check_logits(logits, len(y)).float(), y)
        clean = torch.isin(y, y[at])
        clean[at] = False
        marked, plain = self.train.modality.move(self.marked, y.device), self.train.take(rows[self.at]).move(y.device)
        seen = Seen(victim, marked, y[at], logits[at], features[at], plain, features[clean], y[clean])
        return own + self.alpha * self.term.loss(seen)

    def against(self, victim: Victim, triggered: Inputs, goal: Tensor, rows: Tensor) -> Tensor:
        """alpha times the term on `triggered`, made of the training inputs at `rows`, for a trigger to learn from."""
        plain, clean = (self.train.take(at).move(victim.device) for at in (rows, self.free))
        logits, features = victim.both(triggered)
        near = victim.features(clean.inputs).detach()
        seen = Seen(victim, triggered, goal.to(victim.device), logits, features, plain, near, clean.y)
        return self.alpha * self.term.loss(seen)
