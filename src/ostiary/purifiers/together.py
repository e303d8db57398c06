"""One perturbation for all inputs of a batch, towards the class that such a one is first to reach: where a backdoor leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Json
from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.models.polarized import watched
from ostiary.models.victim import Victim
from ostiary.perturbation import stride
from ostiary.purifiers.polarizing import Aim, Towards, others
from ostiary.training.trainer import TrainState

Way = Iterator[tuple[Tensor, float]]
SHARES = (1 / 64, 1.0)  # of a perturbation's entries that a step moves: as many as a patch has, or all
STRIDE = 0.015  # of a step in the search for the class: root mean square over all entries
REACHED, LONGEST = 0.6, 40  # share of the sample that ends the search, and steps of it at most


@dataclass(frozen=True)
class Goal:
    """A class, the share of entries a step moves, how far it led the mean other class (in rates), and after how many steps."""

    label: int = 0
    share: float = 1.0
    lead: float = 0.0
    steps: int = 1


class Together(Towards):
    """Before training, perturbations shared by all clean samples climb towards every class, in two shapes (few entries, all);
    that of the larger lead is kept. Each batch is then perturbed as one, by up to twice as many steps, three times as long."""

    def __init__(self, how: Aim, space: str) -> None:
        super().__init__(how, space)
        self.best, self.goal, self.goals = Goal(), Goal(), list[Goal]()

    def on_start(self, state: TrainState) -> None:
        super().on_start(state)
        if self.goals:  # trained again, from the same start
            return
        victim, data = state.victim.eval(), state.data.move(state.victim.device)
        with watched(self.lens) as seen, torch.no_grad():
            victim(one := data.take(torch.arange(1, device=victim.device)).inputs)
        start = self.nothing(victim, one, seen[0])
        found = [self.first(victim, data.inputs, start, data.y, data.n_classes, share) for share in SHARES]
        self.best = max(found, key=lambda goal: goal.lead)
        self.goals = [goal for goal in found if goal.label == self.best.label]

    def facts(self, clean: Dataset) -> dict[str, Json]:
        return {"aimed at": clean.classes[self.best.label], "lead": self.best.lead, "entries": self.best.share}

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        self.goal = self.goals[state.step % len(self.goals)]
        return super().loss(state, batch, y, rows)

    def first(self, victim: Victim, batch: Inputs, start: Tensor, y: Tensor, classes: int, share: float) -> Goal:
        """The class reached first, with steps of this shape."""
        steps, ways = 0, [self.climb(victim, batch, start, y != c, Goal(c, share), STRIDE) for c in range(classes)]
        rates = torch.zeros(classes)
        while steps < LONGEST and float(rates.max()) <= REACHED:
            rates, steps = torch.tensor([next(way)[1] for way in ways]), steps + 1
        best, most = int(rates.argmax()), float(rates.max())
        return Goal(best, share, most - (float(rates.sum()) - most) / max(1, classes - 1), max(1, steps - 1))

    def climb(self, victim: Victim, batch: Inputs, start: Tensor, away: Tensor, to: Goal, size: float) -> Way:
        """Shared perturbations towards a class, from none, each with the rate at which it leads the inputs `away` there."""
        by, rows = start[:1], torch.arange(len(away), device=away.device).split(victim.modality.chunk)
        while True:
            slope, hits = torch.zeros_like(by), 0
            for at in rows:  # with gradients, the whole sample may be too much at once
                part = victim.modality.take(batch, at) if len(rows) > 1 else batch
                logits = self.said(victim, part, by.requires_grad_())[away[at]]
                goal = torch.full_like(logits.argmax(1), to.label)
                slope += torch.autograd.grad(F.cross_entropy(logits, goal, reduction="sum"), by)[0]
                hits += int((logits.argmax(1) == goal).sum())
            by = by.detach()
            yield by, hits / max(1, int(away.sum()))
            by = by - stride(slope, to.share, size)

    def aimed(self, plain: Tensor, y: Tensor) -> Tensor:
        return torch.where(y == self.goal.label, others(plain, y), self.goal.label)

    def find(self, victim: Victim, batch: Inputs, start: Tensor, goal: Tensor) -> Tensor:
        away, by = goal == self.goal.label, start[:1]
        if not bool(away.any()):
            return by
        way = self.climb(victim, batch, start, away, self.goal, 3 * STRIDE)
        for _ in range(2 * self.goal.steps + 1):
            by, rate = next(way)
            if rate > self.how.enough:
                break
        return by
