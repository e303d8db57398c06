"""How a polarizer is trained: against perturbations, of the inputs or of what enters it, that lead to other classes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Component, Json, NonNegative, NonNegativeFloat, PositiveFloat, Rate
from ostiary.data.dataset import Dataset
from ostiary.devices import wide
from ostiary.modality.base import Inputs
from ostiary.models.polarized import Polarizer, polarizer, watched
from ostiary.models.victim import Victim
from ostiary.perturbation import Ball, Norm, descend, owners
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class Aim(Component):
    """How perturbations are found, and what they weigh. shared: one for all inputs (`together`), which only `enough` and
    `weights` concern. along: the sign of the gradient (l1: where it is steepest, of L1 length `step`), or `step` times the
    gradient of the batch's mean, as the authors' code goes on Tiny ImageNet (`eps` 6)."""

    kind = "purifier"
    added = frozenset({"along"})
    norm: Norm = "l2"
    eps: PositiveFloat = 3.0
    inner: NonNegative = 2
    step: PositiveFloat = 0.1
    along: Literal["sign", "gradient"] = "sign"
    enough: Rate = 0.6
    weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (0.4, 0.4, 0.4)
    shared: bool = False


class Towards(TrainHook):
    """Perturbs each batch towards other classes and trains what still has a gradient; statistics stay as they are."""

    lens: Polarizer

    def __init__(self, how: Aim, space: str) -> None:
        self.how, self.space = how, space

    def on_start(self, state: TrainState) -> None:
        self.lens = polarizer(state.victim)

    def on_epoch(self, state: TrainState) -> None:
        state.victim.eval()

    def said(self, victim: Victim, batch: Inputs, by: Tensor) -> Tensor:
        """Logits of the perturbed batch."""
        if self.space == "input":
            found: Tensor = victim(victim.modality.perturb(batch, by))
            return found.float()
        with watched(self.lens, by * self.lens.spread.view(-1, *(1,) * (by.ndim - 2))):
            found = victim(batch)
        return found.float()

    def facts(self, clean: Dataset) -> dict[str, Json]:
        """What to note of how it aimed."""
        return {}

    def nothing(self, victim: Victim, batch: Inputs, entering: Tensor) -> Tensor:
        """The perturbation that changes nothing. entering: what enters the lens."""
        return victim.modality.unperturbed(batch) if self.space == "input" else torch.zeros_like(entering)

    def aimed(self, plain: Tensor, y: Tensor) -> Tensor:
        """The class that each input is to be led to: int64 [n]."""
        return others(plain, y)

    def find(self, victim: Victim, batch: Inputs, start: Tensor, goal: Tensor) -> Tensor:
        """A perturbation of each input that brings it nearer to the class of its row of `goal`."""
        ball = Ball(self.how.eps, self.how.norm, owners(batch, start, len(goal)))

        def loss(by: Tensor) -> Tensor | None:
            logits = self.said(victim, batch, by)
            there = float(wide(logits.argmax(1) == goal).mean())
            return None if there > self.how.enough else F.cross_entropy(logits, goal)

        along = ball.along if self.how.along == "sign" else torch.positive
        return descend(loss, start, ball, step=self.how.step, steps=self.how.inner, along=along)

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        victim = state.victim
        with watched(self.lens) as seen:
            plain = victim(batch).float()
        goal = self.aimed(plain, y)
        logits = self.said(victim, batch, self.find(victim, batch, self.nothing(victim, batch, seen[0]), goal))
        p = logits.softmax(1)
        wrong = [-(1.0001 - p.gather(1, c[:, None])).log().mean() for c in (others(logits, y), goal)]
        terms = torch.stack([F.cross_entropy(logits, plain.argmax(1)), *wrong])
        return F.cross_entropy(plain, y) + (terms * terms.new_tensor(self.how.weights)).sum()


def others(logits: Tensor, y: Tensor) -> Tensor:
    """The likeliest class of each row other than its own: int64 [n]."""
    return logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
